"""From the inbox to the ledger: what each event says, whether it is new, and which deliveries it makes."""
