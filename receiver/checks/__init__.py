"""Heartbeats, the state of processes and stores, and the checks of `runhook status` and `runhook doctor`."""
