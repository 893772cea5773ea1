"""How much memory and time a dispatcher and a worker of a sink take for one large body, in a process each.

    python bench/body_memory.py [--mib 16] [--mib 64]

A body of each shape is dispatched to an SQLite ledger, and built as the delivery that a sink is given. Peak memory is
that of the whole process, program included. Linux only.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from receiver.domain.event import Event, event_id  # noqa: E402


def output(shape: str, size: int) -> bytes:
    """JSON of about `size` bytes."""
    if shape == "text":
        return b'{"text":"' + b"x" * size + b'"}'
    if shape == "rows":
        text = bytearray(b"[1")
        for number in range(size // 58):
            row = {"id": number, "name": f"item {number}", "price": number * 1.5, "in_stock": True}
            text += b"," + json.dumps(row, separators=(",", ":")).encode()
        return bytes(text + b"]")
    unit = {"lists": b"[],", "objects": b'{"a":1},', "numbers": b"1234567,"}[shape]
    return b"[" + unit * (size // len(unit)) + b"1]"


SHAPES = ("text", "rows", "numbers", "objects", "lists")


def measure(part: str, shape: str, size: int) -> None:
    """Print peak memory in bytes and seconds of `part`, "dispatch" or "sink", for one body."""
    logging.disable()
    body = b'{"run_id":"tsk_1","run_type":"task_v2","status":"completed","output":' + output(shape, size) + b"}"
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    event = Event(event_id("skyvern", body), "skyvern", body, 1.7e9)
    del body
    with tempfile.TemporaryDirectory() as folder:
        began = dispatch(event, folder) if part == "dispatch" else deliver(event)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10, time.process_time() - began)


def dispatch(event: Event, folder: str) -> float:
    """Record an event. Returns when that began."""
    import redis

    from receiver.config.destinations import RouteConfig
    from receiver.config.models import DEFAULT_REDACT
    from receiver.dispatch.dispatcher import Dispatcher
    from receiver.domain.redaction import Redactor
    from receiver.inbox.reader import InboxReader
    from receiver.ledger import Ledger
    from receiver.ledger.migrate import ensure_schema
    from receiver.routing.router import Router

    ledger = Ledger(f"sqlite:///{folder}/ledger.db")
    ensure_schema(ledger)
    client = redis.Redis(port=1)
    routes = [RouteConfig(name="all", when='run.status == "completed"', to=["results"])]
    it = Dispatcher(ledger, Router(routes), Redactor(DEFAULT_REDACT), InboxReader(client, "d"), client)
    began = time.process_time()
    it.dispatch([event])
    return began


def deliver(event: Event) -> float:
    """Build the delivery of an event, and its row for the database sink. Returns when that began."""
    from datetime import UTC, datetime

    from handlers.database.columns import Columns
    from receiver.delivery.send_task import to_delivery
    from receiver.ledger.deliveries.claimed import Claimed

    known = dict.fromkeys(Claimed.__slots__, "") | {"body": event.body, "received_at": 1.7e9, "run_id": "tsk_1"}
    claimed = Claimed(
        **(
            known
            | {
                "id": "dlv_1",
                "event_id": "evt_1",
                "sink": "results",
                "spent": 0,
                "attempt_number": 1,
                "labels": {},
                "run_events": 1,
                "via": "webhook",
            }
        )
    )  # type: ignore[arg-type]
    began = time.process_time()
    delivery = to_delivery(claimed, {})
    Columns({}).row(delivery, datetime.now(UTC))
    return began


def main() -> None:
    """Measure each part with each shape and size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, action="append", help="size of a body in MiB; may be repeated")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        measure(args.one[0], args.one[1], int(args.one[2]))
        return
    for mib in args.mib or [16, 64]:
        for shape in SHAPES:
            cells = []
            for part in ("dispatch", "sink"):
                command = [sys.executable, __file__, "--one", part, shape, str(mib << 20)]
                done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
                found = done.stdout.split()
                took = f"{int(found[0]) >> 20:5d} MiB {float(found[1]):5.1f} s" if found else done.stderr[-200:]
                cells.append(f"{part} {took}")
            print(f"{mib:3d} MiB of {shape:8s}", "   ".join(cells), flush=True)


if __name__ == "__main__":
    main()
