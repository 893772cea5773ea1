"""What several sinks share: the guarded HTTP client, templates, wording, locks. It knows no sink."""
