"""What the author of a sink runs against it: the conformance suite, and deliveries to try it with."""
