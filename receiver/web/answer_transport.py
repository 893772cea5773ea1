"""The transport as an answer sees it: a head goes out with what follows at once, and the last answer closes it.

Two writes would cost two calls of the system for each answer.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol


class Connection(Protocol):
    """What it stands before: receiver.web.http_protocol.HTTPProtocol. `lingers`: the last answer was given."""

    loop: asyncio.AbstractEventLoop
    transport: Any
    lingers: bool

    def close_after_answer(self) -> None:
        """Close the connection once what was written is sent."""


class AnswerTransport:
    """See the module. What the client still sends is read before the connection ends."""

    __slots__ = ("_held", "_protocol")

    def __init__(self, protocol: Connection) -> None:
        self._protocol = protocol
        self._held = b""

    def write(self, data: bytes) -> None:
        """Write `data`. What begins like a head may wait until the event loop's next round."""
        if self._held:
            data, self._held = self._held + data, b""
        elif type(data) is bytes and data.startswith(b"HTTP/1.1 "):
            self._held = data
            self._protocol.loop.call_soon(self.flush)
            return
        self._protocol.transport.write(data)

    def flush(self) -> None:
        """Write what waits, if anything does and the connection is still there."""
        data, self._held = self._held, b""
        if data and not self._protocol.transport.is_closing():  # uvloop raises where it is gone
            self._protocol.transport.write(data)

    def is_closing(self) -> bool:
        """Return whether nothing more can be written."""
        return self._protocol.lingers or self._protocol.transport.is_closing()

    def close(self) -> None:
        """Close the connection, once what was written is sent and what is on its way has come."""
        self.flush()
        self._protocol.close_after_answer()
