"""A submit as it comes, checked and prepared: nothing here asks the ledger or Skyvern."""
