"""What a batch costs in a ledger that holds many events, beside one that holds few: dispatch and delivery.

    python bench/growth.py [--few 10000] [--many 1000000] [--size 128] [--batches 60] [--database sqlite|postgresql]
                            [--warm-up 10] [--keep DIR] [--set NAME=VALUE] [--handed-on]

Two ledgers are filled in SQL, with ids that are spread as real ones are, and small bodies (`bench/large_ledger.py`).
Then batches go through dispatch and into a database sink in turns: one into the small ledger, one into the large one.
Shown is what an event takes, of this process and of PostgreSQL: time, CPU, bytes written and system calls that read,
and the images of whole pages in PostgreSQL's log. The ratio is few to many: 1 is a ledger that does not get slower. CPU
and counts do not depend on how busy the machine is. It begins behind a checkpoint, so each page that is changed writes
its image: the dearest moment of a large ledger. With many batches of `--warm-up` it is over, where `--set` makes
checkpoints rare.

`--keep`: the ledgers stay in this folder, with what was added, and are used again from there; `bench/lists.py` wants
them without. `--set`: a setting of PostgreSQL while it is measured. `--handed-on`: a deliverer waits for each batch,
which is handed on to it; without, it claims it.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.batch_cost import Pipeline  # noqa: E402
from bench.large_ledger import large_ledger  # noqa: E402
from bench.servers import new_folder, new_valkey  # noqa: E402
from receiver.delivery.send_task import to_delivery  # noqa: E402
from receiver.domain.delivery import DeliveryMove  # noqa: E402
from receiver.ledger import Ledger  # noqa: E402
from receiver.ledger.deliveries import attempts  # noqa: E402
from receiver.ledger.deliveries.attempts import AttemptResult  # noqa: E402
from receiver.ledger.deliveries.packed_claims import unpack  # noqa: E402
from receiver.runtime.handover import Offer  # noqa: E402
from tests.support.processes import descendants  # noqa: E402

OWNER: Final = "bench"
IMAGES: Final = "SELECT wal_fpi FROM pg_stat_wal"


@dataclass(frozen=True, slots=True)
class Cost:
    """What a batch took: seconds of time and of CPU, MB written, to the log that makes them safe too, seconds of CPU of
    the server alone, and millions of system calls that read from files."""

    seconds: float
    cpu: float
    written: float
    of_server: float
    reads: float


class Grown:
    """A ledger with so many events, and the pipeline on it. It is closed with `stack`. `handed_on`: see the options."""

    def __init__(
        self,
        stack: ExitStack,
        kept: Path,
        folder: Path,
        database: str,
        redis_url: str,
        count: int,
        settings: dict[str, str],
        *,
        handed_on: bool = False,
    ) -> None:
        path = kept / f"{database}-{count}"
        ledger, self._server = stack.enter_context(large_ledger(database, path, count, settings))
        url = ledger.url.render_as_string(hide_password=False)
        results = url if self._server else f"sqlite:///{folder / 'results.db'}"
        ours = "SELECT count(*) FROM events WHERE source = 'skyvern'"
        before = ledger.read(lambda connection: connection.exec_driver_sql(ours).scalar_one())
        self._ledger, self._batches = ledger, itertools.count(1) if handed_on else None
        self._pipeline = Pipeline(folder, redis_url, url, results, first=before)
        stack.callback(self._pipeline.close)

    def batch(self, size: int) -> Cost:
        """Take a batch through."""
        began, before = time.perf_counter(), self._used()
        if self._batches:
            take_through(self._pipeline, self._ledger, size, next(self._batches))
        else:
            self._pipeline.batch(size)
        seconds, now = time.perf_counter() - began, self._used()
        # A session or a worker of autovacuum that has ended meanwhile says nothing; one that has begun, all it used.
        used = {}
        for pid, each in now.items():
            then = before.get(pid, (0.0, 0.0, 0.0))
            used[pid] = each[0] - then[0], each[1] - then[1], each[2] - then[2]
        cpu, written, reads = (sum(each[place] for each in used.values()) for place in range(3))
        return Cost(seconds, cpu, written, cpu - used[os.getpid()][0], reads)

    def images(self) -> int:
        """Return how many images of pages PostgreSQL's log has got. A session tells of its own a second later."""
        if not self._server:
            return 0
        time.sleep(1.5)
        return self._ledger.read(lambda connection: int(connection.exec_driver_sql(IMAGES).scalar_one()))

    def _used(self) -> dict[int, tuple[float, float, float]]:
        """Return the seconds of CPU, the MB written and the millions of reads so far, by process: this one and the
        server's."""
        used = {}
        for pid in [os.getpid(), *(descendants(self._server.pid) if self._server else ())]:
            with suppress(OSError):  # a worker of autovacuum has ended
                cpu = int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
                counts = dict(re.findall(r"(\w+): (\d+)", Path(f"/proc/{pid}/io").read_text()))
                used[pid] = cpu, int(counts["wchar"]) / 1e6, int(counts["syscr"]) / 1e6
        return used


