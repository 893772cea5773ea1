"""Who may act and what was done: API keys, sessions of the console, the audit."""
