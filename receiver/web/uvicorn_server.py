"""uvicorn's server with a second port, and a stop that counts as success."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, NamedTuple

import uvicorn

from receiver.runtime.stop import stop_signals
from receiver.web.server import LEAVE_WITHIN

# Seconds between two updates of the Date header.
TICK: Final = 1.0


class AdminListener(NamedTuple):
    """A second socket of the same server. `protocol` makes its connections."""

    socket: socket.socket
    protocol: Callable[..., asyncio.Protocol]


class WebServer(uvicorn.Server):
    """A server whose `run` returns after SIGTERM, SIGINT or SIGHUP. Stock uvicorn raises the signal again.

    `on_stop`: called at the beginning of a stop, to end held requests.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        on_stop: Callable[[], None] = lambda: None,
        admin: AdminListener | None = None,
    ) -> None:
        super().__init__(config)
        self._on_stop = on_stop
        self._admin = admin
        self._wake: Callable[[], object] = lambda: None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start as uvicorn does, then listen on the admin port as well."""
        await super().startup(sockets)
        if self._admin is None:
            return
        make, loop = self._admin.protocol, asyncio.get_running_loop()
        named = {"config": self.config, "server_state": self.server_state, "app_state": self.lifespan.state}
        self.servers.append(
            await loop.create_server(
                lambda: make(**named, _loop=loop), sock=self._admin.socket, backlog=self.config.backlog
            )
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let held requests end, then stop as uvicorn does."""
        self._on_stop()
        await super().shutdown([*(sockets or []), *([self._admin.socket] if self._admin else [])])
        # Python waits for its threads, and one that waits for a ledger that hangs would keep the process.
        leave = threading.Timer(LEAVE_WITHIN, os._exit, (0,))
        leave.daemon = True
        leave.start()

    async def main_loop(self) -> None:
        """Wait for a stop, and renew the Date header: uvicorn does so too, but wakes up ten times a second."""
        stops, loop = asyncio.Event(), asyncio.get_running_loop()
        self._wake = lambda: loop.call_soon_threadsafe(stops.set)
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                await asyncio.wait_for(stops.wait(), TICK)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Stop, as uvicorn does."""
        super().handle_exit(sig, frame)
        self._wake()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGHUP as well, and raise no signal again at the end."""
        with stop_signals(self.handle_exit):
            yield
