"""The time line of bench/latency.py: starts a command of runhook whose functions stamp a file. Not part of the product.

python bench/latency_trace.py STAMPS worker
"""

from __future__ import annotations

import functools
import importlib
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# What is stamped at its end, and with "(" before its name at its beginning. In words for the time line.
STAGES = {
    "receiver.inbox.reader:InboxReader.read": "dispatch has read it",
    "receiver.dispatch.decider:EventDecider.parse": "parsed",
    "receiver.ledger.events:known": "runs and submissions locked, history read",
    "receiver.ledger.events:record": "events and deliveries recorded",
    "receiver.ledger.engine:Ledger.write": "committed",
    "receiver.inbox.reader:InboxReader.done": "entry acked and deleted",
    "receiver.wakeups.flags:wake_sinks": "sink woken",
    "receiver.wakeups.nudges:NudgeWait.wait": "deliverer has heard",
    "receiver.ledger.deliveries.claims:claim": "claim's statements done",
    "receiver.delivery.offer:Offers.load": "delivery and body had, as handed on",
    "receiver.ledger.engine:Ledger.read": "delivery and body read from the ledger",
    "handlers.database.sink:DatabaseSink.send_many": "row committed",
    "receiver.delivery.deliverer:Deliverer._settle": "settled",
}


def _stamped(function: Any, name: str, file: int) -> Any:
    @functools.wraps(function)
    def stamping(*arguments: Any, **named: Any) -> Any:
        began = time.monotonic()
        try:
            return function(*arguments, **named)
        finally:
            os.write(file, f"{began:.6f} {time.monotonic():.6f} {os.getpid()} {name}\n".encode())

    return stamping


def _install(path: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for place in STAGES:
        module, _, name = place.partition(":")
        owner: Any = importlib.import_module(module)
        *classes, function = name.split(".")
        for each in classes:
            owner = getattr(owner, each)
        original = getattr(owner, function)
        stamped = _stamped(original, place, file)
        setattr(owner, function, stamped)
        for other in list(sys.modules.values()):  # those that have imported its name
            if getattr(other, function, None) is original:
                setattr(other, function, stamped)


def show_time_line(path: Path, spans: Sequence[tuple[float, float]], log: str) -> None:
    """Print for each call that lone events meet when it began and ended after the POST: medians, in milliseconds.

    `spans`: when each was posted, and when its row was seen.
    """
    stamps = sorted(line.split() for line in path.read_text().splitlines())
    calls = [(float(began), float(ended), int(pid), name) for began, ended, pid, name in stamps]
    seen: dict[tuple[int, str, int], list[tuple[float, float]]] = {}
    for posted, arrived in spans:
        numbers: dict[tuple[int, str], int] = {}
        for began, ended, pid, name in calls:
            if posted <= ended <= arrived + 0.02:
                number = numbers[pid, name] = numbers.get((pid, name), 0) + 1
                seen.setdefault((pid, name, number), []).append((began - posted, ended - posted))
    often = {key: each for key, each in seen.items() if len(each) > len(spans) / 2}
    if not often:
        raise SystemExit(f"nothing was stamped:\n{log}")
    lines = [
        (
            statistics.median(ended for _, ended in each) * 1000,
            statistics.median(began for began, _ in each) * 1000,
            f"{pid} {STAGES[name]} ({name.partition(':')[2]})",
        )
        for (pid, name, _), each in often.items()
    ]
    arrival = statistics.median(arrived - posted for posted, arrived in spans) * 1000
    lines.append((arrival, arrival, "THE ROW IS SEEN"))
    print("  began    ended   process, what   (ms after the POST was due; medians of", len(spans), "lone events)")
    for ended, began, what in sorted(lines):
        print(f"{began:7.2f}  {ended:7.2f}   {what}")


if __name__ == "__main__":
    sys.path[0] = str(Path.cwd())
    import receiver.cli
    import receiver.delivery.deliverer
    import receiver.dispatch.dispatcher

    _install(sys.argv[1])
    sys.argv[1:] = sys.argv[2:]
    sys.argv[0] = "runhook"
    receiver.cli.main()
