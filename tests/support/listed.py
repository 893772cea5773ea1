"""A ledger with any number of runs, filled in SQL, for lists: most things are common, some are rare."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Final

import sqlalchemy as sa

from receiver.domain.event import event_id
from receiver.ledger import Ledger
from receiver.ledger.lists import deliveries, events, runs, submissions
from receiver.ledger.lists.filters import Filter
from receiver.ledger.lists.paging import Key, KeysetList, Page
from tests.support import run_ids
from tests.support.ledger import NOW

# A source, status, workflow, label and sink that ten runs have, however many there are.
RARE: Final = "rare"

# The lists, each with its order.
LISTS: Final[dict[str, tuple[Callable[[sa.Connection, Filter, Key | None, int, int], Page], KeysetList]]] = {
    "runs": (runs.list_runs, runs.LISTING),
    "events": (events.list_events, events.LISTING),
    "deliveries": (deliveries.list_deliveries, deliveries.LISTING),
    "attempts": (deliveries.list_attempts, deliveries.LISTING),
    "submissions": (submissions.list_submissions, submissions.LISTING),
}
# Filters, by what they filter: what most rows have, what some have, and what few or none have; those whose rows are the
# same few however many there are stand in `filters_among`.
_FILTERS: Final[dict[str, dict[str, Any]]] = {
    "nothing": {},
    "source": {"source": "main"},
    "source, rare": {"source": RARE},
    "run prefix": {"run_prefix": "tsk_50"},
    "status": {"status": ("completed",)},
    "status, failed": {"status": ("failed", "timed_out")},
    "status, rare": {"status": (RARE,)},
    "run type": {"run_type": "workflow_run"},
    "workflow": {"workflow": "wpid_7"},
    "workflow, rare": {"workflow": RARE},
    "title": {"title": "invoice 77"},
    "title, none": {"title": "no such title"},
    "label": {"labels": {"team": "billing"}},
    "label, rare": {"labels": {"team": RARE}},
    "route": {"route": "all"},
    "sink": {"sink": "db"},
    "sink, rare": {"sink": RARE},
    "state": {"state": ("delivered",)},
    "state, dead": {"state": ("dead",)},
    "state, waiting": {"state": ("waiting",)},
    "state and sink": {"state": ("dead",), "sink": "ops"},
    "reason": {"reason": "timeout"},
    "reason, none": {"reason": "no such reason"},
}
# What says nothing of a submission.
NOT_OF_SUBMISSIONS: Final = {"route", "sink", "sink, rare", "state and sink", "event", "event, cut short"}

_OUTCOME = (
    f"CASE WHEN n <= 10 THEN '{RARE}' WHEN n % 25 = 3 THEN 'failed' WHEN n % 100 = 5 THEN 'timed_out'"
    " ELSE 'completed' END"
)
_LABELS = (
    f"""CASE WHEN n <= 10 THEN '{{"team": "{RARE}"}}' WHEN n % 100 = 9 THEN '{{"team": "billing"}}' ELSE '{{}}' END"""
)
_SOURCE = f"CASE WHEN n <= 10 THEN '{RARE}' WHEN n % 50 = 7 THEN 'other' ELSE 'main' END"
_TYPE = "CASE WHEN n % 3 = 0 THEN 'task_v1' ELSE 'workflow_run' END"
# Runs whose rows are written one table after another.
_STEP = 20_000
# Each is a millisecond after the one before.
_AT = "{now} + n * 0.001"
_SECOND = f"{run_ids.FIRST} + n / {run_ids.A_SECOND}"

_RUNS = f"""
INSERT INTO runs (source, run_id, run_type, status, outcome, final, title, workflow_id, failure_reason, event_id,
                  events, labels, first_seen_at, updated_at)
SELECT {_SOURCE}, 'tsk_' || n, {_TYPE}, {_OUTCOME}, {_OUTCOME}, true, 'Invoice ' || n,
       CASE WHEN n <= 10 THEN '{RARE}' WHEN n % 3 = 0 THEN NULL ELSE 'wpid_' || (n % 100) END,
       CASE WHEN n % 25 = 3 THEN 'Timeout after ' || n || ' s' END, {{event}}, 1,
       {{labels}},
       {_AT}, {_AT}
FROM filled
"""
_EVENTS = f"""
INSERT INTO events (id, source, run_id, via, run_type, status, outcome, attempt, retry_pending, final, statement,
                    extent, output_null, disposition, unrouted, problem, submission_id, received_at, recorded_at, body)
SELECT {{event}}, {_SOURCE}, 'tsk_' || n, 'webhook', {_TYPE}, {_OUTCOME}, {_OUTCOME}, 1, false, true, 'f', '', false,
       'new', false, '', '', {_AT}, {_AT}, {{body}}
FROM filled
"""
_STATE = """CASE WHEN n % 50 = 3 THEN 'dead' WHEN n % 1000 = 4 THEN 'waiting' WHEN n % 1000 = 6 THEN 'cancelled'
                 WHEN n > {count} - 20 THEN 'queued' ELSE 'delivered' END"""
_DELIVERIES = f"""
INSERT INTO deliveries (id, event_id, sink, lane, route, source, run_id, state, attempts, due_at, reason, created_at,
                        updated_at)
