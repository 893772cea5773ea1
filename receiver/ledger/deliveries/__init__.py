"""Deliveries and attempts in the ledger: claims, outcomes, recovery, order, replay."""
