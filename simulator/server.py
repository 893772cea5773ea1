"""Serving a simulation: in the foreground for the command, in a thread for tests. Knows no run."""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Self

import uvicorn
from starlette.applications import Starlette

from receiver.errors import NotStarted
from receiver.runtime.background import start_thread
from receiver.runtime.stop import stop_signals


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens at `host`; `port` 0 takes a free one. Raises NotStarted."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        why = "the port is in use" if error.errno == errno.EADDRINUSE else (error.strerror or str(error)).lower()
        raise NotStarted(
            f"can't listen on {host}:{port}: {why.partition(' (while')[0]}; choose another with --port or --host"
        ) from None


class _Server(uvicorn.Server):
    """uvicorn's, which leaves signals to us: its own way ends in a second signal after a clean stop."""

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        stop = getattr(self.config.app, "stop", None)
        if stop is not None:
            stop()
        await super().shutdown(sockets)


def _server(app: Starlette) -> _Server:
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=1,
        timeout_keep_alive=75,  # a client that keeps idle connections for as long as the server loses a request
        lifespan="on",
        server_header=False,
    )
    return _Server(config)


def serve(app: Starlette, sock: socket.socket) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP."""
    server = _server(app)
    with stop_signals(server.handle_exit):
        server.run(sockets=[sock])


class Serving:
    """A simulation served by a thread of this process. `url`: where. Use as a context manager."""

    def __init__(self, app: Starlette, port: int = 0) -> None:
        self._sock = listen("127.0.0.1", port)
        self._server = _server(app)
        self._thread: threading.Thread | None = None
        self.url = f"http://127.0.0.1:{self._sock.getsockname()[1]}"

    def __enter__(self) -> Self:
        thread = self._thread = start_thread("simulate", self._run)
        while not self._server.started:
            if not thread.is_alive():
                raise NotStarted("the simulation did not start")
            thread.join(0.005)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.join()

    def stop(self) -> None:
        """Begin to stop."""
        self._server.should_exit = True

    def join(self) -> None:
        """Wait until it has stopped."""
        if self._thread is not None:
            self._thread.join(10)
        self._sock.close()

    def _run(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._sock]))
