"""Which processes are running, what is wrong, and how to fix it."""
