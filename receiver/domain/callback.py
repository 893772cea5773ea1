"""The callers' own webhooks as deliveries: which sink serves them, and which lane each address belongs to. Pure."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from receiver.config.models import CALLBACK

SINK: Final = CALLBACK
"""The sink that stands in no config: it serves the address that a submission's caller gave."""
ROUTE: Final = "caller"
"""What lists show as the route of such a delivery."""

_PORTS = {"http": 80, "https": 443}


def lane_of(url: str) -> str:
    """The lane of a caller's address: one breaker and one share of the places for each origin.

    What is no address has a lane as well; its delivery is refused when it is sent.
    """
    try:
        parts = urlsplit(url.strip())
        host, port = (parts.hostname or "")[:253].rstrip("."), parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        host, port = "", 0
    if not host or not host.isprintable() or parts.scheme not in _PORTS:
        return f"{SINK} nowhere"
    shown = f"[{host}]" if ":" in host else host
    return f"{SINK} {parts.scheme}://{shown}" + ("" if port == _PORTS[parts.scheme] else f":{port}")
