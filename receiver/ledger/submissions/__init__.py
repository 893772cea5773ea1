"""Submissions in the ledger: their life, their run, what is polled for them, who may see them."""
