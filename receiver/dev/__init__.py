"""Components that only `runhook dev` uses: a Valkey, a tunnel to a public URL, and the output of several programs."""
