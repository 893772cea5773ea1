"""A submit request before it is sent: checked and prepared. Nothing here reads the ledger or asks Skyvern."""
