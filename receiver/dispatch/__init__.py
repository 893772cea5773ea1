"""Move events from the inbox to the ledger: parse, deduplicate and route them, and create their deliveries.

The worker runs it at a wake-up; `reconcile` hands it polled and imported results.
"""