def take_through(pipeline: Pipeline, ledger: Ledger, size: int, number: int) -> None:
    """Take a batch through that a deliverer waits for: it is handed on, sent and settled."""
    handover, sink = pipeline._dispatcher._handovers["results"], pipeline._delivering._sink
    handover.put(Offer(OWNER, number, size))
    pipeline.dispatch(size)
    handed_on = handover.receive()
    assert handed_on is not None
    claimed = unpack(handed_on.packed)
    receipts = sink.send_many([to_delivery(each, {}) for each in claimed])
    now = time.time()
    results = [
        AttemptResult(
            id=each.id, event_id=each.event_id, created_at=each.created_at, attempt_number=each.attempt_number,
            move=DeliveryMove.ACCEPT, outcome="accepted", reason="", started_at=now, ended_at=now,
            receipt={"id": receipt.id},
        )
        for each, receipt in zip(claimed, receipts, strict=True)
    ]  # fmt: skip
    ledger.write(lambda connection: attempts.settle(connection, OWNER, {number: results}, now))


def main() -> None:
    """Measure."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--few", type=int, default=10_000)
    arguments.add_argument("--many", type=int, default=1_000_000)
    arguments.add_argument("--size", type=int, default=128, help="events of a batch")
    arguments.add_argument("--batches", type=int, default=60)
    arguments.add_argument("--warm-up", type=int, default=10, help="batches before these")
    arguments.add_argument("--database", choices=("sqlite", "postgresql"), action="append")
    arguments.add_argument("--keep", type=Path, metavar="DIR")
    arguments.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    arguments.add_argument("--handed-on", action="store_true")
    options = arguments.parse_args()
    settings = dict(each.split("=", 1) for each in options.set)
    for database in options.database or ("sqlite", "postgresql"):
        with new_folder() as folder, new_valkey(folder) as valkey, ExitStack() as stack:
            grown = []
            for count in (options.few, options.many):
                (folder / str(count)).mkdir()
                kept = options.keep or folder
                here = folder / str(count)
                grown.append(
                    Grown(stack, kept, here, database, valkey.url, count, settings, handed_on=options.handed_on)
                )
            costs: list[list[Cost]] = [[], []]
            images = [0, 0]
            for number in range(options.warm_up + options.batches):
                if number == options.warm_up:
                    images = [each.images() for each in grown]
                for place in (0, 1) if number % 2 else (1, 0):
                    costs[place].append(grown[place].batch(options.size))
            show(database, options.size, [of[options.warm_up :] for of in costs])
            made = [each.images() - before for each, before in zip(grown, images, strict=True)]
            few, many = (count / options.size / options.batches for count in made)
            if many:
                print(f"{database:12}{'mean':9}{few:>9.2f}{many:>9.2f} images of pages")


def show(database: str, size: int, costs: Sequence[Sequence[Cost]]) -> None:
    """Print what an event costs, the cheapest batch, the middle one and the mean, few beside many, and the ratio."""
    units = {"seconds": "µs", "cpu": "µs of CPU", "of_server": "µs of CPU of PostgreSQL", "written": "bytes written"}
    units["reads"] = "reads of files"
    for what, unit in units.items():
        for kind, of in (("cheapest", min), ("median", statistics.median), ("mean", statistics.mean)):
            few, many = (of(getattr(each, what) for each in half) / size * 1e6 for half in costs)
            if few:
                digits = 2 if what == "reads" else 0
                print(
                    f"{database:12}{kind:9}{few:>9,.{digits}f}{many:>9,.{digits}f} {unit:24} {few / many:.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
