"""From a claimed delivery to its outcome in the ledger: claim, send, settle.

The worker has one runner per sink; `dispatch` hands new deliveries to it in memory.
"""
