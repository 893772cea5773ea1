"""The inbox: acked events that are not yet in the ledger, in a Redis stream. Knows no HTTP and no SQL."""
