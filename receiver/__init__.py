"""From the webhook to the deliveries: ingest, dispatch, deliver, submit, reconcile. See docs/architecture.md."""

__version__ = "0.1.0"
