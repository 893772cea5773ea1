"""The HTTP server's socket and times, which do not need uvicorn. Knows no route."""

from __future__ import annotations

import errno
import socket

from receiver.errors import NotStarted

# Connections that may wait to be accepted.
BACKLOG = 2048
# Seconds within which the process ends once everything is answered, written and closed.
LEAVE_WITHIN = 1.0
# Seconds that requests in flight have to end when the process is stopped.
STOP_TIMEOUT = 5


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
