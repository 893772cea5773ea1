"""A ledger with a long backlog, filled in SQL, and what an operation on it costs."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final

import sqlalchemy as sa

from receiver.domain.breaker import Lane
from receiver.domain.delivery import DeliveryMove
from receiver.ledger import Ledger, agenda, operations, retention, stats
from receiver.ledger.deliveries import attempts, claims, lanes, recovery
from receiver.ledger.deliveries.claimed import Claimed
from receiver.ledger.deliveries.fair_queue import ManyLanes, Rotation
from receiver.ledger.operations import Operation, StepBounds
from receiver.ledger.schema import operations as operation_rows
from receiver.ledger.schema import runs, submissions
from receiver.ledger.selection import Selection
from tests.support.ledger import NOW, every_lane, result_of, run_row, submission_row

OPS, CALLBACK = "ops", "callback"

_EVENTS = """
INSERT INTO events (id, source, run_id, via, run_type, status, outcome, attempt, retry_pending, final, statement,
                    extent, output_null, disposition, unrouted, problem, submission_id, received_at, recorded_at, body)
SELECT 'evt_' || n, 'skyvern', 'tsk_' || n, 'webhook', 'task_v1', 'completed', 'completed', 1, false, true, '',
       '', false, 'new', false, '', '', {now}, {now} - 1000 + n * 0.0001, {body}
FROM {numbers}
"""
_DELIVERIES = """
INSERT INTO deliveries (id, event_id, sink, lane, route, source, run_id, after, state, attempts, due_at, created_at,
                        updated_at)
SELECT {id}, 'evt_' || (1 + n % {events}), '{sink}', {lane}, 'r', 'skyvern', 'tsk_' || (1 + n % {events}), '{after}',
       '{state}', {attempts}, {now} + {late} - 1000 + n * {apart}, {now}, {now}
