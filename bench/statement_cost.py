"""What PostgreSQL's sessions use for each request of an event's way, in CPU: its record, its row, its settlement.

    python bench/statement_cost.py [--sizes 16,64,256] [--batches 60] [--rounds 2] [--locale C] [--against TREE]

Batches of new runs are recorded and handed on, written by a sink `database`, and settled, on a PostgreSQL with fsync.
After each request the session is waited for to fall asleep, when the kernel counts what it has used. Other work makes
it more: of each round the twentieth part that was cheapest is left out, and the next batch counts. `--locale`: by whose
rules the database compares texts. `--against`: another checkout, which takes turns with this one.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
if "--alone" in sys.argv:  # in another checkout, which goes first with what it has
    sys.path.insert(0, str(Path.cwd()))

from bench.batch_cost import Pipeline  # noqa: E402
from bench.servers import new_folder, new_postgres, new_valkey  # noqa: E402
from handlers.support.postgresql import BoundedConnection, Execution  # noqa: E402
from receiver.delivery.send_task import to_delivery  # noqa: E402
from receiver.domain.delivery import DeliveryMove  # noqa: E402
from receiver.ledger import Ledger  # noqa: E402
from receiver.ledger.deliveries import attempts  # noqa: E402
from receiver.ledger.deliveries.attempts import AttemptResult  # noqa: E402
from receiver.ledger.deliveries.packed_claims import unpack  # noqa: E402
from receiver.runtime.handover import Offer  # noqa: E402

OWNER = "bench"
# Of a request, by what is in its first statement.
REQUESTS = {"record": "INSERT INTO runs", "row": "INSERT INTO results", "settlement": "INSERT INTO attempts"}
# Events before the first batch that counts: by then the sessions keep their plans.
WARM_UP = 5000


class Meter:
    """Notes the µs of CPU that each request has cost its session, by the name of the request."""

    def __init__(self) -> None:
        self.costs: defaultdict[str, list[float]] = defaultdict(list)
        together = BoundedConnection.together

        def measured(connection: BoundedConnection, asked: Sequence[Execution], **more: Any) -> Any:
            text = asked[0].statement.text.decode()
            name = next((name for name, part in REQUESTS.items() if part in text), "")
            before = _used(connection.info.backend_pid)
            found = together(connection, asked, **more)
            self.costs[name].append(_used(connection.info.backend_pid) - before)
            return found

        BoundedConnection.together = measured  # type: ignore[method-assign]


def _used(pid: int) -> float:
    """µs of CPU of a session, once it sleeps."""
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "S":
        pass
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1000


def measure(size: int, batches: int, locale: str) -> list[float]:
    """µs an event of each of REQUESTS."""
    with new_folder() as folder, new_valkey(folder) as valkey, new_postgres(folder) as postgres:
        database = postgres.create_database(locale)
        url = postgres.url(database)
        pipeline, ledger = Pipeline(folder, valkey.url, url, url), Ledger(url)
        meter = Meter()
        warm_up = max(20, WARM_UP // size)
        for number in range(warm_up + batches):
            if number == warm_up:
                meter.costs.clear()
            take_through(pipeline, ledger, size, number)
        pipeline.close()
        ledger.close()
        found = {name: sorted(meter.costs[name]) for name in REQUESTS}
        assert all(len(costs) == batches for costs in found.values()), found
        return [costs[len(costs) // 20] / size for costs in found.values()]


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
    ledger.write_at_once(lambda connection: attempts.settling(connection, OWNER, {number: results}, now))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--sizes", default="16,64,256", help="events of a batch")
    arguments.add_argument("--batches", type=int, default=60)
    arguments.add_argument("--rounds", type=int, default=2)
    arguments.add_argument("--locale", default="C", help="one that this machine has")
    arguments.add_argument("--against", type=Path, help="another checkout")
    arguments.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.alone:
        print(*measure(int(options.sizes), options.batches, options.locale))
        return
    trees = [ROOT, *([options.against.resolve()] if options.against else [])]
    for size in options.sizes.split(","):
        line = [sys.executable, __file__, "--alone", "--sizes", size, "--batches", str(options.batches)]
        line += ["--locale", options.locale]
        found: dict[Path, list[list[float]]] = {tree: [] for tree in trees}
        for number in range(options.rounds):
            for tree in trees if number % 2 == 0 else trees[::-1]:
                out = subprocess.run(line, cwd=tree, check=True, stdout=subprocess.PIPE, text=True).stdout
                found[tree].append([float(each) for each in out.split()[-len(REQUESTS) :]])
        for tree, rounds in found.items():
            least = [min(costs) for costs in zip(*rounds, strict=True)]
            told = ", ".join(f"{name} {cost:.1f}" for name, cost in zip(REQUESTS, least, strict=True))
            print(f"{tree.name}: batches of {size}: {told}, all {sum(least):.1f} µs an event", flush=True)


if __name__ == "__main__":
    main()
