"""Move events from the inbox to the ledger: parse, deduplicate and route them, and create their deliveries."""
