"""Processes, child processes, locks, throttles and Redis connections for all components."""
