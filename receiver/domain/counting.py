"""How many of something there are, in words."""

from __future__ import annotations


def counted(count: int | str, one: str, many: str) -> str:
    """Return `count` with the words for one of them, or for many: "1 event waits", "2 events wait"."""
    return f"{count} {one if str(count) == '1' else many}"
