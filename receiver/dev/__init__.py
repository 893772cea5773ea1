"""What only `runhook dev` runs on: its own Valkey, a tunnel to a public URL, and the lines of several programs."""
