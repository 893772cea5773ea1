"""Load Runhook for a long time: check for leaks, and that each event arrives exactly once.

    python -m bench.soak [--minutes 15] [--rate 300]

`serve`, `worker` and `clock` run as in production, on PostgreSQL, with a table, an HTTP consumer and a folder as sinks.
Each process is sampled every few seconds: private memory, threads, open files. The exit code is 1 when a row or a
delivery is missing or repeated. Figures that grow in the last third of the time are printed.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from bench import load
from bench.consumer import new_consumer
from bench.load import webhooks
from bench.rows import Rows
from bench.system import Runhook, new_servers
from tests.support.processes import descendants

LOOKS = 60


def look(runhook: Runhook) -> dict[str, float]:
    """Return the figures of each process, and of the data folder."""
    found: dict[str, float] = {}
    for part in ("serve", "worker", "clock"):
        for place, pid in enumerate([runhook.pid(part), *sorted(descendants(runhook.pid(part)))]):
            name = f"{part} {place}" if place else part
            with contextlib.suppress(OSError):  # it has ended
                lines = (Path(f"/proc/{pid}") / "smaps_rollup").read_text()
                private = re.findall(r"^Private_\w+:\s+(\d+) kB", lines, re.MULTILINE)
                found[f"{name}: private MB"] = sum(map(int, private)) / 1024
                found[f"{name}: threads"] = len(list(Path(f"/proc/{pid}/task").iterdir()))
                found[f"{name}: open files"] = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    found["data: files"] = sum(1 for path in (runhook.folder / "data").rglob("*") if path.is_file())
    return found


def growing(found: Sequence[Mapping[str, float]]) -> Iterator[str]:
    """Yield figures whose maximum in the last third of the samples exceeds the second third's by a tenth and by one."""
    third = len(found) // 3
    for name in dict.fromkeys(name for each in found for name in each):
        values = [each.get(name, 0.0) for each in found]
        before, after = max(values[third:-third], default=0.0), max(values[-third:], default=0.0)
        if after > before * 1.1 + 1:
            yield f"{name}: {before:,.1f}, then {after:,.1f}"


def soak(minutes: float, rate: float) -> int:
    """Load Runhook, print the findings, and return the exit code."""
    with ExitStack() as stack:
        servers = stack.enter_context(new_servers())
        consumer = stack.enter_context(new_consumer(servers.folder, 0.02))
        url = servers.database()
        archive = servers.folder / "archive"
        sinks = {
            "results": {"type": "database", "url": url, "table": "results"},
            "hook": {"type": "http", "url": consumer.url, "secret": "s" * 32, "concurrency": 32},
            "archive": {"type": "files", "path": str(archive), "concurrency": 8},
        }
        runhook = stack.enter_context(Runhook(servers, sinks, ledger=url))
        load.post(runhook.port, webhooks(runhook.port, [0]))
        rows = stack.enter_context(Rows(url, 0.1))
        count, looks = max(1, round(rate * minutes * 60 / LOOKS)), list[dict[str, float]]()
        due: dict[str, float] = {}
        for number in range(LOOKS):
            due |= load.post(
                runhook.port, webhooks(runhook.port, range(1 + number * count, 1 + (number + 1) * count)), rate
            ).due
            looks.append(look(runhook))
        rows.wait_for(due)
        stats = consumer.wait_for(1 + LOOKS * count)
    for name in looks[0]:
        values = [each.get(name, 0.0) for each in looks]
        print(f"{name:28} first {values[0]:8,.1f}  middle {values[len(values) // 2]:8,.1f}  last {values[-1]:8,.1f}")
    print("grew in the last third:", "; ".join(growing(looks)) or "nothing")
    repeated = int(stats["requests"]) - (1 + LOOKS * count)
    print(f"{LOOKS * count:,} runs posted; {len(due):,} rows; {stats['deliveries']:,} deliveries, {repeated} repeated")
    return int(repeated != 0)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--minutes", type=float, default=15.0)
    arguments.add_argument("--rate", type=float, default=300.0, help="runs per second")
    options = arguments.parse_args()
    sys.exit(soak(options.minutes, options.rate))
