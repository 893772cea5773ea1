"""What one batch costs dispatch and delivery in CPU, however busy the machine is: all else is waiting.

    python bench/batch_cost.py [--size 1] [--batches 100] [--rounds 3] [--handed-on 100] [--submitted]
                               [--ledger sqlite] [--against TREE]

Dispatcher and deliverer work in this process, on a PostgreSQL with fsync and into a database sink. `--against`: another
checkout, which takes turns with this one. Of each round the cheapest batch counts, for other processes make none
cheaper. `--ledger`: on SQLite, the database's work is in that of dispatch and deliver, and PostgreSQL has the sink's.

By default the deliverer runs after each batch, and claims it; of PostgreSQL's sessions, what dispatch caused is told.
`--handed-on`: it waits in a thread of its own, as in a worker, and so many batches a second are handed on to it; of a
round the cheapest second counts, and of PostgreSQL's sessions what they used for both. `--submitted`: the runs were
submitted through us, and the ledger has their answers.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
if "--alone" in sys.argv:  # in another checkout, which goes first with what it has
    sys.path.insert(0, str(Path.cwd()))

import redis  # noqa: E402

from bench.pipeline import body  # noqa: E402
from bench.servers import new_folder, new_postgres, new_valkey  # noqa: E402
from bench.submissions import submission_id, submit  # noqa: E402
from receiver import wakeups  # noqa: E402
from receiver.config.loader import load_file  # noqa: E402
from receiver.config.settings import Settings  # noqa: E402
from receiver.delivery import deliverer  # noqa: E402
from receiver.dispatch import dispatcher  # noqa: E402
from receiver.domain.event import Event, event_id  # noqa: E402
from receiver.ledger import Ledger  # noqa: E402
from receiver.ledger.migrate import ensure_schema  # noqa: E402
from receiver.runtime.handover import Handover  # noqa: E402
from tests.servers.postgres import PostgresProcess  # noqa: E402

WARM_UP = 30


def measure(size: int, batches: int, rate: float, *, submitted: bool, kind: str = "postgresql") -> tuple[float, ...]:
    """Milliseconds of CPU of the cheapest batch: dispatch, deliver, PostgreSQL."""
    with new_folder() as folder, new_valkey(folder) as valkey, new_postgres(folder) as postgres:
        results = postgres.url(postgres.create_database())
        url = results if kind == "postgresql" else f"sqlite:///{folder / 'ledger.db'}"
        pipeline = Pipeline(folder, valkey.url, url, results, submitted=submitted)
        if rate:
            costs = _handed_on(pipeline, size, batches, rate, postgres)
        else:
            costs = [pipeline.batch(size, postgres.pid) for _ in range(WARM_UP + batches)][WARM_UP:]
        pipeline.close()
        return tuple(min(each) * 1000 for each in zip(*costs, strict=True))


def _handed_on(
    pipeline: Pipeline, size: int, batches: int, rate: float, postgres: PostgresProcess
) -> list[tuple[float, ...]]:
    """Seconds of CPU a batch, of each second in which `rate` batches come: dispatch, deliver, PostgreSQL."""
    found: list[tuple[float, ...]] = []
    with pipeline.delivering():
        for number in range(-1, max(1, round(batches / rate))):
            before = (time.thread_time(), time.process_time(), _cpu_of_children(postgres.pid))
            began = time.monotonic()
            for place in range(round(rate)):
                time.sleep(max(0.0, began + place / rate - time.monotonic()))
                pipeline.dispatch(size)
            time.sleep(max(0.0, began + 1 - time.monotonic()))
            after = (time.thread_time(), time.process_time(), _cpu_of_children(postgres.pid))
            here, both, servers = (now - then for now, then in zip(after, before, strict=True))
            if number >= 0:  # the first second warms up
                found.append((here / rate, (both - here) / rate, servers / rate))
    return found


def _cpu_of_children(pid: int) -> float:
    """Seconds of CPU that the child processes of one have used until now."""
    nanoseconds = 0
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(OSError):  # it has ended
            nanoseconds += int(Path(f"/proc/{child}/schedstat").read_text().split()[0])
    return nanoseconds / 1e9


def _cpu_when_idle(pid: int) -> float:
    """The same once they have gone to sleep again: the kernel counts what a process has used when it stops."""
    if not pid:
        return 0.0
    time.sleep(0.002)
    return _cpu_of_children(pid)


class Pipeline:
    """Dispatcher and deliverer in this process: on the ledger at `url`, and into the database at `results`.

    `first`: the number of the first event, whose number tells it from the others. `submitted`: the runs are submitted
    before their events come.
    """

    def __init__(
        self, folder: Path, redis_url: str, url: str, results: str, first: int = 0, *, submitted: bool = False
    ) -> None:
        path = folder / "runhook.yaml"
        sinks = {"results": {"type": "database", "url": results, "table": "results"}}
        routes = [{"name": "everything", "to": ["results"]}]
        path.write_text(json.dumps({"sources": {"skyvern": {"secrets": ["s"]}}, "sinks": sinks, "routes": routes}))
        environ = {"REDIS_URL": redis_url, "DATABASE_URL": url, "RUNHOOK_CONFIG": str(path)}
        environ["RUNHOOK_DATA"] = str(folder / "data")
        settings, config = Settings.from_env({**os.environ, **environ}), load_file(path, os.environ).config
        ledger = Ledger(url)
        ensure_schema(ledger)
        ledger.close()
        self._redis = redis.Redis.from_url(redis_url)
        handover = Handover()
        self._dispatcher = dispatcher.build(settings, config, "dispatcher", handovers={"results": handover})
        self._delivering = deliverer.build(settings, config, "results", "deliverer", handover)
        self._numbers = itertools.count(first)
        self._submitting = Ledger(url) if submitted else None

    def batch(self, size: int, postgres: int = 0) -> tuple[float, float, float]:
        """Take a batch through. Returns the seconds of CPU of this process: dispatch, deliver; and what dispatch has
        cost the sessions of the server with the process id `postgres`, if there is one."""
        events = self._events(size)
        before = _cpu_when_idle(postgres)
        began = time.process_time()
        self._dispatcher.dispatch(events)
        dispatched = time.process_time()
        sessions = _cpu_when_idle(postgres) - before
        claiming = time.process_time()
        self._delivering._deliver(lambda: False, lambda: False)
        return dispatched - began, time.process_time() - claiming, sessions

    def dispatch(self, size: int) -> None:
        """Dispatch a batch, and wake the deliverer if it is not handed on."""
        woken = self._dispatcher.dispatch(self._events(size))
        if woken:
            wakeups.wake_sinks(self._redis, woken)

    @contextlib.contextmanager
    def delivering(self) -> Iterator[None]:
        """Deliver in a thread of its own within the block."""
        stop = threading.Event()

        def run() -> None:
            while not stop.is_set():
                self._delivering.run(stop.is_set)

        thread = threading.Thread(target=run)
        thread.start()
        yield
        stop.set()
        thread.join()

    def _events(self, size: int) -> list[Event]:
        numbers = list(itertools.islice(self._numbers, size))
        if self._submitting:
            submit(self._submitting, numbers)
        return [
            Event(
                *(event_id("skyvern", each), "skyvern", each, time.time()),
                submission_id=submission_id(number) if self._submitting else "",
            )
            for number in numbers
            for each in [body(number)]
        ]

    def close(self) -> None:
        """Close all connections."""
        self._delivering.close()
        self._dispatcher.close()
        self._redis.close()
        if self._submitting:
            self._submitting.close()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--size", type=int, default=1, help="events of a batch")
    arguments.add_argument("--batches", type=int, default=100)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--handed-on", type=float, default=0, metavar="RATE", help="batches a second")
    arguments.add_argument("--submitted", action="store_true", help="runs that were submitted through us")
    arguments.add_argument("--ledger", choices=["postgresql", "sqlite"], default="postgresql")
    arguments.add_argument("--against", type=Path, help="another checkout")
    arguments.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.alone:
        submitted, kind = options.submitted, options.ledger
        print(*measure(options.size, options.batches, options.handed_on, submitted=submitted, kind=kind))
        return
    trees = [ROOT, *([options.against.resolve()] if options.against else [])]
    found: dict[Path, list[tuple[float, ...]]] = {tree: [] for tree in trees}
    line = [sys.executable, __file__, "--alone", "--size", str(options.size), "--batches", str(options.batches)]
    line += [
        "--ledger",
        options.ledger,
        "--handed-on",
        str(options.handed_on),
        *(["--submitted"] if options.submitted else []),
    ]
    names = ("dispatch", "deliver", "PostgreSQL")
    for number in range(options.rounds):
        for tree in trees if number % 2 == 0 else trees[::-1]:
            out = subprocess.run(line, cwd=tree, check=True, stdout=subprocess.PIPE, text=True).stdout
            costs = tuple(map(float, out.split()[-len(names) :]))
            found[tree].append(costs)
            told = "   ".join(f"{name} {cost:6.2f} ms" for name, cost in zip(names, costs, strict=True))
            print(f"{tree.name:12} {told} of CPU", flush=True)
    for place, name in enumerate(names):
        least = [min(each[place] for each in found[tree]) for tree in trees]
        ratio = f", {least[0] / least[1]:.2f} of the other's" if len(least) > 1 else ""
        median = statistics.median(each[place] for each in found[ROOT])
        print(f"{name}: {least[0] / options.size * 1000:.0f} µs an event (median round {median:.2f} ms a batch){ratio}")


if __name__ == "__main__":
    main()
