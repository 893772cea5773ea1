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

from receiver.runtime.reload import Reload, run_again
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

    `on_stop`: called at the beginning of a stop, to end held requests. `reload`: it stops for an accepted one as well,
    and keeps its sockets open.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        on_stop: Callable[[], None] = lambda: None,
        admin: AdminListener | None = None,
        reload: Reload | None = None,
    ) -> None:
        super().__init__(config)
        self._on_stop = on_stop
        self._admin = admin
        self._reload = reload
        self._kept: dict[str, socket.socket] = {}
        self._stopping = False  # by a signal, which also ends a reload
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
        listeners = [*(sockets or []), *([self._admin.socket] if self._admin else [])]
        if self._reload and self._reload.accepted:
            self._kept = {name: each.dup() for name, each in zip(("public", "admin"), listeners, strict=False)}
        self._on_stop()
        await super().shutdown(listeners)
        # Python waits for its threads, and one that waits for a ledger that hangs would keep the process.
        leave = threading.Timer(LEAVE_WITHIN, self._leave_now)
        leave.daemon = True
        leave.start()

    def leave(self) -> None:
        """After `run`: run the command again for a reload that was accepted; else return."""
        if self._kept and not self._stopping:
            run_again(self._kept)

    def _leave_now(self) -> None:
        self.leave()
        os._exit(0)

    async def main_loop(self) -> None:
        """Wait for a stop or a reload, and renew the Date header. Stock uvicorn wakes up ten times a second."""
        stops, loop = asyncio.Event(), asyncio.get_running_loop()
        self._wake = lambda: loop.call_soon_threadsafe(stops.set)
        if self._reload:
            self._reload.wake = self._wake
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                await asyncio.wait_for(stops.wait(), TICK)
            stops.clear()
            if self._reload and self._reload.requested and await asyncio.to_thread(self._reload.accept):
                self.should_exit = True

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Stop, as uvicorn does."""
        self._stopping = True
        super().handle_exit(sig, frame)
        self._wake()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGHUP as well, and raise no signal again at the end."""
        with stop_signals(self.handle_exit, self._reload.on_hangup if self._reload else None):
            yield
