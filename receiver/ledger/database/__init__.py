"""Connect to the database: transactions, its clock and errors, and what differs between SQLite and PostgreSQL."""
