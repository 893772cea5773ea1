"""Server-sent events on the wire, as the HTML standard defines text/event-stream."""

from __future__ import annotations

from typing import Final

HEADERS: Final = {"cache-control": "no-store", "x-accel-buffering": "no", "content-type": "text/event-stream"}
# Seconds between two signs of life in a stream: proxies close a connection that is silent for a minute.
KEEP_ALIVE: Final = 15.0


def event(kind: str, event_id: str, data: bytes) -> bytes:
    """Return one event. `event_id`: what a client says when it comes back; "" leaves what it has. `data` may have
    lines."""
    lines = b"".join(b"data: " + line + b"\n" for line in data.splitlines() or [b""])
    return (
        b"event: " + kind.encode() + b"\n" + (b"id: " + event_id.encode() + b"\n" if event_id else b"") + lines + b"\n"
    )


def still_here(event_id: str = "") -> bytes:
    """Return an SSE keep-alive comment. `event_id`: as of an event."""
    return b": still here\n" + (b"id: " + event_id.encode() + b"\n" if event_id else b"") + b"\n"


def retry(seconds: float) -> bytes:
    """Return what tells a client how long to wait before it comes back."""
    return b"retry: %d\n\n" % int(seconds * 1000)
