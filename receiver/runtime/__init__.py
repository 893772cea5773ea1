"""Processes, child processes, locks, throttles and Redis connections: what the parts run on."""
