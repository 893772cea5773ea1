"""Work on bodies, whose size callers choose: small ones are worked on at once, large ones by a thread.

The event loop serves all requests, webhooks included, so nothing of a caller's size may be computed on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

# Bytes up to which a body is worked on by the event loop: the worst of them takes a few milliseconds.
LARGEST: Final = 16 << 10

P = ParamSpec("P")
T = TypeVar("T")

# Few: threads that compute take turns with the loop, so each one more delays it as much again.
_pool: Final = ThreadPoolExecutor(2, "submit-bodies")


async def off_loop(size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what `work` returns, called by a thread when it is about a body of more than LARGEST bytes."""
    if size <= LARGEST:
        return work(*args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_pool, lambda: work(*args, **kwargs))
