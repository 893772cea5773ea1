"""Tools for authors of sinks: the conformance suite, and sample deliveries."""
