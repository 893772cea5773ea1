"""From the POST to the committed row, compared with task queues: latency, throughput, and CPU per event at a low rate.

Each side checks the signature, has the webhook on disk before its 202, and commits one row of the same PostgreSQL
table. Runhook does more in that time: ledger, deduplication, routing, attempts. The sides run in alternating rounds,
each with new servers. `bench/rows.py` detects the rows.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Protocol

from bench import load
from bench.figures import Figure, at_most, compared, median, percentile, spread
from bench.load import FLAT_OUT, webhooks
from bench.peers.processes import WORKERS, Peer, install
from bench.rows import Rows
from bench.system import Runhook, Servers, cpu, new_servers

RATE: Final = 100.0
# Events per second at the low rate: one event at a time.
ALONE: Final = 10.0
# Milliseconds of the worker's CPU for such an event, on a machine that takes LOOP seconds for `additions`.
ALONE_MS, LOOP = 3.5, 1.7
# Module-level code: globals take twice the time of a function's locals.
ADDITIONS: Final = compile("total = 0\nfor number in range(10_000_000):\n    total += number", "additions", "exec")
# Seconds between polls of the table: for latency, and for throughput.
FINE, COARSE = 0.001, 0.02
RUNHOOK: Final = "runhook"
# Seconds after which no further round begins.
BUDGET: Final = 300.0


class Side(Protocol):
    """A system that turns webhooks into rows."""

    port: int

    def pids(self) -> list[int]:
        """Return all its processes, with its servers."""
        ...

    def workers(self) -> list[int]:
        """Return the processes that turn queued events into rows."""
        ...


@dataclass
class Measured:
    """All rounds of a side: latencies in seconds at RATE; rows per second and microseconds of CPU per row at full
    speed.

    `alone`: milliseconds of the workers' CPU per event at ALONE. `loops`: seconds of `additions`.
    """

    seconds: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)
    loops: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def additions() -> float:
    """Return the CPU seconds of 10,000,000 additions, a measure of the machine's current speed."""
    began = time.process_time()
    exec(ADDITIONS, {})
    return time.process_time() - began


def start(name: str, servers: Servers, stack: ExitStack, *, tiny: bool) -> tuple[Side, str]:
    """Start a side. Returns it, and the database of its table."""
    if name == RUNHOOK:
        url = servers.database()
        results = {"type": "database", "url": url, "table": "results"}
        return stack.enter_context(Runhook(servers, {"results": results}, ledger=url)), url
    peer = stack.enter_context(Peer(name, servers, Path(sys.executable).parent if tiny else None))
    return peer, peer.database


def one_round(name: str, found: Measured, seconds: float, *, tiny: bool) -> None:
    """Start a side, measure it, and end it. Raises SystemExit when rows are missing."""
    with new_servers() as servers, ExitStack() as stack:
        side, database = start(name, servers, stack, tiny=tiny)
        load.post(side.port, webhooks(side.port, [0]))  # which makes Runhook's table
        rows = stack.enter_context(Rows(database, FINE))
        first = 1

        def through(count: int, rate: float) -> tuple[list[float], float, float]:
            nonlocal first
            requests = webhooks(side.port, range(first, first + count))
            first += count
            used = cpu(side.pids())
            posted = load.post(side.port, requests, rate)
            took = rows.wait_for(posted.due)
            last = max(rows.at[run_id] for run_id in posted.due)
            return list(took.values()), count / (last - posted.began), (cpu(side.pids()) - used) / count * 1e6

        through(10 if tiny else 300, RATE)
        found.seconds += through(max(20, int(RATE * seconds)), RATE)[0]
        rows.every = COARSE
        found.loops.append(additions())
        count, before = 10 if tiny else 50, cpu(side.workers())
        through(count, ALONE)
        found.alone.append((cpu(side.workers()) - before) / count * 1000)
        _, guess, _ = through(50 if tiny else 400, FLAT_OUT)
        _, rate, used = through(100 if tiny else max(400, int(guess * seconds)), FLAT_OUT)
        found.rates.append(rate)
        found.cpu.append(used)


def measure(names: Sequence[str], rounds: int, seconds: float, *, tiny: bool) -> dict[str, Measured]:
    """Measure all sides in alternating rounds. A side that fails is reported, and the others continue."""
    found, began = {name: Measured() for name in names}, time.monotonic()
    for number in range(rounds):
        if number and time.monotonic() - began > BUDGET * number / (number + 1):  # this round would end too late
            break
        for name in names[:: 1 if number % 2 == 0 else -1]:
            try:
                one_round(name, found[name], seconds, tiny=tiny)
            except (Exception, SystemExit) as error:
                if name == RUNHOOK:
                    raise
                found[name].failures.append(str(error)[-200:])
            mine = found[name]
            print(f"  round {number + 1}: {name} {mine.rates[-1:]} rows/s {mine.failures[-1:]}", flush=True)
    return found


def figures(*, tiny: bool = False) -> list[Figure]:
    """Measure, and return the figures."""
    peers = ["rq"] if tiny else list(WORKERS)
    versions = "" if tiny else install(peers)
    found = measure([RUNHOOK, *peers], rounds=1 if tiny else 3, seconds=0.2 if tiny else 3.0, tiny=tiny)
    ours = found[RUNHOOK]
    fastest = max((name for name in peers if found[name].rates), key=lambda name: median(found[name].rates))
    peer, loop = found[fastest], median(ours.loops)
    p50, p99 = ([percentile(side.seconds, share) * 1000 for side in (ours, peer)] for share in (50, 99))
    beside = f"beside {fastest}, the fastest peer"
    alone = compared("", median(ours.alone), median(peer.alone), "{:.1f} ms")
    floor = at_most("", median(ours.alone), ALONE_MS * loop / LOOP, "{:.1f} ms")
    rows = [
        compared(f"POST → committed row, 100/s: p50, {beside}", *p50, "{:.1f} ms", at_most=2),
        compared(f"POST → committed row, 100/s: p99, {beside}", *p99, "{:.1f} ms", at_most=3),
        compared(
            f"pipeline, flat out, {beside}", median(ours.rates), median(peer.rates), "{:,.0f} rows/s", at_least=2.5
        ),
        replace(
            alone, name=f"CPU of the worker for an event alone, 10/s, {beside}", floor=floor.floor, is_met=floor.is_met
        ),
        Figure("a loop of 10,000,000 additions", f"{loop:.2f} s"),
    ]
    for name, mine in found.items():
        if mine.rates:
            latency = " / ".join(f"{percentile(mine.seconds, share) * 1000:.1f}" for share in (50, 99))
            rows.append(Figure(f"{name}: p50 / p99 at 100/s", f"{latency} ms"))
            rows.append(Figure(f"{name}: CPU of the workers for an event alone", spread(mine.alone, "{:.1f}") + " ms"))
            rows.append(
                Figure(f"{name}: flat out", f"{spread(mine.rates)} rows/s, {median(mine.cpu):,.0f} µs of CPU a row")
            )
        rows += [Figure(f"{name}: failed", each) for each in mine.failures]
    return [*rows, *([] if tiny else [Figure("versions of the peers", versions)])]
