"""The callers' own webhooks as deliveries: which sink serves them, which lane each address belongs to, and how many
places each caller may take. Pure.

A lane is `callback <key> <origin>`: so that callers stand apart, and one that names a hundred origins is still one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from handlers.support.url import PORTS, origin

# The sink that is in no config: it serves the address that a submission's caller gave. The name is reserved.
CALLBACK: Final = "callback"
# The part of the places for sends that one caller may take of those which others leave free.
SHARE: Final = 0.5
# The route of such a delivery, as lists show it.
ROUTE: Final = "caller"


def lane_of(url: str, key_id: str) -> str:
    """Return the lane of an address that the caller with this key gave: one breaker, and a few places.

    Text that is not an address has a lane as well; its delivery is refused when it is sent.
    """
    return f"{CALLBACK} {key_id} {origin_of(url)}"


def origin_of(url: str) -> str:
    """Return the origin of an address as lanes and lists show it; "nowhere" for text that is not an address."""
    parsed = origin(url.strip())
    host = parsed.host[:253].rstrip(".") if parsed else ""
    if parsed is None or not host or not host.isprintable() or " " in host or parsed.scheme not in PORTS:
        return "nowhere"
    return str(parsed._replace(host=host))


def origin_in(lane: str) -> str:
    """Return the origin that a lane is about."""
    return lane.rpartition(" ")[2]


def key_in(lane: str) -> str:
    """Return the id of the key whose caller a lane belongs to; "" for the lanes of other sinks."""
    parts = lane.split(" ")
    return parts[1] if len(parts) == 3 else ""


def behind(key_id: str) -> str:
    """Return what sorts behind all lanes of a key, in every collation: origins begin with http, or are "nowhere"."""
    return f"{CALLBACK} {key_id} z"


def room(key_id: str, taken: Mapping[str, int], places: int) -> int:
    """Return how many more of the `places` a caller may take, at least one in all. `taken`: by key.

    What has no key may take all.
    """
    if not key_id:
        return places
    mine = taken.get(key_id, 0)
    free = places - (sum(taken.values()) - mine)
    return max(int(free * SHARE), 1) - mine
