"""How many deliveries a second one sink gets that takes them one by one: http, to a server that answers at once.

    python bench/one_by_one.py [--deliveries 2000] [--concurrency 8]

The ledger on SQLite and on a PostgreSQL of its own, each commit on disk; the server in a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import redis  # noqa: E402

from handlers import registry  # noqa: E402
from handlers.testing.conformance import NoServices  # noqa: E402
from receiver.config.models import RetryPolicy  # noqa: E402
from receiver.delivery.deliverer import Deliverer  # noqa: E402
from receiver.delivery.prefetch import PER_SLOT  # noqa: E402
from receiver.ledger import Ledger  # noqa: E402
from receiver.ledger.migrate import ensure_schema  # noqa: E402
from tests.servers.postgres import PostgresProcess  # noqa: E402
from tests.servers.valkey import ValkeyProcess  # noqa: E402
from tests.support import queries  # noqa: E402
from tests.support.ledger import new_event, record  # noqa: E402


class _Consumer(asyncio.Protocol):
    """Answers 204 to each request as soon as it is whole."""

    def __init__(self) -> None:
        self._data = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        while b"\r\n\r\n" in self._data:
            head, _, rest = self._data.partition(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            if len(rest) < length:
                return
            self._data = rest[length:]
            self._transport.write(b"HTTP/1.1 204 No Content\r\n\r\n")


def _consume(tell: Connection) -> None:
    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(_Consumer, "127.0.0.1", 0)
        tell.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(serve())


def measure(database_url: str, redis_url: str, port: int, count: int, concurrency: int, per_slot: int) -> str:
    """What came of it, in words."""
    ledger = Ledger(database_url)
    ensure_schema(ledger)
    for start in range(0, count, 200):
        numbers = range(start, min(start + 200, count))
        record(ledger, *(new_event(f"tsk_{number}", "hook", filler="x" * 1500) for number in numbers))
    sink = registry.build("hook", "http", {"url": f"http://127.0.0.1:{port}", "secret": "s" * 32}, NoServices())
    client = redis.Redis.from_url(redis_url, socket_timeout=10)
    deliverer = Deliverer(ledger, sink, RetryPolicy(), concurrency, client, "bench", idle_wait=0.01, per_slot=per_slot)
    started, used = time.perf_counter(), time.process_time()
    deliverer.run(lambda: False)
    took, used = time.perf_counter() - started, time.process_time() - used
    chosen = queries.Filter(limit=count + 1, state=("delivered",))
    assert len(ledger.read(lambda connection: queries.list_deliveries(connection, chosen))) == count
    deliverer.close()
    return f"{count / took:>6,.0f}/s, {used / count * 1e6:>5,.0f} µs of this process each"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--deliveries", type=int, default=2_000)
    parser.add_argument("--concurrency", type=int, default=8)
    given = parser.parse_args()
    told, tell = multiprocessing.Pipe()
    consumer = multiprocessing.Process(target=_consume, args=(tell,), daemon=True)
    consumer.start()
    port = told.recv()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # PostgreSQL may run as another user
        valkey = ValkeyProcess(Path(folder) / "valkey").start()
        server = PostgresProcess(Path(folder) / "pg", autovacuum="on").start()
        try:
            for per_slot in (0, PER_SLOT):
                ledgers = {
                    "SQLite": f"sqlite:///{folder}/{per_slot}.db",
                    "PostgreSQL": server.url(server.create_database()),
                }
                for name, url in ledgers.items():
                    found = measure(url, valkey.url, port, given.deliveries, given.concurrency, per_slot)
                    print(f"{per_slot} prefetched for each slot  {name:<12}{found}", flush=True)
        finally:
            server.kill()
            valkey.kill()
            consumer.kill()


if __name__ == "__main__":
    main()
