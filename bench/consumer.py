"""An HTTP server in a separate process that consumes deliveries, serves files and imitates Skyvern.

    python -m bench.consumer PORT SECONDS

POST     204 after SECONDS; `/stats` counts them by their header `webhook-id`
POST     to `/v1/run/tasks`, as Skyvern: accepts a run; `/callbacks` lists webhook URLs by run id
GET      `/files/…` a file of FILE_SIZE bytes, after SECONDS
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import uvloop

from bench.system import child, get, wait_until
from tests.servers.valkey import free_port
from tests.support.run_ids import run_id

FILE_SIZE: Final = 20_000
# The first number for accepted runs; benchmarks post runs with lower numbers.
FIRST_RUN: Final = 5_000_000


class State:
    """The consumer's statistics. `at`: first arrival of each delivery, by id."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.at: dict[str, float] = {}
        self.requests = self.open = self.most = 0
        self.callbacks: dict[str, str] = {}
        self.numbers = itertools.count(FIRST_RUN)


class Server(asyncio.Protocol):
    """One connection."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._data = b""

    def connection_made(self, transport: Any) -> None:
        """Keep the transport."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Respond to each complete request."""
        self._data += data
        while b"\r\n\r\n" in self._data:
            head, _, rest = self._data.partition(b"\r\n\r\n")
            length = int(_header(head, b"content-length") or 0)
            if len(rest) < length:
                return
            body, self._data = rest[:length], rest[length:]
            method, path, _ = head.decode("latin-1").split(" ", 2)
            if method == "POST" and path == "/v1/run/tasks":
                self._accept(json.loads(body))
            elif method == "POST":
                self._consume(_header(head, b"webhook-id").decode())
            elif path.startswith("/files/"):
                self._later(_response(200, file_content(path)))
            elif path == "/callbacks":
                self._transport.write(_response(200, json.dumps(self._state.callbacks).encode()))
            else:
                self._transport.write(_response(200, json.dumps(self._stats()).encode()))

    def _accept(self, request: dict[str, Any]) -> None:
        name = run_id(next(self._state.numbers))
        self._state.callbacks[name] = request["webhook_url"]
        answer = {
            "run_id": name,
            "run_type": "task_v2",
            "status": "queued",
            "created_at": "2026-11-24T14:05:09.165039",
            "modified_at": "2026-11-24T14:05:09.165039",
            "run_request": request,
        }
        self._transport.write(_response(200, json.dumps(answer).encode()))

    def _consume(self, delivery: str) -> None:
        state = self._state
        state.requests += 1
        state.open += 1
        state.most = max(state.most, state.open)
        state.at.setdefault(delivery, time.monotonic())
        self._later(b"HTTP/1.1 204 No Content\r\n\r\n", consumed=True)

    def _later(self, response: bytes, *, consumed: bool = False) -> None:
        def respond() -> None:
            self._state.open -= consumed
            self._transport.write(response)

        asyncio.get_running_loop().call_later(self._state.seconds, respond)

    def _stats(self) -> dict[str, float]:
        last = max(self._state.at.values(), default=0.0)
        return {
            "deliveries": len(self._state.at),
            "requests": self._state.requests,
            "last": last,
            "most": self._state.most,
        }


def file_content(path: str) -> bytes:
    """Return the bytes of the file at `path`."""
    return (hashlib.sha256(path.encode()).digest() * (FILE_SIZE // 32 + 1))[:FILE_SIZE]


def _header(head: bytes, name: bytes) -> bytes:
    return head.lower().partition(b"\r\n" + name + b":")[2].partition(b"\r\n")[0].strip()


def _response(status: int, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status} OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Consumer:
    """A client of the consumer process."""

    def __init__(self, port: int, process: subprocess.Popen[bytes]) -> None:
        self.port = port
        self.pid = process.pid
        self.url = f"http://127.0.0.1:{port}"

    def read(self, path: str) -> Any:
        """Return the JSON at `path`."""
        return json.loads(get(self.port, path)[1])

    def wait_for(self, count: int) -> dict[str, float]:
        """Wait for that many deliveries, and return the statistics. Raises SystemExit on timeout."""
        wait_until(lambda: self.read("/stats")["deliveries"] >= count, lambda: str(self.read("/stats")), 0.1)
        return dict(self.read("/stats"))


@contextlib.contextmanager
def new_consumer(folder: Path, seconds: float) -> Iterator[Consumer]:
    """Run a consumer that takes `seconds` for each delivery."""
    port = free_port()
    process = child([sys.executable, "-m", "bench.consumer", str(port), str(seconds)], folder / "consumer.log", {})
    try:
        wait_until(lambda: get(port, "/stats")[0] == 200, (folder / "consumer.log").read_text)
        yield Consumer(port, process)
    finally:
        process.kill()
        process.wait()


async def serve(port: int, seconds: float) -> None:
    """Serve until the process is killed."""
    state = State(seconds)
    server = await asyncio.get_running_loop().create_server(lambda: Server(state), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), float(sys.argv[2])))
