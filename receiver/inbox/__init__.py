"""The inbox: acknowledged events that are not yet in the ledger, in a Redis stream.

`ingest` writes it, `dispatch` reads it. No HTTP and no SQL here.
"""
