"""Post HTTP requests over keep-alive connections: as fast as responses come, or at fixed times.

One thread and one epoll. Requests are built and signed before timing starts, so the client uses little CPU during the
test. All times are those of `time.monotonic()`, which the processes of a machine share.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import select
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tests.support.run_ids import run_id

SECRET: Final = "bench-secret"
WEBHOOKS: Final = "/webhooks/skyvern"
FLAT_OUT: Final = float("inf")
# Seconds without any response before the run fails.
PATIENCE: Final = 60.0


@dataclass(frozen=True, slots=True)
class Request:
    """A complete HTTP request as bytes. `key`: identifies its effect, such as the run id."""

    key: str
    data: bytes


@dataclass
class Posted:
    """What was posted. `due`: when each request was to be sent, by key; `took`: seconds until each response."""

    due: dict[str, float] = field(default_factory=dict)
    took: list[float] = field(default_factory=list)
    ended: float = 0.0

    @property
    def began(self) -> float:
        """Return when the first request was due."""
        return min(self.due.values())

    @property
    def rate(self) -> float:
        """Return the responses per second."""
        return len(self.took) / (self.ended - self.began)


def run(number: int, **fields: Any) -> dict[str, Any]:
    """Return the result of a run: about 2 kB of JSON. `fields`: added to it."""
    lines = [{"name": "x" * 40, "n": n} for n in range(25)]
    return {
        "run_id": run_id(number),
        "run_type": "task_v1",
        "status": "completed",
        "created_at": "2026-11-24T14:05:09.165039",
        "modified_at": "2026-11-24T14:06:11.165039",
        "output": {"number": number, "total": number * 1.5, "lines": lines},
        **fields,
    }


def dumps(value: Mapping[str, Any]) -> bytes:
    """Return the bytes of a JSON body."""
    return json.dumps(value, separators=(",", ":")).encode()


def post_request(port: int, path: str, content: bytes, headers: Mapping[str, str] = {}) -> bytes:
    """Return the bytes of a POST."""
    more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: */*\r\nUser-Agent: python-httpx/0.28.1\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n{more}\r\n"
    )
    return head.encode() + content


def webhook(port: int, body: Mapping[str, Any], path: str = WEBHOOKS) -> Request:
    """Return the signed webhook of a run."""
    content = dumps(body)
    signature = hmac.digest(SECRET.encode(), content, hashlib.sha256).hex()
    headers = {"x-skyvern-timestamp": "1767225600", "x-skyvern-signature": signature}
    return Request(str(body["run_id"]), post_request(port, path, content, headers))


def webhooks(port: int, numbers: Iterable[int]) -> list[Request]:
    """Return the signed webhooks of the runs with these numbers."""
    return [webhook(port, run(number)) for number in numbers]


def post(
    port: int, requests: list[Request], rate: float = FLAT_OUT, connections: int = 64, status: int = 202
) -> Posted:
    """Send each request once: on any idle connection, or at `rate` per second. Returns after the last response.

    Raises SystemExit when a response has another status, or on a timeout of PATIENCE seconds.
    """
    wanted, done = f"HTTP/1.1 {status}".encode(), Posted()
    poll, open_ones = select.epoll(), dict[int, socket.socket]()
    for _ in range(min(connections, len(requests))):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        open_ones[connection.fileno()] = connection
        poll.register(connection.fileno(), select.EPOLLIN)
    try:
        idle, sent_at = list(open_ones), dict[int, float]()
        left, began = iter(requests), time.monotonic() + 0.01
        following = next(left, None)
        while following or sent_at:
            now = time.monotonic()
            due = now if rate == FLAT_OUT else began + len(done.due) / rate
            while following and idle and due <= now:
                handle = idle.pop()
                open_ones[handle].sendall(following.data)
                sent_at[handle] = done.due[following.key] = due
                following = next(left, None)
                due = time.monotonic() if rate == FLAT_OUT else began + len(done.due) / rate
            wait = max(0.0, due - time.monotonic()) if following and idle else PATIENCE
            # select() counts microseconds, epoll milliseconds.
            if not select.select([poll], [], [], wait)[0] and wait == PATIENCE:
                raise SystemExit(f"{len(sent_at)} of {len(requests)} requests have no response after {PATIENCE:.0f} s")
            for handle, _ in poll.poll(0):
                answer = open_ones[handle].recv(65536)
                while answer.startswith(wanted) and not _is_whole(answer):  # head and body may arrive separately
                    answer += open_ones[handle].recv(65536) or b"\r\n\r\n"
                if not answer.startswith(wanted):
                    raise SystemExit(f"the response is not {status}: {answer[:300]!r}")
                done.ended = time.monotonic()
                done.took.append(done.ended - sent_at.pop(handle))
                idle.append(handle)
    finally:
        poll.close()
        for connection in open_ones.values():
            connection.close()
    return done


def _is_whole(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
    return bool(end) and len(body) >= int(length or 0)