FROM {numbers}
"""


def fill(
    ledger: Ledger,
    count: int,
    sink: str = OPS,
    state: str = "queued",
    *,
    lanes: int = 0,
    late: float = 0.0,
    apart: float = 0.0001,
    attempts: int = 0,
    after: str = "[]",
    events: int = 100,
    body: str = "{}",
) -> None:
    """Fill the ledger up to `count` deliveries of the sink in this state, over as many `lanes` (0: the sink's own), of
    as many `events`, whose body is `body` with each @ their number.

    The first falls due `late` seconds after 1000 s before NOW, the next each `apart` seconds later.
    """
    postgresql = ledger.dialect == "postgresql"

    def numbers(table: str, condition: str, many: int) -> str:
        known = connection.exec_driver_sql(f"SELECT count(*) FROM {table} WHERE {condition}").scalar_one()
        if postgresql:
            return f"generate_series({known + 1}, {many}) AS numbers(n)"
        recursion = f"WITH RECURSIVE c(n) AS (SELECT {known + 1} UNION ALL SELECT n + 1 FROM c WHERE n < {many})"
        return f"({recursion} SELECT n FROM c WHERE n <= {many}) AS numbers"

    kind = f"{sink}{state}"
    key = f"md5('{kind}' || n)" if postgresql else f"printf('%08x', n * 2654435761 % 4294967296) || '{kind}' || n"
    # Padded, so that the order of lanes is that of numbers.
    padded = f"lpad((n % {lanes})::text, 6, '0')" if postgresql else f"printf('%06d', n % {lanes})"

    def work(it: sa.Connection) -> None:
        nonlocal connection
        connection = it
        cursor: Any = connection.connection.cursor()  # the driver's own, to which a % is nothing but that
        numbered = f"replace('{body}', '@', CAST(n AS text))"
        written = f"convert_to({numbered}, 'UTF8')" if postgresql else f"CAST({numbered} AS BLOB)"
        cursor.execute(_EVENTS.format(now=NOW, body=written, numbers=numbers("events", "true", events)))
        values = {
            "now": NOW,
            "id": f"'dlv_' || {key}",
            "events": events,
            "sink": sink,
            "state": state,
            "late": late,
            "lane": f"'{sink} https://h' || {padded}" if lanes else f"'{sink}'",
            "apart": apart,
            "after": after,
            "attempts": attempts,
            "numbers": numbers("deliveries", f"sink = '{sink}' AND state = '{state}'", count),
        }
        cursor.execute(_DELIVERIES.format(**values))
        cursor.close()

    connection: sa.Connection
    ledger.alter(work)


def shut_lanes(ledger: Ledger, count: int, *, until: float, but: int = -1) -> None:
    """Open the breakers of `count` lanes as `fill` names them, except number `but`."""
    rows = ({"lane": f"{CALLBACK} https://h{n:06d}", "until": until} for n in range(count) if n != but)
    insert = sa.text(
        "INSERT INTO lanes (lane, sink, breaker, failures, until, reason, updated_at)"
        f" VALUES (:lane, '{CALLBACK}', 'open', 5, :until, 'away', {NOW}) ON CONFLICT DO NOTHING"
    )
    ledger.write(lambda connection: connection.execute(insert, list(rows)))


def analyze(ledger: Ledger) -> None:
    """Let the database learn what is in its tables."""
    ledger.alter(lambda connection: connection.exec_driver_sql("ANALYZE"))


class _Undo(Exception):
    pass


def _undone(ledger: Ledger, work: Callable[[sa.Connection], object]) -> None:
    def and_undo(connection: sa.Connection) -> None:
        work(connection)
        raise _Undo

    with contextlib.suppress(_Undo):
        ledger.write(and_undo)


def seconds(ledger: Ledger, work: Callable[[sa.Connection], object], times: int = 5) -> float:
    """Measure how long `work` takes, as the median of some times; each is rolled back."""
    found = []
    for _ in range(times):
        began = time.perf_counter()
        _undone(ledger, work)
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def effort(ledger: Ledger, work: Callable[[sa.Connection], object]) -> int:
    """Measure what the database does for `work`, which is rolled back: rows and pages that PostgreSQL looks at,
    hundreds of instructions of SQLite. Neither depends on how busy the machine is."""
    total = 0

    def measured(connection: sa.Connection) -> None:
        nonlocal total
        with _explained(connection) if ledger.dialect == "postgresql" else _instructions(connection) as found:
            work(connection)
        total = sum(found)

    _undone(ledger, measured)
    return total


@contextlib.contextmanager
def _instructions(connection: sa.Connection) -> Iterator[list[int]]:
    found: list[int] = []
    raw: Any = connection.connection.driver_connection
    raw.set_progress_handler(lambda: found.append(1), 100)
    yield found
    raw.set_progress_handler(None, 0)


@contextlib.contextmanager
def _explained(connection: sa.Connection) -> Iterator[list[int]]:
    found: list[int] = []
    # The driver's own connection: each statement is run twice, first explained, which is undone.
    raw: Any = connection.connection.driver_connection

    @sa.event.listens_for(connection, "before_cursor_execute")
    def _explain(_c: object, _cur: object, statement: str, given: object, _ctx: object, _many: bool) -> None:
        with raw.cursor() as cursor:
            cursor.execute("SAVEPOINT explained")
            cursor.execute("EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) " + statement, given)
            (((explained,),),) = cursor.fetchall()
            cursor.execute("ROLLBACK TO SAVEPOINT explained")
        plan = explained["Plan"]
        found.append(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] + _rows(plan))

    yield found
    sa.event.remove(connection, "before_cursor_execute", _explain)


def _rows(plan: dict[str, Any]) -> int:
    """Count the rows that the scans of a plan have read, with those that they left out."""
    read = plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0) + plan.get("Rows Removed by Index Recheck", 0)
    own = int(read * plan["Actual Loops"]) if "Scan" in plan["Node Type"] else 0
    return own + sum(_rows(each) for each in plan.get("Plans", []))


def make(ledger: Ledger, count: int) -> None:
    """Make `count` deliveries of each kind, and as many events that retention would remove if they were not waited for,
    each of a submitted run.

    Sinks: `ops`, all of whose deliveries were tried before; `new`, of which none was; `tied`, all due at one moment;
    `away`, whose breaker is open and may be probed; `shut`, which may not; `callback`, with a hundred lanes, of which
    all but two are shut; `later`, whose deliveries wait; `held`, for `ops`; `dead`.
    """
    fill(ledger, count, OPS, attempts=1, events=count)
    for sink in ("new", "away", "shut"):
        fill(ledger, count, sink, events=count)
    fill(ledger, count, "tied", apart=0, events=count)
    fill(ledger, count, CALLBACK, lanes=100, events=count)
    fill(ledger, count, "later", "waiting", late=9000, events=count)
    fill(ledger, count, "held", "held", after='["ops"]', events=count)
    fill(ledger, count, "dead", "dead", events=count)
    known = ledger.read(lambda it: it.scalar(sa.select(sa.func.count()).select_from(runs))) or 0
    at = {f"tsk_{number}": NOW - 1000 + number * 0.0001 for number in range(known + 1, count + 1)}
    asked = [submission_row(f"sub_{run_id}", "skyvern", moment, run_id=run_id) for run_id, moment in at.items()]
    begun = [run_row("skyvern", run_id, moment, submission_id=f"sub_{run_id}") for run_id, moment in at.items()]
    ledger.alter(lambda it: [it.execute(sa.insert(submissions), asked), it.execute(sa.insert(runs), begun)])
    if not ledger.read(every_lane):
        shut_lanes(ledger, 100, until=NOW + 1000, but=50)
        for name, until in (("away", NOW), ("shut", NOW + 1000), (f"{CALLBACK} https://h000060", NOW)):
            lane = Lane(name, name.split()[0], breaker="open", failures=5, until=until, opened_at=1)
            ledger.write(lambda connection, lane=lane: lanes.put(connection, lane, NOW))  # type: ignore[misc]
        ledger.write(
            lambda connection: operations.create(connection, "op", Operation("replay", Selection(sink="dead")), NOW)
        )
        nobody = Selection(sink="nobody").to_json()
        ledger.write(lambda it: it.execute(sa.update(operation_rows).values(state="running", selection=nobody)))


def _claim(sink: str, limit: int, **options: Any) -> Callable[[sa.Connection], list[Claimed]]:
    return lambda connection: claims.claim(connection, sink, limit, "w", NOW, **options)


def _settled(connection: sa.Connection) -> None:
    results = [result_of(each, DeliveryMove.ACCEPT) for each in _claim("new", 20)(connection)]
    attempts.settle(connection, "w", results, NOW)


def _reaped(connection: sa.Connection) -> None:
    assert len(_claim("new", 20)(connection)) == 20
    assert recovery.release_claims(connection, "w", NOW) == 20


def _lapsed(connection: sa.Connection) -> None:
    assert len(_claim("new", 20)(connection)) == 20
    assert recovery.lapse_claims(connection, NOW + 16) == 20


def _due(*sinks: str) -> Callable[[sa.Connection], object]:
    return lambda connection: claims.due_sinks(connection, sinks, NOW)


# The sink `later` is lost.
def look_of_the_clock(connection: sa.Connection) -> Any:
    """What the clock asks at each tick."""
    return connection.execute(agenda.QUERY).one()


_CONFIGURED: Final = (OPS, "new", "away", "shut", "tied", CALLBACK, "held", "dead")

# What workers, clocks and receivers do by themselves again and again.
OPERATIONS: Final[dict[str, Callable[[sa.Connection], object]]] = {
    "claim a batch": _claim("new", 64),
    "claim where all was tried before": _claim(OPS, 8),
    "claim of many that are due at one moment": _claim("tied", 64),
    "claim past an open breaker": _claim("shut", 64),
    "claim a probe": _claim("away", 64),
    "claim of many lanes": _claim(CALLBACK, 16, many=ManyLanes(16, 4, Counter(), 0, Rotation())),
    "is something due": _due("new"),
    "is something due behind an open breaker": _due("shut"),
    "is something due to probe with": _due("away"),
    "is something due in many lanes": _due(CALLBACK),
    "what is due of all sinks": _due(*_CONFIGURED),
    "settle": _settled,
    "release the claims of a dead worker": _reaped,
    "lapse claims": _lapsed,
    "is there anything for the clock to do": look_of_the_clock,
    "make waiting deliveries due, of which none is": lambda connection: recovery.make_due(connection, NOW),
    "make waiting deliveries due": lambda connection: recovery.make_due(connection, NOW + 99_999, 100),
    "sweep held deliveries, of which none is to be released": lambda connection: recovery.sweep_held(connection, NOW),
    "release held deliveries": lambda connection: recovery.sweep_held(connection, NOW, ["held"]),
    "remove old events, all waited for": lambda connection: retention.remove(connection, NOW + 99_999),
    "remove old submissions, whose runs have events": lambda it: retention.remove_submissions(it, NOW + 99_999),
    "remove old rows of runs, which have events": lambda it: retention.remove_idle_runs(it, NOW + 99_999),
    "remove old lanes": lambda connection: retention.remove_lanes(connection, NOW + 99_999),
    "a step of a replay that finds none": lambda connection: operations.step(
        connection, "op", NOW, StepBounds(rows=200, seconds=0)
    ),
    "metrics": lambda connection: stats.read(connection, 200),
    "what has an end by time": lambda connection: recovery.any_expired(connection, "away", 500, NOW),
    "end by time": lambda connection: recovery.expire(connection, "away", 500, NOW),
    "what has an end by time in many lanes": lambda connection: recovery.any_expired(connection, CALLBACK, 500, NOW),
}
