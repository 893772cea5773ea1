"""What a search by words, and the clock's index of words, cost in CPU.

    python bench/words.py [--count 100000] [--ledger sqlite] [--runs 4096]

A ledger gets the documents of `--count` runs: 54 words on average, by Zipf's law of 50,000, four of them of no other
run. Then pages of 50 are searched; the least of five counts, of this process and of PostgreSQL's. `--runs`: runs of
about 2 kB that are recorded and indexed, for what the index costs a run.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import sqlalchemy as sa

from bench.batch_cost import Pipeline
from bench.servers import new_folder, new_postgres, new_valkey
from receiver.domain.words import parse_query
from receiver.ledger import Ledger, words
from tests.support.ledger import with_tables
from tests.support.words import index

DISPATCHED = 256


def vocabulary() -> list[str]:
    """Words, the most common one first."""
    chance = random.Random(7)
    syllables = [a + b for a in "bcdfghklmnprstvz" for b in "aeiou"]
    found: dict[str, None] = {}
    while len(found) < 50_000:
        found["".join(chance.choices(syllables, k=chance.choice([2, 2, 3, 3, 4])))] = None
    return list(found)


def rows(count: int, known: list[str]) -> Iterator[tuple[int, str, str, float, str]]:
    """Yield the rows of `run_texts`."""
    chance = random.Random(1)
    weights = list(itertools.accumulate(1 / (place + 1) for place in range(len(known))))
    for number in range(1, count + 1):
        some = chance.choices(known, cum_weights=weights, k=chance.randint(20, 80))
        rare = (f"x{chance.randrange(10**9)}" for _ in range(4))
        yield (
            number,
            "main",
            f"tsk_{number}",
            float(number),
            f" {' '.join(some[:10])} \n {' '.join([*some[10:], *rare])} ",
        )


def fill(connection: sa.Connection, count: int, known: list[str]) -> None:
    """Write the documents of `count` runs, and make the index once they are there."""
    columns, driver = "seq, source, run_id, changed_at, document", connection.connection.driver_connection
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("DROP TABLE words")
        driver.executemany(f"INSERT INTO run_texts ({columns}) VALUES (?, ?, ?, ?, ?)", rows(count, known))  # type: ignore[union-attr]
    else:
        connection.exec_driver_sql("ALTER TABLE run_texts DROP COLUMN words")
        with driver.cursor().copy(f"COPY run_texts ({columns}) FROM STDIN") as copy:  # type: ignore[union-attr]
            for row in rows(count, known):
                copy.write_row(row)
    words.create_index(connection)


def searches(known: list[str]) -> dict[str, str]:
    """Return what is searched for, by what it is."""
    often, common, seldom, rare = known[1], known[20], known[300], known[30_000]
    return {
        "a common word": f"{often} ",
        "the beginning of a common word": often,
        "two letters": often[:2],
        "a word of 1.4 % of the runs": seldom,
        "a rare word": rare,
        "a word that no run has": "qqqq",
        "two words that few runs share": f"{known[3000]} {known[3001]}",
        "a rare word, and the beginning of a common one": f"{rare} {often}",
        "two words, the last a beginning": f"{known[3000]} {known[100]}",
        "four words": " ".join(known[200:204]),
        "four common words": " ".join(known[50:54]),
        "six very common words": " ".join(known[20:26]),
        "a phrase": f'"{common} {seldom}"',
        "a phrase of two common words": f'"{known[30]} {known[31]}"',
    }


def least(work: Callable[[], Any], pid: int | None) -> float:
    """The least ms of CPU that `work` takes here, and in the processes below `pid`."""
    found = []
    for _ in range(5):
        time.sleep(0.02)
        before = time.process_time() + children(pid)
        work()
        found.append(time.process_time() + children(pid) - before)
    return min(found) * 1e3


def children(pid: int | None) -> float:
    """Seconds of CPU that the children of a process have used."""
    used = 0.0
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split() if pid else ():
        with contextlib.suppress(OSError):  # it has ended
            used += int(Path(f"/proc/{child}/schedstat").read_text().split()[0]) / 1e9
    return used


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--count", type=int, default=100_000)
    arguments.add_argument("--runs", type=int, default=4096)
    arguments.add_argument("--ledger", choices=["postgresql", "sqlite"], default="postgresql")
    options = arguments.parse_args()
    with new_folder() as folder, new_valkey(folder) as valkey, new_postgres(folder) as postgres:
        results, own = (postgres.url(postgres.create_database()) for _ in range(2))
        pid = postgres.pid if options.ledger == "postgresql" else None
        with contextlib.closing(with_tables(Ledger(own if pid else f"sqlite:///{folder / 'searched.db'}"))) as ledger:
            known = vocabulary()
            ledger.alter(lambda connection: fill(connection, options.count, known))
            for what, text in searches(known).items():
                query = parse_query(text)
                find = lambda query=query: ledger.read(lambda it: words.find(it, query, 50))  # noqa: E731
                print(f"{what:50} {least(find, pid):7.1f} ms, {len(find().matches)} runs", flush=True)
        url = results if pid else f"sqlite:///{folder / 'ledger.db'}"
        pipeline = Pipeline(folder, valkey.url, url, results)
        with contextlib.closing(Ledger(url)) as ledger:
            for _ in range(1 + options.runs // DISPATCHED):
                pipeline.dispatch(DISPATCHED)
            before, began = children(pid), time.process_time()
            count = index(ledger)
            clock, session = time.process_time() - began, children(pid) - before
            print(f"to index a run: {clock / count * 1e6:.0f} µs, and {session / count * 1e6:.0f} of PostgreSQL")
        pipeline.close()


if __name__ == "__main__":
    main()
