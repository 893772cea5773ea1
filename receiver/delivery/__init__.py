"""From a claimed delivery to its outcome in the ledger: claim, send, settle."""
