"""The HTTP server around the application: its listener, and how it stops. Knows no route."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

from receiver.errors import NotStarted

BACKLOG = 2048
"""Connections that may wait to be accepted."""
LEAVE_WITHIN = 1.0
"""Seconds that the process takes to end at the most, once all is answered, written and closed."""
STOP_TIMEOUT = 5
"""Seconds that requests in flight have to end when the process is stopped."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises NotStarted when the address can't be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        reason = "the port is in use" if error.errno == 98 else str(error.strerror or error).lower()
        raise NotStarted(f"can't listen on {display_host(host)}:{port}: {reason}; choose another with --port") from None
    listener.set_inheritable(False)
    return listener


def display_host(host: str) -> str:
    """`host` as it stands in a URL."""
    return f"[{host}]" if ":" in host else host


def make_server(app: Any, config: Any) -> Any:
    """A uvicorn server for `app` with a uvicorn.Config, which returns from `run` after SIGTERM or SIGINT."""
    import uvicorn

    class Server(uvicorn.Server):
        """uvicorn's server, except that a stop that was asked for is a success: stock raises the signal again; that
        the application hears of the stop before it is waited for; and that no thread keeps the process for ever: one
        that asks a ledger that hangs comes back with the ledger, and Python waits for it."""

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            app.stop()
            await super().shutdown(sockets)
            leave = threading.Timer(LEAVE_WITHIN, os._exit, (0,))
            leave.daemon = True
            leave.start()

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            with super().capture_signals():
                yield
                self._captured_signals.clear()

    return Server(config)
