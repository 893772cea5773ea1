"""Large bodies of many requests at once: threads hash and pack them, while the event loop takes what comes.

Hashing and packing hold no lock of Python's, so threads bring other cores in. To hand a body over and back is two
changes of thread: what a thread has done is handed back with all else that is done by then, and alone it does not pay.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from handlers.support.daemon_pool import DaemonPool
from receiver.domain.event import event_id
from receiver.domain.packed_body import BodyPacker
from receiver.domain.signature import verify

# One alone does fewer bodies than the event loop takes in, and what waits for it is committed in small batches.
_THREADS: Final = 2


class Examined(NamedTuple):
    """`event_id`: of an authentic body, else "". `packed`: that body as the inbox keeps it, b"" where nobody asked."""

    event_id: str
    packed: bytes = b""


def authenticated_id(source: str, secrets: Sequence[str], signature: str, body: bytes) -> str:
    """Return the event id of an authentic body, else ""."""
    return event_id(source, body) if verify(body, signature, secrets) else ""


class LargeBodies:
    """For one event loop. Threads start with the first body."""

    def __init__(self) -> None:
        self._threads = DaemonPool(_THREADS, "bodies")
        self._of_thread = threading.local()
        self._done: deque[tuple[asyncio.Future[Examined], Examined | BaseException]] = deque()
        self._handing_back = False  # `_hand_back` was called, and has not begun

    def examine(
        self, source: str, secrets: Sequence[str], signature: str, body: bytes, *, packs: bool
    ) -> asyncio.Future[Examined]:
        """Find out whether `body` is authentic, and pack it if it is, and `packs`."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Examined] = loop.create_future()

        def work() -> None:
            found: Examined | BaseException
            try:
                found_id = authenticated_id(source, secrets, signature, body)
                found = Examined(found_id, self._packer().pack(body) if found_id and packs else b"")
            except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
                found = error
            self._done.append((future, found))
            if not self._handing_back:
                self._handing_back = True
                with suppress(RuntimeError):  # the loop is closed, and nobody waits any more
                    loop.call_soon_threadsafe(self._hand_back)

        self._threads.submit(work)
        return future

    def _packer(self) -> BodyPacker:
        packer: BodyPacker | None = getattr(self._of_thread, "packer", None)
        if packer is None:
            packer = self._of_thread.packer = BodyPacker()
        return packer

    def _hand_back(self) -> None:
        self._handing_back = False  # first: what is done from now on may come too late for this call
        while self._done:
            future, found = self._done.popleft()
            if future.done():  # its request was cancelled
                continue
            if isinstance(found, BaseException):
                future.set_exception(found)
            else:
                future.set_result(found)

    def close(self) -> None:
        """Let the threads end when their work is done."""
        self._threads.close()
