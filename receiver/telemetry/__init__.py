"""Logs and counters of the processes."""
