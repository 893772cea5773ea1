"""What a page of each list costs, with each filter, among few events and among many, on both databases.

    python bench/lists.py [--count 1000000] [--few 10000] [--database sqlite|postgresql] [--times 15] [--cpu] [--most 2]
                           [--only TEXT] [--keep DIR]

Two ledgers are filled in SQL (`bench/large_ledger.py`), with `--few` runs and with `--count`, each run with an event,
two deliveries and their attempts, and every tenth with a submission; their words are indexed. For each list and filter
the first page of both is read `--times` times in turn, from the ledger and through the JSON API of a receiver; and the
page behind 50,000 rows (the 1,000th), or in the middle where that comes first. Shown is the 95th percentile in
milliseconds, few against many, and their ratio; `rows` is how many the page has, and + says that there are more.
`effort`: rows and pages that PostgreSQL reads, hundreds of instructions of SQLite. `--cpu`: shown is the median of the
processors' time, of client, receiver and database together, for on a busy machine the clock says nothing. `--only`:
pages that have this in their names. `--keep`: the ledgers stay in this folder, and are used again from there. Exit 1
when a ratio is over `--most`.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import httpx2  # noqa: E402
import sqlalchemy as sa  # noqa: E402

from bench.large_ledger import large_ledger  # noqa: E402
from handlers.support import timestamps  # noqa: E402
from receiver.api import cursor  # noqa: E402
from receiver.domain import api_key  # noqa: E402
from receiver.ledger import Ledger, api_keys  # noqa: E402
from receiver.ledger.api_keys import Key as ApiKey  # noqa: E402
from receiver.ledger.filters import Filter  # noqa: E402
from receiver.ledger.lists.paging import Key, Order, Page  # noqa: E402
from tests.servers.deployment import Deployment  # noqa: E402
from tests.servers.valkey import ValkeyProcess  # noqa: E402
from tests.support.backlog import effort  # noqa: E402
from tests.support.ledger import NOW  # noqa: E402
from tests.support.listed import LISTS, NOT_OF_SUBMISSIONS, RARE, filters_among, texts_among  # noqa: E402

LIMIT, DEEP, WARM_UP = 50, 50_000, 3
# Rows that a run has in a list, where these are not one.
_OF_A_RUN = {"deliveries": 2, "attempts": 2}
# A list of submissions takes only their own states.
OTHER_STATES = {"state", "state, dead", "state, waiting"}
KEY_ID, MASTER = "bench", "bench-master-secret-of-32-characters"

# Reads one page; returns how many rows it has, and whether there are more.
Read = Callable[[], tuple[int, bool]]


class Measured(NamedTuple):
    """Milliseconds of a page, how many rows it has, and what the database did where that was measured."""

    ms: float
    rows: str
    effort: int | None = None


class Wanted(NamedTuple):
    """A page. `what`: how it is called. `name`: of the list. `after`: the place at which it begins."""

    what: str
    name: str
    filter: Filter
    after: Key | None = None

    def rows(self, connection: sa.Connection) -> Page:
        """Return it as the ledger's lists do."""
        return LISTS[self.name][0](connection, self.filter, self.after, LIMIT)


class Side(NamedTuple):
    """One of the two ledgers. `runs`: how many it has. `client`: of a receiver on it. `processes`: those that work for
    who reads it."""

    ledger: Ledger
    runs: int
    client: httpx2.Client
    processes: Callable[[], list[int]]

    def pages(self) -> Iterator[Wanted]:
        """Yield what is measured."""
        for name, (_, order) in LISTS.items():
            for what, wanted in {**filters_among(self.runs, hashed=True), **texts_among(self.runs)}.items():
                if name != "submissions" or what not in NOT_OF_SUBMISSIONS:
                    yield Wanted(f"{name} by {what}", name, wanted)
            after = _deep(name, order, self.runs)
            if name == "attempts":
                after = (*after, 1)
            yield Wanted(f"{name}, page 1,000", name, Filter(), after)

    def from_ledger(self, page: Wanted) -> Read:
        """Return what reads the page from the ledger."""

        def read() -> tuple[int, bool]:
            rows, rest = self.ledger.read(page.rows)
            return len(rows), rest is not None

        return read

    def through_api(self, page: Wanted) -> Read:
        """Return what reads the page as a client of the JSON API."""
        after = cursor.encode(f"list_{page.name}", page.after) or ""
        query = {**parameters(page.filter), "limit": LIMIT, "after": after}

        def read() -> tuple[int, bool]:
            found = self.client.get(f"/api/v1/{page.name}", params=query).raise_for_status().json()
            return len(found["items"]), found["next"] is not None

        return read


