"""The sinks, and the public names of the sink contract; see docs/how-to/writing-a-sink.md.

This package never imports `receiver`: a sink sees a delivery, not how it was received.
"""

from handlers.contract import (
    Artifact,
    Delivery,
    Notification,
    Receipt,
    Refused,
    Services,
    Sink,
    SinkError,
    SinkOptions,
    Unavailable,
)

__all__ = [
    "Artifact",
    "Delivery",
    "Notification",
    "Receipt",
    "Refused",
    "Services",
    "Sink",
    "SinkError",
    "SinkOptions",
    "Unavailable",
]
