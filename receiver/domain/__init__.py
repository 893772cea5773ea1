"""The project's values and decisions. Pure: no I/O and no clock; a time that matters is passed in."""
