"""What the API changes. Each action is in the audit, in the action's transaction where that is in the ledger."""
