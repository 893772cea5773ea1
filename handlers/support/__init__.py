"""Code shared by sinks: the guarded HTTP client, templates, wording, locks."""
