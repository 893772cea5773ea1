"""HTTP consumers with a table of their own, in one process: each request is verified and on disk before it is answered.

    python -m tests.chaos.consumer DATABASE SECRET SEED NAME=PORT…

Commands come as lines on stdin: `NAME MODE`. Modes:
    ok       200 to all
    refuse   nobody listens
    hang     no answer; half of the requests are recorded all the same
    flaky    200 to most; 503, 429, a connection that ends before or after recording, or a slow answer to the rest
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import sqlite3
import sys
import time
from pathlib import Path
from typing import Final, NamedTuple

from standardwebhooks import Webhook, WebhookVerificationError

TABLE: Final = """
CREATE TABLE IF NOT EXISTS arrivals (sink TEXT, key TEXT, event TEXT, sha256 TEXT, verified INTEGER,
                                     answered INTEGER, at REAL)
"""
_ANSWERS = {200: "OK", 400: "Bad Request", 429: "Too Many Requests", 503: "Service Unavailable"}


class Arrival(NamedTuple):
    """One request that was recorded. `answered`: with 200; otherwise the sender can't know that it arrived."""

    sink: str
    key: str
    event: str
    sha256: str
    verified: bool
    answered: bool
    at: float


class Table:
    """The consumers' record: what is given to `keep` at the same time is committed together."""

    def __init__(self, path: str) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.execute(TABLE)
        self._pending: list[tuple[Arrival, asyncio.Future[None]]] = []
        self._news = asyncio.Event()

    async def keep(self, arrival: Arrival) -> None:
        """On return it is on disk."""
        future = asyncio.get_running_loop().create_future()
        self._pending.append((arrival, future))
        self._news.set()
        await future

    async def commit_all(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            batch, self._pending = self._pending, []
            await asyncio.to_thread(self._commit, [arrival for arrival, _ in batch])
            for _, future in batch:
                if not future.done():
                    future.set_result(None)

    def _commit(self, arrivals: list[Arrival]) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany("INSERT INTO arrivals VALUES (?, ?, ?, ?, ?, ?, ?)", arrivals)
        self._connection.execute("COMMIT")


class Consumer:
    def __init__(self, name: str, port: int, secret: str, table: Table, chance: random.Random) -> None:
        self._name = name
        self._port = port
        self._webhook = Webhook(secret)
        self._table = table
        self._chance = chance
        self._mode = "ok"
        self._changed = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def become(self, mode: str) -> None:
        self._mode = mode
        self._changed.set()
        self._changed = asyncio.Event()
        if mode == "refuse" and self._server is not None:
            self._server.close()
            for writer in self._writers:
                writer.transport.abort()
            self._server = None
        elif mode != "refuse" and self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port, backlog=512)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while await self._request(reader, writer):
                pass
        except (OSError, EOFError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Take one request. False when the connection is to end."""
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        body = await reader.readexactly(int(headers["content-length"]))
        if self._mode == "hang":
            changed = self._changed
            if self._chance.random() < 0.5:
                await self._record(headers, body, answered=False)
            await changed.wait()
            return False
        what = self._chance.random() if self._mode == "flaky" else 1.0
        if what < 0.10:
            return self._answer(writer, 503)
        if what < 0.15:
            return self._answer(writer, 429, "Retry-After: 1\r\n")
        if what < 0.17:
            return False
        if what < 0.20:
            await self._record(headers, body, answered=False)
            return False
        if what < 0.23:
            await asyncio.sleep(1)
        await self._record(headers, body, answered=True)
        return self._answer(writer, 200)

    async def _record(self, headers: dict[str, str], body: bytes, *, answered: bool) -> None:
        try:
            self._webhook.verify(body, headers)
            verified = True
        except WebhookVerificationError:
            verified = False
        key, event = headers.get("webhook-id", ""), headers.get("runhook-event", "")
        at, sha256 = time.time(), hashlib.sha256(body).hexdigest()
        await self._table.keep(Arrival(self._name, key, event, sha256, verified, answered, at))

    @staticmethod
    def _answer(writer: asyncio.StreamWriter, status: int, more: str = "") -> bool:
        writer.write(f"HTTP/1.1 {status} {_ANSWERS[status]}\r\nContent-Length: 0\r\n{more}\r\n".encode())
        return True


def read(path: Path) -> list[Arrival]:
    """All that arrived, in order."""
    connection = sqlite3.connect(path)
    try:
        return [Arrival(*row) for row in connection.execute("SELECT * FROM arrivals ORDER BY rowid")]
    finally:
        connection.close()


async def serve(database: str, secret: str, seed: int, ports: dict[str, int]) -> None:
    table = Table(database)
    committing = asyncio.create_task(table.commit_all())
    consumers = {
        name: Consumer(name, port, secret, table, random.Random(f"{seed} {name}")) for name, port in ports.items()
    }
    for consumer in consumers.values():
        await consumer.become("ok")
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := (await reader.readline()).decode().split():
        await consumers[line[0]].become(line[1])
    committing.cancel()


def main() -> None:
    database, secret, seed, *listeners = sys.argv[1:]
    os.set_blocking(0, False)
    pairs = (each.split("=") for each in listeners)
    asyncio.run(serve(database, secret, int(seed), {name: int(port) for name, port in pairs}))


if __name__ == "__main__":
    main()
