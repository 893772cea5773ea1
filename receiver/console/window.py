"""The time that a page with charts looks at, as its URL says it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from receiver.console.charts import Buckets
from receiver.console.page import PATH, Query
from receiver.errors import Invalid

# The name in the query.
NAME: Final = "window"


@dataclass(frozen=True, slots=True)
class Window:
    """`name`: as in the query, and as filters take it for a time ago. `seconds` of each of `count` buckets."""

    name: str
    words: str
    seconds: float
    count: int

    def buckets(self, now: float) -> Buckets:
        """Return the stretches of time up to now."""
        return Buckets.until(now, self.seconds, self.count)


WINDOWS: Final[Sequence[Window]] = (
    Window("1h", "last hour", 60, 60),
    Window("24h", "last 24 hours", 1800, 48),
    Window("7d", "last 7 days", 10_800, 56),
)
_USUAL: Final = WINDOWS[1]


def window_of(query: Query) -> Window:
    """Return the window that a query asks for. Raises Invalid."""
    asked = dict(query).get(NAME) or _USUAL.name
    if (found := next((each for each in WINDOWS if each.name == asked), None)) is None:
        raise Invalid(f"{NAME}: must be {', '.join(each.name for each in WINDOWS)}")
    return found


def window_links(path: str, query: Query, chosen: Window) -> list[dict[str, object]]:
    """Return the links to the same page with each window."""
    rest = [(name, value) for name, value in query if value and name != NAME]
    return [
        {
            "name": each.name,
            "words": each.words,
            "path": f"{PATH}{path}?{urlencode([*rest, (NAME, each.name)])}",
            "chosen": each == chosen,
        }
        for each in WINDOWS
    ]
