"""Parts of the application that are built once it serves webhooks, for these need less than half of what all import.

Whoever asks for one of those parts meanwhile waits for it. A part that can't be built ends the process.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Final

from handlers.support.daemon_pool import in_thread
from receiver.errors import Busy
from receiver.runtime.background import Background
from receiver.runtime.process import error_location
from receiver.web.part import WebPart

# Seconds for which an application that nobody asks for these parts does nothing but take webhooks.
BUILD_AFTER: Final = 0.25

log = logging.getLogger("runhook.web")


class LateParts:
    """Builds parts in a thread and hands them on. `make`: imports and builds them, before anything is opened.

    `add`: called in the event loop with the parts when they are open. `after`: seconds, see BUILD_AFTER.
    """

    def __init__(
        self,
        make: Callable[[], Sequence[WebPart]],
        add: Callable[[Sequence[WebPart]], None],
        background: Background,
        *,
        after: float = BUILD_AFTER,
    ) -> None:
        self._make = make
        self._add = add
        self._after = after
        self._background = background
        self._asked = asyncio.Event()
        self._ended = asyncio.Event()
        self.failure: Exception | None = None
        """Why they can't be built."""
        self.on_failure: Callable[[], None] = lambda: None
        self.on_built: Callable[[], None] = lambda: None

    async def wait(self) -> None:
        """Return when the parts are there. Raises Busy when they can't be built, or the server stops before."""
        self._asked.set()
        try:
            await self._ended.wait()
        except asyncio.CancelledError:  # the server stops, and this request has had its time
            raise Busy("the receiver stops") from None
        if self.failure is not None:
            raise Busy("the receiver did not start; its log says why")

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Build the parts within the block, and close at its end what they have opened."""
        async with AsyncExitStack() as stack:
            building = self._background.spawn("web.late_parts", self._build(stack))
            try:
                yield
            finally:
                building.cancel()
                await asyncio.wait([building])

    async def _build(self, stack: AsyncExitStack) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._asked.wait(), self._after)
        try:
            parts = await asyncio.wrap_future(in_thread("late-parts", self._make))
            for part in parts:
                if part.lifespan is not None:
                    await stack.enter_async_context(part.lifespan())
            self._add(parts)
            self.on_built()
        except Exception as error:  # noqa: BLE001 - raised again by who runs the server
            log.debug("web.not_built error=%s", error_location(error))
            self.failure = error
            self.on_failure()
        finally:
            self._ended.set()
