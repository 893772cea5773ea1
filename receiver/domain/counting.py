"""How many of something there are, in words."""

from __future__ import annotations


def counted(count: int | str, singular: str, many: str) -> str:
    """Return `count` with the words for one, or for many: "1 event waits", "2 events wait"."""
    return f"{count} {singular if str(count) == '1' else many}"
