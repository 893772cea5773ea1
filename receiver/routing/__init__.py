"""Which sinks an event goes to: the rules, as mappings or CEL. It knows no config file."""
