"""What the clock's index of words costs a run in CPU, by the size of its batches, beside nothing else.

    python bench/text_index.py [--runs 4096] [--batches 64,256,1024] [--rounds 3] [--ledger sqlite] [--against TREE]

Runs of about 2 kB are recorded, and then indexed at a stretch, without rests. What the clock's process takes, the
session of PostgreSQL that does most, and all its other processes are told apart; the least of all rounds counts.
`--batches`: runs of a batch; 0 for what the tree takes by itself. `--against`: another checkout, which takes turns.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
if "--alone" in sys.argv:  # in another checkout, which goes first with what it has
    sys.path.insert(0, str(Path.cwd()))

from bench.batch_cost import Pipeline  # noqa: E402
from bench.servers import new_folder, new_postgres, new_valkey  # noqa: E402
from receiver.domain.redaction import Redactor  # noqa: E402
from receiver.ledger import Ledger  # noqa: E402
from receiver.ledger.text_index import reading  # noqa: E402
from receiver.ledger.text_index.indexing import TextIndexer  # noqa: E402

# Events of a dispatched batch.
DISPATCHED = 256
NAMES = ("clock", "its session", "PostgreSQL's other processes")


def measure(runs: int, batch: int, ledger_kind: str) -> tuple[float, ...]:
    """Seconds of CPU a run: of this process, of the busiest session, and of the other processes of PostgreSQL."""
    with new_folder() as folder, new_valkey(folder) as valkey, new_postgres(folder) as postgres:
        results = postgres.url(postgres.create_database())
        url = results if ledger_kind == "postgresql" else f"sqlite:///{folder / 'ledger.db'}"
        pipeline, ledger = Pipeline(folder, valkey.url, url, results), Ledger(url)
        if batch:
            reading.BATCH = batch  # type: ignore[misc]
        indexer = TextIndexer(ledger, Redactor([]))
        pipeline.dispatch(DISPATCHED)
        _index(indexer)
        for _ in range(runs // DISPATCHED):
            pipeline.dispatch(DISPATCHED)
        before, began = _sessions(postgres.pid), time.process_time()
        count, ended = _index(indexer), time.process_time()
        after = _sessions(postgres.pid)
        pipeline.close()
        ledger.close()
        of_sessions = [seconds - before.get(pid, 0.0) for pid, seconds in after.items()]
        busiest = max(of_sessions)
        return tuple(each / count for each in (ended - began, busiest, sum(of_sessions) - busiest))


def _index(indexer: TextIndexer) -> int:
    count = 0
    while some := indexer.run(60.0, lambda _: None):
        count += some
    return count


def _sessions(pid: int) -> dict[str, float]:
    """Seconds of CPU that each child process of one has used, once they are at rest."""
    time.sleep(0.1)
    used = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(OSError):  # it has ended
            used[child] = int(Path(f"/proc/{child}/schedstat").read_text().split()[0]) / 1e9
    return used


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--runs", type=int, default=4096)
    arguments.add_argument("--batches", default="0", help="runs of a batch, with commas")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--ledger", choices=["postgresql", "sqlite"], default="postgresql")
    arguments.add_argument("--against", type=Path, help="another checkout")
    arguments.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.alone:
        print(*measure(options.runs, int(options.batches), options.ledger))
        return
    trees = [ROOT, *([options.against.resolve()] if options.against else [])]
    line = [sys.executable, __file__, "--alone", "--runs", str(options.runs), "--ledger", options.ledger]
    for batch in options.batches.split(","):
        found: dict[Path, list[list[float]]] = {tree: [] for tree in trees}
        for number in range(options.rounds):
            for tree in trees if number % 2 == 0 else trees[::-1]:
                command = [*line, "--batches", batch]
                out = subprocess.run(command, cwd=tree, check=True, stdout=subprocess.PIPE, text=True).stdout
                found[tree].append([float(each) for each in out.split()[-len(NAMES) :]])
        for tree in trees:
            least = [min(each) * 1e6 for each in zip(*found[tree], strict=True)]
            told = ", ".join(f"{name} {cost:.1f} µs" for name, cost in zip(NAMES, least, strict=True))
            print(f"{tree.name:12} batches of {batch if int(batch) else 'its own'}: {told} a run", flush=True)


if __name__ == "__main__":
    main()
