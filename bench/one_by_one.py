"""What a sink costs that takes its deliveries one by one: http, to a server that answers each after a while.

    python bench/one_by_one.py [--deliveries 2000] [--concurrency 8] [--answer-after 20] [--ledgers sqlite]
    python bench/one_by_one.py --concurrency 64 --answer-after 20 --against TREE --rounds 3
    python bench/one_by_one.py --concurrency 10000 --answer-after 2000 --deliveries 25000 --ledgers postgresql

One worker's deliverer, with its claims, threads, requests and settlement, in a process of its own; the consumer in
another. Each commit is on disk. `--against`: another checkout, which takes turns with this one. CPU is that of the
worker's process: how busy the machine is changes it little, and deliveries a second much. What is open is counted by
the consumer: the mean, of `--concurrency`, says how much of the time the slots are used.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import multiprocessing
import resource
import select
import selectors
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
if "--alone" in sys.argv:  # in another checkout, which goes first with what it has
    sys.path.insert(0, str(Path.cwd()))

import redis  # noqa: E402

from bench.servers import new_folder, new_postgres, new_valkey  # noqa: E402
from handlers import registry  # noqa: E402
from handlers.testing.conformance import NoServices  # noqa: E402
from receiver.config.destinations import RetryPolicy  # noqa: E402
from receiver.delivery.deliverer import Deliverer  # noqa: E402
from receiver.delivery.prefetch import PER_SLOT  # noqa: E402
from receiver.ledger import Ledger  # noqa: E402
from receiver.ledger.migrate import ensure_schema  # noqa: E402
from receiver.runtime.garbage import freeze_imports  # noqa: E402
from tests.support import queries  # noqa: E402
from tests.support.ledger import new_event, record  # noqa: E402

LEDGERS = ("sqlite", "postgresql")


class _Exact(selectors.EpollSelector):
    """Waits as long as it is told: epoll counts whole milliseconds, of which there are twenty in an answer."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready, at once or within `timeout` seconds."""
        if timeout is None or timeout > 0:
            select.select([self], [], [], timeout)
        return super().select(0)


class _Open:
    """Requests that the consumer has and has not answered; `told` are the most at once, and their mean."""

    def __init__(self, told: Any) -> None:
        self._told = told
        self._now = 0
        self._since = self._first = 0.0
        self._sum = 0.0

    def change(self, by: int) -> None:
        """Count one more or one less."""
        now = time.perf_counter()
        self._first = self._first or now
        self._sum += self._now * (now - (self._since or now))
        self._since = now
        self._now += by
        self._told[:] = max(self._told[0], self._now), self._sum / max(now - self._first, 1e-9)


class _Consumer(asyncio.Protocol):
    """Answers 204 to each request, `after` seconds after it is whole."""

    def __init__(self, after: float, requests: _Open) -> None:
        self._after = after
        self._data = b""
        self._requests = requests

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
            self._requests.change(1)
            if self._after:
                asyncio.get_running_loop().call_later(self._after, self._answer)
            else:
                self._answer()

    def _answer(self) -> None:
        self._requests.change(-1)
        self._transport.write(b"HTTP/1.1 204 No Content\r\n\r\n")


def _consume(tell: Connection, after: float, told: Any) -> None:
    async def serve() -> None:
        requests = _Open(told)
        server = await asyncio.get_running_loop().create_server(
            lambda: _Consumer(after, requests), "127.0.0.1", 0, backlog=16_384
        )
        tell.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(_Exact())) as runner:
        runner.run(serve())


class Measured(NamedTuple):
    """What one round found. `cpu`: µs of the worker's process for each delivery; `memory`: its most, MB;
    `most`, `mean`: requests that the consumer had at once and had not answered."""

    rate: float
    cpu: float
    memory: float
    most: float
    mean: float