def _deep(name: str, order: Order, runs: int) -> Key:
    """The place behind DEEP rows of a list, or in its middle: that of a run, each being a millisecond after another."""
    back = min(DEEP * 10 if name == "submissions" else DEEP // _OF_A_RUN.get(name, 1), runs // 2)
    _, *rest = order.columns
    return (NOW + (runs - back) * 0.001, *("" if isinstance(each.type, sa.Text) else 0 for each in rest))


def parameters(wanted: Filter) -> dict[str, Any]:
    """The filter as parameters of a call."""
    found: dict[str, Any] = {}
    for each in fields(wanted):
        value = getattr(wanted, each.name)
        if each.name == "labels":
            found["label"] = [f"{name}={label}" for name, label in value.items()]
        elif each.name in ("since", "until"):
            found |= {} if value is None else {each.name: timestamps.iso(value)}
        elif each.name != "limit":
            found["run" if each.name == "run_id" else each.name] = value
    return {name: value for name, value in found.items() if value}


def alternately(reads: Sequence[Read], sides: Sequence[Side], options: argparse.Namespace) -> list[Measured]:
    """Measure the same page of each side in turn, so that what else goes on at the machine meets both: the 95th
    percentile of the time that it takes, or the median of the processors' time."""
    for _ in range(WARM_UP):  # the first ones read from disk, and make the statements
        rows = [read() for read in reads]
    others = [side.processes() if options.cpu else None for side in sides]
    found: list[list[float]] = [[] for _ in sides]
    for _ in range(options.times):
        for times, read, pids in zip(found, reads, others, strict=True):
            began = _now(pids)
            read()
            times.append(_now(pids) - began)
    place = int((0.5 if options.cpu else 0.95) * (options.times - 1))
    return [
        Measured(sorted(times)[place] * 1000, f"{count}{'+' if more else ''}")
        for times, (count, more) in zip(found, rows, strict=True)
    ]


def _now(others: list[int] | None) -> float:
    if others is None:
        return time.perf_counter()
    return time.process_time() + sum(map(_on_processors, others))


def _on_processors(pid: int) -> float:
    return sum(int(each.read_text().split()[0]) for each in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def servers(it: Ledger) -> list[int]:
    """The processes of PostgreSQL that work for its clients; of SQLite none."""
    if it.dialect == "sqlite":
        return []
    query = sa.text("SELECT pid FROM pg_stat_activity WHERE datname = current_database()")
    return it.read(lambda connection: list(connection.execute(query).scalars()))


def measured(sides: Sequence[Side], options: argparse.Namespace) -> Iterator[tuple[str, list[Measured]]]:
    """Measure each page of both sides, from the ledger with its effort, and through the API."""
    for both in zip(*(side.pages() for side in sides), strict=True):
        what, name = both[0].what, both[0].name
        if options.only not in what:
            continue
        reads = [side.from_ledger(page) for side, page in zip(sides, both, strict=True)]
        found = alternately(reads, sides, options)
        efforts = [effort(side.ledger, page.rows) for side, page in zip(sides, both, strict=True)]
        yield what, [one._replace(effort=work) for one, work in zip(found, efforts, strict=True)]
        if name != "submissions" or what.removeprefix("submissions by ") not in OTHER_STATES:
            reads = [side.through_api(page) for side, page in zip(sides, both, strict=True)]
            yield f"API: {what}", alternately(reads, sides, options)


@contextlib.contextmanager
def side_of(database: str, kept: Path, folder: Path, runs: int) -> Iterator[Side]:
    """A ledger of so many runs, in `kept`, and a receiver on it with a key that may read all."""
    folder.mkdir(mode=0o755)
    with contextlib.ExitStack() as stack:
        it, _ = stack.enter_context(large_ledger(database, kept / f"{database}-{runs}", runs))
        whole = api_key.derive(MASTER, KEY_ID)
        scopes = frozenset({api_key.VIEW})
        row = ApiKey(KEY_ID, "", api_key.digest(whole), api_key.hint(whole), scopes, "", "100000/s", time.time())
        if not it.read(lambda connection: api_keys.one(connection, KEY_ID)):
            it.write(lambda connection: api_keys.create(connection, row))
        valkey = ValkeyProcess(folder / "valkey").start()
        stack.callback(valkey.kill)
        sinks = {name: {"type": "files", "path": str(folder / name)} for name in ("db", "ops", RARE)}
        url = it.url.render_as_string(hide_password=False)
        receiver = Deployment(folder / "receiver", valkey.url, url, {"sinks": sinks})
        receiver.more = {"RUNHOOK_SECRET": MASTER}
        stack.callback(receiver.end)
        receiver.start()
        client = httpx2.Client(base_url=receiver.url, headers={"x-api-key": whole}, trust_env=False, timeout=60)
        stack.enter_context(client)
        yield Side(it, runs, client, lambda: [receiver.pid, *servers(it)])


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--count", type=int, default=1_000_000)
    arguments.add_argument("--few", type=int, default=10_000)
    arguments.add_argument("--times", type=int, default=15)
    arguments.add_argument("--cpu", action="store_true")
    arguments.add_argument("--most", type=float, default=2.0)
    arguments.add_argument("--only", default="")
    arguments.add_argument("--database", choices=("sqlite", "postgresql"), action="append")
    arguments.add_argument("--keep", type=Path, metavar="DIR")
    options = arguments.parse_args()
    over: list[str] = []
    for database in options.database or ("sqlite", "postgresql"):
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="runhook-bench-")))
            folder.chmod(0o755)
            kept = options.keep or folder
            sides = [
                stack.enter_context(side_of(database, kept, folder / f"{runs}", runs))
                for runs in (options.few, options.count)
            ]
            print(f"\n{database:41} {options.few:>10,} {options.count:>12,}  ratio  rows, effort")
            most = 0.0
            for what, (few, many) in measured(sides, options):
                work = "" if few.effort is None else f", {few.effort} → {many.effort}"
                ratio = many.ms / few.ms
                times = f"{few.ms:>7.1f} ms {many.ms:>9.1f} ms  {ratio:>5.2f}"
                print(f"{what:41} {times}  {few.rows} → {many.rows}{work}", flush=True)
                most = max(most, ratio)
                if ratio > options.most:
                    over.append(f"{database}: {what} {ratio:.2f}")
            print(f"largest ratio: {most:.2f}", flush=True)
    if over:
        sys.exit(f"over {options.most}: {'; '.join(over)}")


if __name__ == "__main__":
    main()
