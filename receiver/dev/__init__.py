"""Components that only `runhook dev` uses: a Valkey, and a tunnel to a public URL."""
