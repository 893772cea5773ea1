"""Many events for a long time: does anything grow that should not, and does each event arrive once?

    python bench/soak.py [--ledger postgresql|sqlite] [--minutes 15] [--rate 300] [--trouble] [--samples FILE]

`serve`, `worker` and `clock` run as in production, with three sinks: a table, an HTTP consumer that refuses, breaks
and delays some requests, and files. Events are posted at a steady rate; some twice, and some runs have a second
result. Every few seconds it looks at each process (memory, threads, open files by kind), at Redis, the ledger and the
data directory. At the end it waits until all is delivered, counts what arrived, and prints how each of these figures
went, and which of those that should be still by then grew in the last third of the time. It ends with 1 when an event
is missing, a row is there twice, or a consumer accepted a request twice though nothing was killed.

`--trouble`: meanwhile PostgreSQL is away for a minute, Redis for 20 s, and a dispatcher, then a deliverer, is stopped
for 40 s. `--samples`: all figures, a line of JSON for each look. `--folder`: everything stays there.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.soak_load import Load, body, second, status  # noqa: E402
from bench.soak_system import Soak  # noqa: E402
from receiver.domain.event import delivery_id, event_id  # noqa: E402
from tests.chaos import consumer  # noqa: E402

LOOK_EVERY: Final = 10.0
# Seconds without any progress, after which what is missing is taken for lost.
PATIENCE: Final = 120.0
# What a process has once it has warmed up, however much it does.
STILL: Final = ("private MB", "threads", "open ", "keys", "consumers", "sessions", "data: files")


@contextmanager
def looking(it: Soak, every: float, found: list[dict[str, float]], out: Path | None) -> Iterator[None]:
    """Look at everything now and then, until the block ends."""
    stop, began = threading.Event(), time.monotonic()

    def work() -> None:
        while not stop.wait(every):
            found.append({"seconds": time.monotonic() - began, **it.look()})
            if out:
                with out.open("a") as file:
                    file.write(json.dumps(found[-1]) + "\n")

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def make_trouble(it: Soak, seconds: float) -> None:
    """Each trouble after a fifth of the time."""
    pause = seconds / 5

    def stopped(name: str) -> None:
        pid = it.worker_child(name)
        os.kill(pid, signal.SIGSTOP)
        time.sleep(min(40.0, pause / 2))
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    began = time.monotonic()
    for number, trouble in enumerate(("PostgreSQL", "Redis", "dispatch", "results"), 1):
        time.sleep(max(0.0, began + number * pause - time.monotonic()))
        print(f"{time.monotonic() - began:4.0f} s: {trouble}", flush=True)
        if trouble == "PostgreSQL":
            it.postgres.kill()
            time.sleep(min(60.0, pause / 2))
            it.postgres.start()
        elif trouble == "Redis":
            it.valkey.kill()
            time.sleep(min(20.0, pause / 2))
            it.valkey.start()
        else:
            stopped(trouble)


def wait_for_all(it: Soak, count: int) -> None:
    """Wait until so many events are recorded and all is delivered, or nothing moves any more."""
    seen, since = dict[str, int](), time.monotonic()
    while time.monotonic() < since + PATIENCE:
        recorded, states = it.recorded(), it.states()
        now = {**recorded, **states}
        if sum(recorded.values()) == count and not set(states) - {"delivered", "dead"}:
            return
        if now != seen:
            seen, since = now, time.monotonic()
        time.sleep(2)


def verdict(it: Soak, count: int, *, killed: bool) -> list[str]:
    """What is wrong. `count`: runs that were posted."""
    numbers = range(1, count + 1)
    seconds = sum(map(second, numbers))
    of_hook = [number for number in numbers if status(number) == "failed"]
    of_archive = sum(status(number) == "terminated" for number in numbers)
    wrong = []

    def check(what: str, got: object, expected: object) -> None:
        print(f"{what}: {got}", flush=True)
        if got != expected:
            wrong.append(f"{what}: {got}, not {expected}")

    recorded = it.recorded()
    check("events", sum(recorded.values()), count + seconds)
    # Of a run whose first result came after its second one, that goes to nobody.
    late = recorded.get("superseded", 0)
    check("deliveries", it.states(), {"delivered": count + seconds - late + len(of_hook) + of_archive})
    with it.results.connect() as at:
        query = "SELECT count(*), count(DISTINCT run_id) FROM results"
        check("rows, runs", tuple(at.exec_driver_sql(query).one()), (count, count))
        query = "SELECT count(*) FROM results WHERE (output->>'version') = '2'"
        check("rows of second results", at.exec_driver_sql(query).scalar_one(), seconds)
    arrived = Counter(each.key for each in consumer.read(it.consumed) if each.answered)
    keys = {delivery_id(event_id("skyvern", body(number)), "hook") for number in of_hook}
    check("requests that never came", len(keys - arrived.keys()), 0)
    check("requests that nobody sent", len(arrived.keys() - keys), 0)
    doubled = sum(arrived.values()) - len(arrived)
    check("requests that came again", doubled, doubled if killed else 0)
    check("folders", sum(1 for _ in (it.folder / "archive" / "task_v1").iterdir()), of_archive)
    print("attempts:", it.attempts())
    return wrong


def growing(found: Sequence[Mapping[str, float]]) -> list[str]:
    """What should be still and was more in the last third of the time than ever in the second: a tenth, and one."""
    names = dict.fromkeys(name for each in found for name in each if any(word in name for word in STILL))
    told = []
    for name in names:
        values = [each.get(name, 0.0) for each in found]
        third = len(values) // 3
        before, after = (max(part, default=0.0) for part in (values[third:-third], values[-third:]))
        if third and after > before * 1.1 + 1:
            told.append(f"{name}: {before:,.1f}, then {after:,.1f}")
    return told


def show(found: list[dict[str, float]]) -> None:
    """Print how each figure went: at the beginning, after each quarter, and the largest."""
    names = dict.fromkeys(name for each in found for name in each if name != "seconds")
    print(f"{'':44}{'first':>10}{'1/4':>10}{'1/2':>10}{'3/4':>10}{'last':>10}{'most':>10}")
    for name in names:
        values = [each[name] for each in found if name in each]
        places = [round((len(values) - 1) * quarter / 4) for quarter in range(5)]
        row = [*(values[place] for place in places), max(values)]
        print(f"{name[:43]:44}" + "".join(f"{value:>10,.1f}" for value in row))


def main() -> None:
    """Soak."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--ledger", choices=["postgresql", "sqlite"], default="postgresql")
    arguments.add_argument("--minutes", type=float, default=15.0)
    arguments.add_argument("--rate", type=float, default=300.0, help="runs a second")
    arguments.add_argument("--trouble", action="store_true")
    arguments.add_argument("--samples", type=Path, metavar="FILE")
    arguments.add_argument("--folder", type=Path, metavar="DIR")
    options = arguments.parse_args()
    seconds = options.minutes * 60
    found: list[dict[str, float]] = []
    with ExitStack() as stack:
        if options.folder:
            folder = options.folder
            folder.mkdir()
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="runhook-soak-")))
        folder.chmod(0o755)
        it = Soak(folder, options.ledger, stack)
        load = Load(it.port, options.rate)
        with looking(it, min(LOOK_EVERY, seconds / 20), found, options.samples):
            if options.trouble:
                make_trouble(it, seconds)
                time.sleep(seconds / 5)
            else:
                time.sleep(seconds / 2)
                print("keys after half of the time:", dict(sorted(it.keys().items())), flush=True)
                time.sleep(seconds / 2)
            count = load.end()
            print(f"{count} runs posted; answers: {dict(load.answers)}", flush=True)
            wait_for_all(it, count + sum(map(second, range(1, count + 1))))
        print("keys at the end:", dict(sorted(it.keys().items())))
        show(found)
        print("grew in the last third:", "; ".join(growing(found)) or "nothing")
        wrong = verdict(it, count, killed=options.trouble)
        print("\n".join(["", *wrong]) if wrong else "nothing is missing, and nothing twice")
        raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
