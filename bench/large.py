"""Lists, searches and the pipeline in a ledger of 1,000,000 runs, beside one of 10,000, on both databases.

The ledgers are filled in SQL (`bench/large_ledger.py`). Each has a separate Runhook. Pages are read through the JSON
API; the cost of a page is the median CPU time of the receiver and PostgreSQL. For the pipeline the two take turns:
webhooks are posted at full speed, and timed until the last row of a database sink.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from operator import itemgetter
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

from bench import load
from bench.figures import Figure, at_least, at_most, median, spread
from bench.large_ledger import large_ledger
from bench.load import FLAT_OUT, webhooks
from bench.rest import used
from bench.rows import Rows
from bench.system import Runhook, Servers, cpu, get, new_servers
from bench.words import searches
from tests.servers.postgres import PostgresProcess
from tests.support.listed import RARE
from tests.support.processes import descendants

DATABASES: Final = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
TIMES: Final = 7
# Filters of each list that match most rows, some rows, and at most ten rows.
FILTERS: Final[tuple[dict[str, str], ...]] = (
    {},
    {"source": "main"},
    {"source": RARE},
    {"run_prefix": "tsk_50"},
    {"status": "completed"},
    {"status": "failed"},
    {"status": RARE},
    {"run_type": "workflow_run"},
    {"workflow": "wpid_7"},
    {"workflow": RARE},
    {"title": "invoice 77"},
    {"title": "no such title"},
    {"label": "team=billing"},
    {"label": f"team={RARE}"},
    {"reason": "timeout"},
    {"reason": "no such reason"},
)
OF_DELIVERIES: Final = (
    {"sink": "db"},
    {"sink": RARE},
    {"state": "dead"},
    {"state": "waiting"},
    {"state": "dead", "sink": "ops"},
)
LISTS: Final = {
    "runs": (*FILTERS, *OF_DELIVERIES),
    "events": (*FILTERS, *OF_DELIVERIES),
    "deliveries": (*FILTERS, *OF_DELIVERIES),
    "attempts": (*FILTERS, *OF_DELIVERIES),
    "submissions": FILTERS,
}


class Side(NamedTuple):
    """A ledger of `runs` runs and its Runhook. `server`: the ledger's server, if any. `rows`: the sink's rows."""

    runs: int
    runhook: Runhook
    rows: Rows
    server: PostgresProcess | None
    headers: dict[str, str]

    def page(self, path: str) -> float:
        """Return the milliseconds of CPU that a page takes. Raises SystemExit when the request fails."""
        costs = []
        for _ in range(TIMES):
            pids = {self.runhook.pid("serve"), *(descendants(self.server.pid) if self.server else ())}
            before = _all_used(pids)
            status, body = get(self.runhook.port, path, self.headers)
            costs.append((_all_used(pids) - before) * 1000)
            if status != 200:
                raise SystemExit(f"{path}: {status} {body[:300]!r}")
        return median(costs)

    def pipeline(self, first: int, count: int) -> tuple[float, float]:
        """Return rows per second at full speed, and microseconds of CPU per row."""
        requests = webhooks(self.runhook.port, range(first, first + count))
        pids = [*self.runhook.pids(), *([self.server.pid] if self.server else [])]
        before = cpu(pids)
        posted = load.post(self.runhook.port, requests, FLAT_OUT)
        self.rows.wait_for(posted.due)
        last = max(self.rows.at[run_id] for run_id in posted.due)
        return count / (last - posted.began), (cpu(pids) - before) / count * 1e6


def _all_used(pids: set[int]) -> float:
    total = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):  # a worker of autovacuum has ended
            total += used(pid)
    return total


@contextlib.contextmanager
def side(database: str, servers: Servers, runs: int, first: int) -> Iterator[Side]:
    """Fill a ledger, and run Runhook on it."""
    with contextlib.ExitStack() as stack:
        ledger, server = stack.enter_context(large_ledger(database, servers.folder / f"{runs}", runs, with_words=True))
        url = ledger.url.render_as_string(hide_password=False)
        valkey = stack.enter_context(new_servers()).valkey
        table = servers.database()
        sinks: dict[str, Any] = {"results": {"type": "database", "url": table, "table": "results"}}
        runhook = stack.enter_context(Runhook(replace(servers, valkey=valkey), sinks, ledger=url))
        headers = {
            "x-api-key": runhook.command(
                "keys", "create", "bench", "--source", "*", "--scope", "view", "--rate", "100000/s"
            )["key"]
        }
        load.post(runhook.port, webhooks(runhook.port, [first]))
        rows = stack.enter_context(Rows(table, 0.02))
        yield Side(runs, runhook, rows, server, headers)


def pages(few: Side, many: Side, database: str) -> list[Figure]:
    """Return page costs in the larger ledger: the maximum of each list, and each search."""
    found = []
    for name, filters in LISTS.items():
        costs: dict[str, tuple[float, float]] = {}
        for each in filters:
            path = f"/api/v1/{name}?{urlencode({**each, 'limit': 50})}"
            costs[urlencode(each) or "no filter"] = many.page(path), few.page(path)
        dearest, _ = max(costs.items(), key=itemgetter(1))
        middle = median(cost for cost, _ in costs.values())
        note = f" ({dearest}; {costs[dearest][1]:.1f} at {few.runs:,}); median {middle:.1f}"
        title = f"{database}: a page of {name} at {many.runs:,} runs, the dearest of {len(filters)} filters"
        found.append(at_most(title, costs[dearest][0], 15, "{:.1f} ms CPU", note))
    plain, combined = dict[str, float](), dict[str, float]()
    for what, text in searches().items():
        is_combined = database == "PostgreSQL" and "a rare word," in what
        (combined if is_combined else plain)[what] = many.page(f"/api/v1/runs?{urlencode({'text': text, 'limit': 50})}")
    for what, ms, floor in (("searches for words", plain, 15), ("searches with a rare word", combined, 50)):
        if ms:
            slowest, _ = max(ms.items(), key=itemgetter(1))
            title = f"{database}: {what} at {many.runs:,} runs, the dearest of {len(ms)}"
            found.append(at_most(title, ms[slowest], floor, "{:.1f} ms CPU", f" ({slowest})"))
    return found


def growth(few: Side, many: Side, database: str, first: int, count: int, rounds: int) -> list[Figure]:
    """Return the pipeline's throughput in the larger ledger relative to the smaller one."""
    rates: dict[int, list[float]] = {few.runs: [], many.runs: []}
    costs: dict[int, list[float]] = {few.runs: [], many.runs: []}
    for number in range(rounds):
        for each in (few, many) if number % 2 else (many, few):
            rate, cost = each.pipeline(first, count)
            rates[each.runs].append(rate)
            costs[each.runs].append(cost)
        first += count
    ratios, cpu_ratios = (
        [pair[0] / pair[1] for pair in zip(of[many.runs], of[few.runs], strict=True)] for of in (rates, costs)
    )
    name = f"{database}: pipeline at {many.runs:,} runs, of that at {few.runs:,}"
    note = f" ({min(ratios):.2f}–{max(ratios):.2f}); {spread(rates[many.runs])} rows/s"
    return [
        at_least(name, median(ratios), 0.9, "{:.2f}", note),
        Figure(
            f"{database}: CPU of a row at {many.runs:,} runs, of that at {few.runs:,}", spread(cpu_ratios, "{:.2f}")
        ),
    ]


def figures(*, tiny: bool = False, runs: int = 1_000_000) -> Iterator[Figure]:
    """Measure, and yield the figures. `runs`: size of the larger ledger."""
    few, many, count, rounds = (200, 2000, 50, 1) if tiny else (10_000, runs, 5000, 5)
    first = 10_000_000  # run numbers above those already in the ledger
    for database, name in DATABASES.items():
        with (
            new_servers() as servers,
            side(database, servers, few, first) as one,
            side(database, servers, many, first) as two,
        ):
            yield from pages(one, two, name)
            one.pipeline(first + 1, count)
            two.pipeline(first + 1, count)
            yield from growth(one, two, name, first + 1 + count, count, rounds)