SELECT {{delivery}}, {{event}}, {{name}}, 's', 'all', {_SOURCE}, 'tsk_' || n, {_STATE}, 1, {_AT},
       CASE WHEN n % 50 = 3 THEN 'timeout of the sink' ELSE '' END, {_AT}, {_AT}
FROM filled
"""
_ATTEMPTS = f"""
INSERT INTO attempts (delivery_id, number, outcome, reason, receipt, started_at, ended_at, worker)
SELECT {{delivery}}, 1, 'accepted', '', {{receipt}}, {_AT}, {_AT}, 'w' FROM filled
"""
_SUBMISSIONS = f"""
INSERT INTO submissions (id, source, key_id, call, state, run_id, run_type, title, labels, request_hash, reason,
                         created_at, updated_at)
SELECT 'sub_' || n, {_SOURCE}, 'key', 'tasks', CASE WHEN n % 50 = 0 THEN 'rejected' ELSE 'accepted' END, 'tsk_' || n,
       {_TYPE}, 'Invoice ' || n,
       {{labels}},
       'h', '', {_AT}, {_AT}
FROM filled WHERE n % 10 = 0
"""


def source_of(number: int) -> str:
    """Return the source of a filled run."""
    return RARE if number <= 10 else "other" if number % 50 == 7 else "main"


def filters_among(count: int, *, hashed: bool = False) -> dict[str, Filter]:
    """Return the filters for a ledger with `count` runs, filled with ids that are `hashed` or not."""
    end, middle = NOW + count * 0.001, str(count // 2)
    placed = {
        "run": {"run_id": f"tsk_{middle}"},
        "run prefix, rare": {"run_prefix": f"tsk_{middle[:-1]}"},  # eleven runs
        "event": {"event_id": f"evt_{_second(count // 2)}{_md5(middle)[:24]}" if hashed else f"evt_{middle}"},
        "event, cut short": {"event_id": f"evt_{_second(count // 2)}" if hashed else "evt_1"},
        "since": {"since": end - 60},
        "until": {"until": end - 5},
        "since and until": {"since": end - 6, "until": end - 5},
    }
    return {what: Filter(**fields) for what, fields in {**_FILTERS, **placed}.items()}


def fill(ledger: Ledger, count: int, *, hashed: bool = False) -> None:
    """Fill the ledger up to `count` runs, each with an event of two deliveries, one attempt each.

    `hashed`: ids are as real ones, which begin with the second of the run, in which they are spread.
    """
    ledger.alter(lambda connection: fill_within(connection, count, hashed=hashed))


def fill_within(connection: sa.Connection, count: int, *, hashed: bool = False) -> None:
    """Do as `fill`, in a transaction of the caller's."""
    known = connection.exec_driver_sql("SELECT count(*) FROM runs").scalar_one()
    driver: Any = connection.connection.driver_connection
    if connection.dialect.name == "postgresql":
        series, second = "generate_series({first}, {last}) AS s(n)", f"lpad(to_hex({_SECOND}), 7, '0')"
        empty = "TRUNCATE filled"  # rows that are only deleted are walked past at each step
        body = "convert_to('{\"run_id\": \"tsk_' || n || '\"}', 'UTF8')"
    else:
        series = (
            "(WITH RECURSIVE c(n) AS (SELECT {first} UNION ALL SELECT n + 1 FROM c WHERE n < {last}) SELECT n FROM c)"
        )
        second, empty = f"printf('%07x', {_SECOND})", "DELETE FROM filled"
        body = "CAST('{\"run_id\": \"tsk_' || n || '\"}' AS BLOB)"
        driver.create_function("md5", 1, _md5, deterministic=True)  # which PostgreSQL has
    values = {"now": NOW, "count": count, "body": body, "labels": _LABELS, "receipt": '\'{"id": "x"}\''}
    values["event"] = "'evt_' || second || substr(hash, 1, 24)" if hashed else "'evt_' || n"
    cursor = driver.cursor()  # the driver's own, to which a % is nothing but that
    cursor.execute("CREATE TEMPORARY TABLE filled (n BIGINT, second TEXT, hash TEXT)")
    made = f"'g' || {second}, md5('' || n)" if hashed else "'', ''"
    for first in range(known + 1, count + 1, _STEP):
        numbers = series.format(first=first, last=min(first + _STEP - 1, count))
        cursor.execute(empty)
        cursor.execute(f"INSERT INTO filled SELECT n, {made} FROM {numbers}")
        for statement in (_RUNS, _EVENTS, _SUBMISSIONS):
            cursor.execute(statement.format(**values))
        for sink, name, at in (("db", "'db'", 5), ("ops", f"CASE WHEN n <= 10 THEN '{RARE}' ELSE 'ops' END", 9)):
            other = f"substr(hash, {at}, 24)"  # a hash as well, and quickly made
            delivery = f"'dlv_' || second || {other}" if hashed else f"'dlv_{sink}_' || n"
            cursor.execute(_DELIVERIES.format(delivery=delivery, name=name, **values))
            cursor.execute(_ATTEMPTS.format(delivery=delivery, **values))
    cursor.execute("DROP TABLE filled")
    cursor.close()


def _second(number: int) -> str:
    return event_id("", b'"%b"' % run_ids.run_id(number).encode())[4:12]


def _md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()
