"""How fast events go to the spool while Redis is away, and from it to Redis once that is back.

    python bench/spool.py [--events 20000] [--sizes 2000,64000] [--connections 64]

Events are committed as a receiver commits them, so many at once, by a group commit whose Redis does not run yet. Then a
Valkey is started that writes to disk before each answer, and the clock stops when the spool is empty.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import uvloop  # noqa: E402

from bench.bodies import bodies  # noqa: E402
from bench.ingest import empty, free_port, valkey  # noqa: E402
from receiver.domain.event import Event, event_id  # noqa: E402
from receiver.domain.frame import EntryKeys  # noqa: E402
from receiver.ingest.group_commit import GroupCommit, Limits  # noqa: E402
from receiver.ingest.spool import Spool  # noqa: E402
from receiver.telemetry.receiver import ReceiverMetrics  # noqa: E402

ROOM = 1 << 40


async def one_round(folder: Path, size: int, count: int, connections: int) -> str:
    """Return what a round of so many events of `size` bytes has shown, as a line."""
    port, spool = free_port(), Spool(folder / "spool", ROOM, 0)
    keys = EntryKeys({"skyvern": ["secret"]})
    it = GroupCommit(f"redis://127.0.0.1:{port}/0", spool, Limits(ROOM, ROOM), ReceiverMetrics(), keys)
    await it.start()
    sent = bodies(size, 64)
    events = iter([_event(sent[number % len(sent)] + b" %d" % number) for number in range(count)])

    async def client() -> None:
        for event in events:
            await it.commit(event)

    used, began = time.process_time(), time.perf_counter()
    await asyncio.gather(*(client() for _ in range(connections)))
    appended, cpu = time.perf_counter() - began, time.process_time() - used
    assert spool.events == count
    with valkey(folder, port):
        empty(port)
        await until(lambda: it.store == "redis")
        began, left = time.perf_counter(), spool.events
        await until(lambda: not spool.events)
        drained = time.perf_counter() - began
        await it.close()
    to = f"{count / appended:,.0f} events a second to the spool ({cpu / count * 1e6:.0f} µs of CPU each)"
    return f"{size:,} bytes: {to}, {left / drained:,.0f} a second from it"


async def until(state: Callable[[], bool]) -> None:
    """Wait for a state, while the event loop goes on."""
    while not state():  # noqa: ASYNC110 - nothing tells of it
        await asyncio.sleep(0.001)


def _event(body: bytes) -> Event:
    return Event(event_id("skyvern", body), "skyvern", body, time.time())


def main() -> None:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--sizes", default="2000,64000", help="bytes of a body, with commas")
    parser.add_argument("--connections", type=int, default=64, help="commits that wait at once")
    args = parser.parse_args()
    for size in map(int, args.sizes.split(",")):
        with tempfile.TemporaryDirectory(prefix="runhook-bench-") as folder:
            print(uvloop.run(one_round(Path(folder), size, args.events, args.connections)), flush=True)


if __name__ == "__main__":
    main()
