"""The numbers in ids of runs as Skyvern makes them: they sort by the second in which the run was made. Pure."""

from __future__ import annotations

from typing import Final

# Seconds since 1970 from which on Skyvern counts (skyvern/forge/sdk/db/id.py).
_EPOCH: Final = 1655683200
# Bits below the second: of who makes it and how many it has made, and one of the version, which is 0.
_MAKER: Final = (1 << 31) - 1


def run_number(now: float, maker: int) -> int:
    """Return the number of a run that is made at `now`, seconds since 1970.

    `maker`: what tells it from the others of that second, modulo 2^31.
    """
    return (int(now) - _EPOCH & 0xFFFFFFFF) << 32 | (maker & _MAKER) << 1
