"""What one batch costs dispatch and delivery in CPU, however busy the machine is: all else is waiting.

    python bench/batch_cost.py [--size 1] [--batches 100] [--rounds 3] [--against TREE]

Dispatcher and deliverer work in this process, on a PostgreSQL with fsync and into a database sink. `--against`: another
checkout, which takes turns with this one. Of each round the cheapest batch counts, for other processes make none
cheaper.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(Path.cwd() if "--alone" in sys.argv else ROOT))

from bench.pipeline import body  # noqa: E402
from receiver import dispatch  # noqa: E402
from receiver.config.loader import load_file  # noqa: E402
from receiver.config.settings import Settings  # noqa: E402
from receiver.delivery import deliverer  # noqa: E402
from receiver.domain.event import Event, event_id  # noqa: E402
from receiver.ledger import Ledger  # noqa: E402
from receiver.ledger.migrate import ensure_schema  # noqa: E402
from tests.servers.postgres import PostgresProcess  # noqa: E402
from tests.servers.valkey import ValkeyProcess  # noqa: E402

WARM_UP = 30


def measure(size: int, batches: int) -> tuple[float, float]:
    """Milliseconds of CPU of the cheapest batch: dispatch, deliver."""
    with tempfile.TemporaryDirectory(prefix="runhook-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        valkey = ValkeyProcess(folder / "valkey").start()
        postgres = PostgresProcess(folder / "postgres").start()
        try:
            return _measure(folder, valkey.url, postgres.url(postgres.create_database()), size, batches)
        finally:
            postgres.kill()
            valkey.kill()


def _measure(folder: Path, redis_url: str, url: str, size: int, batches: int) -> tuple[float, float]:
    pipeline = Pipeline(folder, redis_url, url, url)
    costs = [pipeline.batch(size) for _ in range(WARM_UP + batches)][WARM_UP:]
    pipeline.close()
    return min(each[0] for each in costs) * 1000, min(each[1] for each in costs) * 1000


class Pipeline:
    """Dispatcher and deliverer in this process: on the ledger at `url`, and into the database at `results`.

    `first`: the number of the first event, whose number tells it from the others.
    """

    def __init__(self, folder: Path, redis_url: str, url: str, results: str, first: int = 0) -> None:
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
        self._dispatcher = dispatch.build(settings, config, "dispatcher")
        self._delivering = deliverer.build(settings, config, "results", "deliverer")
        self._numbers = itertools.count(first)

    def batch(self, size: int) -> tuple[float, float]:
        """Take a batch through. Returns the seconds of CPU of this process: dispatch, deliver."""
        bodies = [body(next(self._numbers)) for _ in range(size)]
        events = [Event(event_id("skyvern", each), "skyvern", each, time.time()) for each in bodies]
        began = time.process_time()
        self._dispatcher.dispatch(events)
        dispatched = time.process_time()
        self._delivering._deliver(lambda: False, lambda: False)
        return dispatched - began, time.process_time() - dispatched

    def close(self) -> None:
        """Close all connections."""
        self._delivering.close()
        self._dispatcher.close()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--size", type=int, default=1, help="events of a batch")
    arguments.add_argument("--batches", type=int, default=100)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--against", type=Path, help="another checkout")
    arguments.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.alone:
        print(*measure(options.size, options.batches))
        return
    trees = [ROOT, *([options.against.resolve()] if options.against else [])]
    found: dict[Path, list[tuple[float, float]]] = {tree: [] for tree in trees}
    line = [sys.executable, __file__, "--alone", "--size", str(options.size), "--batches", str(options.batches)]
    for number in range(options.rounds):
        for tree in trees if number % 2 == 0 else trees[::-1]:
            out = subprocess.run(line, cwd=tree, check=True, stdout=subprocess.PIPE, text=True).stdout
            dispatched, delivered = map(float, out.split()[-2:])
            found[tree].append((dispatched, delivered))
            print(f"{tree.name:12} dispatch {dispatched:6.2f} ms   deliver {delivered:6.2f} ms of CPU", flush=True)
    for place, name in enumerate(("dispatch", "deliver")):
        least = [min(each[place] for each in found[tree]) for tree in trees]
        ratio = f", {least[0] / least[1]:.2f} of the other's" if len(least) > 1 else ""
        median = statistics.median(each[place] for each in found[ROOT])
        print(f"{name}: {least[0] / options.size * 1000:.0f} µs an event (median round {median:.2f} ms a batch){ratio}")


if __name__ == "__main__":
    main()
