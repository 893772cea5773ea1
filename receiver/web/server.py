"""The HTTP server around the application: its listener, and how it stops. Knows no route."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from receiver.errors import NotStarted
from receiver.runtime.process import hang_up

# Connections that may wait to be accepted.
BACKLOG = 2048
# Seconds within which the process ends once everything is answered, written and closed.
LEAVE_WITHIN = 1.0
# Seconds that requests in flight have to end when the process is stopped.
STOP_TIMEOUT = 5
# Seconds between two updates of the Date header.
TICK = 1.0


def listen(host: str, port: int, option: str = "--port") -> socket.socket:
    """Return a listening socket; port 0 takes a free one. Raises NotStarted when the address can't be used.

    `option`: what chooses another.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        reason = "the port is in use" if error.errno == errno.EADDRINUSE else str(error.strerror or error).lower()
        if option == "--port" and (error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror)):
            option = "--host"
        raise NotStarted(
            f"can't listen on {display_host(host)}:{port}: {reason}; choose another with {option}"
        ) from None
    listener.set_inheritable(False)
    return listener


def url_of(listener: socket.socket) -> str:
    """Return where a listening socket is reached."""
    host, port = listener.getsockname()[:2]
    return f"http://{display_host(host)}:{port}"


def display_host(host: str) -> str:
    """Return `host` as it is written in a URL."""
    return f"[{host}]" if ":" in host else host


class AdminListener(NamedTuple):
    """A second socket of the same server. `protocol` makes its connections."""

    socket: socket.socket
    protocol: Callable[..., asyncio.Protocol]


def make_server(app: Any, config: Any, admin: AdminListener | None = None) -> Any:
    """Return a uvicorn server for `app`, whose `run` returns after SIGTERM, SIGINT or SIGHUP.

    `config`: a uvicorn.Config.
    """
    import uvicorn

    class Server(uvicorn.Server):
        """uvicorn's server with a second port, and a stop that counts as success (stock raises the signal again)."""

        wake: Callable[[], Any] = staticmethod(lambda: None)

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            """Start as uvicorn does, then listen on the admin port as well."""
            await super().startup(sockets)
            if admin is not None:
                loop = asyncio.get_running_loop()
                more = await loop.create_server(
                    lambda: admin.protocol(
                        config=config, server_state=self.server_state, app_state=self.lifespan.state, _loop=loop
                    ),
                    sock=admin.socket,
                    backlog=config.backlog,
                )
                self.servers.append(more)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            """Let held requests end, then stop as uvicorn does."""
            app.stop()
            await super().shutdown([*(sockets or []), *([admin.socket] if admin else [])])
            # Python waits for its threads, and one that waits for a ledger that hangs would keep the process.
            leave = threading.Timer(LEAVE_WITHIN, os._exit, (0,))
            leave.daemon = True
            leave.start()

        async def main_loop(self) -> None:
            """Wait for a stop, and renew the Date header: uvicorn does so too, but wakes up ten times a second."""
            stops = asyncio.Event()
            self.wake = partial(asyncio.get_running_loop().call_soon_threadsafe, stops.set)
            while not await self.on_tick(0):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stops.wait(), TICK)

        def handle_exit(self, sig: int, frame: Any) -> None:
            """Stop, as uvicorn does."""
            super().handle_exit(sig, frame)
            self.wake()

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            """Handle SIGHUP as well, and raise no signal again at the end."""
            numbers = (signal.SIGTERM, signal.SIGINT, *hang_up())
            before = {number: signal.signal(number, self.handle_exit) for number in numbers}
            yield
            for number, handler in before.items():
                signal.signal(number, handler)

    return Server(config)
