"""The callers' own webhooks as deliveries: which sink serves them, and which lane each address belongs to. Pure."""

from __future__ import annotations

from typing import Final

from handlers.support.url import PORTS, origin

# The sink that is in no config: it serves the address that a submission's caller gave. The name is reserved.
CALLBACK: Final = "callback"
# The route of such a delivery, as lists show it.
ROUTE: Final = "caller"


def lane_of(url: str) -> str:
    """Return the lane of a caller's address: one breaker and one share of the slots for each origin.

    Text that is no address has a lane as well; its delivery is refused when it is sent.
    """
    found = origin(url.strip())
    host = found.host[:253].rstrip(".") if found else ""
    if found is None or not host or not host.isprintable() or found.scheme not in PORTS:
        return f"{CALLBACK} nowhere"
    return f"{CALLBACK} {found._replace(host=host)}"
