"""Ranges of a file (RFC 9110): which part a request asks for. Pure."""

from __future__ import annotations

import re
from typing import Final

_RANGE: Final = re.compile(r"bytes=[ \t]*(\d{0,18})-(\d{0,18})[ \t]*", re.IGNORECASE)


def range_of(header: str, if_range: str, etag: str, size: int) -> tuple[int, int] | None:
    """Return from where up to where a file of `size` bytes is wanted; all of it without a range, for several at once,
    for what is no range, and when `if_range` names another version.

    None for one that no byte is in.
    """
    found = _RANGE.fullmatch(header)
    if found is None or found[0].endswith("=-") or (if_range and if_range.strip() != etag):
        return 0, size
    first, last = found[1], found[2]
    if not first and not last:
        return 0, size
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < start:
            return 0, size
    return (start, end) if start < end else None
