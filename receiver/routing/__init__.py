"""Choose the sinks of an event by the rules: mappings or CEL. `config` loads them, `dispatch` applies them."""