def measure(options: argparse.Namespace) -> Measured:
    """Deliver `options.deliveries` events to a consumer that is started for it."""
    told, tell = multiprocessing.Pipe()
    counts = multiprocessing.RawArray("d", 2)
    consumer = multiprocessing.Process(target=_consume, args=(tell, options.answer_after / 1000, counts), daemon=True)
    consumer.start()
    port = told.recv()
    with ExitStack() as stack:
        stack.callback(consumer.kill)
        folder = stack.enter_context(new_folder())
        valkey = stack.enter_context(new_valkey(folder))
        url = f"sqlite:///{folder}/ledger.db"
        if "postgresql" in options.ledgers:
            postgres = stack.enter_context(new_postgres(folder))
            url = postgres.url(postgres.create_database())
        found = _measure(url, valkey.url, f"http://127.0.0.1:{port}", options)
        return found._replace(most=counts[0], mean=counts[1])


def _measure(database_url: str, redis_url: str, url: str, options: argparse.Namespace) -> Measured:
    ledger = Ledger(database_url)
    ensure_schema(ledger)
    count = options.deliveries
    for start in range(0, count, 200):
        numbers = range(start, min(start + 200, count))
        record(ledger, *(new_event(f"tsk_{number}", "hook", filler="x" * 1500) for number in numbers))
    sink = registry.build("hook", "http", {"url": url, "secret": "s" * 32}, NoServices())
    client = redis.Redis.from_url(redis_url, socket_timeout=10)
    deliverer = Deliverer(
        *(ledger, sink, RetryPolicy(), options.concurrency, client, "bench"),
        idle_wait=0.01,
        per_slot=options.prefetched,
    )
    freeze_imports()  # as a worker does
    profile = cProfile.Profile() if options.profile else None
    began, used = time.perf_counter(), time.process_time()
    if profile:
        profile.runcall(deliverer.run, lambda: False)
        profile.dump_stats(options.profile)
    else:
        deliverer.run(lambda: False)
    took, used = time.perf_counter() - began, time.process_time() - used
    chosen = queries.Filter(limit=count + 1, state=("delivered",))
    delivered = len(ledger.read(lambda connection: queries.list_deliveries(connection, chosen)))
    deliverer.close()
    if delivered != count:
        raise SystemExit(f"{delivered} of {count} were delivered")
    return Measured(count / took, used / count * 1e6, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 0, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deliveries", type=int, default=2_000)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--answer-after", type=float, default=0.0, metavar="MS")
    parser.add_argument("--ledgers", nargs="+", choices=LEDGERS, default=LEDGERS)
    parser.add_argument("--prefetched", type=int, default=PER_SLOT, help="deliveries for each slot")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--against", type=Path, metavar="TREE", help="another checkout")
    parser.add_argument("--profile", metavar="FILE", help="write a profile of the thread that claims and settles")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        print(*measure(options))
        return
    for ledger in options.ledgers:
        _compare(ledger, options.rounds, [ROOT, *([options.against.resolve()] if options.against else [])])


def _compare(ledger: str, rounds: int, trees: Sequence[Path]) -> None:
    found: dict[Path, list[Measured]] = {tree: [] for tree in trees}
    line = [sys.executable, __file__, "--alone", *sys.argv[1:], "--ledgers", ledger]
    for number in range(rounds):
        for tree in trees if number % 2 == 0 else trees[::-1]:
            out = subprocess.run(line, cwd=tree, check=True, stdout=subprocess.PIPE, text=True).stdout
            it = Measured(*map(float, out.split()[-5:]))
            found[tree].append(it)
            where = f"{ledger:12}{tree.name:12}"
            costs = f"{it.rate:>7,.0f}/s {it.cpu:>6,.0f} µs each {it.memory:>5,.0f} MB"
            print(f"{where}{costs} {it.most:>6,.0f} open at once, {it.mean:,.1f} in the mean", flush=True)
    least = [min(each.cpu for each in found[tree]) for tree in trees]
    ratio = f", {least[0] / least[1]:.2f} of the other's" if len(least) > 1 else ""
    rate = statistics.median(each.rate for each in found[ROOT])
    print(f"{ledger}: {least[0]:,.0f} µs of the worker's CPU each at the least{ratio}; median {rate:,.0f}/s")


if __name__ == "__main__":
    main()
