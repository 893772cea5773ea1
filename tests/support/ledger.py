"""Rows in a ledger, made and settled as the parts do it."""

from __future__ import annotations

import functools
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from receiver.domain import deduplication
from receiver.domain.breaker import Lane
from receiver.domain.delivery import DeliveryMove
from receiver.domain.event import Event, event_id
from receiver.domain.new_event import NewDelivery, NewEvent
from receiver.domain.parsed_event import ParsedEvent
from receiver.domain.redaction import Redactor
from receiver.domain.run import RunKey, parse
from receiver.ledger import Connection, Ledger, operations, schema
from receiver.ledger.deliveries import attempts, claims, lanes
from receiver.ledger.deliveries.attempts import AttemptResult
from receiver.ledger.deliveries.claimed import Claimed, load_bodies
from receiver.ledger.deliveries.creation import ClaimAtOnce
from receiver.ledger.lists import words
from receiver.ledger.migrate import ensure_schema
from receiver.ledger.operations import STEP, StepBounds
from receiver.ledger.recording import load, write
from receiver.ledger.schema import events as tables
from receiver.ledger.schema import lanes as lane_rows
from receiver.ledger.schema import runs, to_index
from tests.support import queries
from tests.support.waiting import eventually

NOW = 1_700_000_000.0


@functools.cache
def _tables() -> bytes:
    """An SQLite ledger without rows: making its tables takes longer than most tests of it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        ledger = Ledger(f"sqlite:///{path}")
        ensure_schema(ledger)
        ledger.close()
        return path.read_bytes()


def with_tables(ledger: Ledger) -> Ledger:
    """The same ledger, its tables made or brought up to date."""
    if ledger.dialect == "sqlite" and not (path := Path(str(ledger.url.database))).exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_tables())
        return ledger
    ensure_schema(ledger)
    return ledger


def new_event(
    run_id: str, *sinks: str | NewDelivery, disposition: str = "new", source: str = "skyvern", **fields: object
) -> NewEvent:
    body = json.dumps({"run_id": run_id, "status": "completed", "output": {"n": 1}, **fields}).encode()
    event = Event(event_id(source, body), source, body, NOW)
    run = parse(body)
    made = [sink if isinstance(sink, NewDelivery) else NewDelivery(sink, "everything") for sink in sinks]
    return NewEvent(
        event,
        run,
        body,
        deduplication.facts_of(event.id, run, run.data, run.data),
        disposition=disposition,
        newest=True,
        deliveries=made,
    )


def lock_runs(connection: sa.Connection, keys: Sequence[RunKey], now: float) -> dict[RunKey, Any]:
    """Lock runs, and make the rows of those that have none."""
    return load.lock(connection, keys, now, needed=keys)


def record(ledger: Ledger, *batch: NewEvent, now: float = NOW) -> set[str]:
    return ledger.write(lambda connection: {item.event.id for item in record_in(connection, batch, now)})


def record_in(
    connection: sa.Connection, batch: Sequence[NewEvent], now: float, claim: ClaimAtOnce | None = None
) -> list[NewEvent]:
    """Record events in a transaction, without those that are recorded. Returns the new ones."""
    parsed = [ParsedEvent(item.event, item.run, item.body, item.facts) for item in batch]
    known = load.load(connection, parsed, (), now).runs
    new = [item for item in batch if item.key not in known or item.event.id not in known[item.key].recorded]
    return write.write(connection, new, known.keys(), now, claim).events


def claim(ledger: Ledger, sink: str, owner: str = "w", limit: int = 10, now: float = NOW, **more: Any) -> list[Claimed]:
    """Claim what is due, as a runner does it: with the bodies."""
    claimed = ledger.write(lambda connection: claims.claim(connection, sink, limit, owner, now, 15, **more))
    return ledger.read(lambda connection: load_bodies(connection, claimed))


def result_of(each: Claimed, move: DeliveryMove, now: float = NOW, **fields: object) -> AttemptResult:
    """The result of an attempt that ended `now`."""
    outcome = {DeliveryMove.ACCEPT: "accepted", DeliveryMove.DEFER: "unavailable", DeliveryMove.DIE: "refused"}[move]
    reason = "" if move is DeliveryMove.ACCEPT else "no"
    of = (each.id, each.event_id, each.attempt_number)
    return AttemptResult(*of, move, outcome, reason, now, now, **fields)  # type: ignore[arg-type]


def settle(
    ledger: Ledger,
    claimed: Sequence[Claimed],
    move: DeliveryMove,
    owner: str = "w",
    now: float = NOW,
    **fields: object,
) -> list[str]:
    """Settle claimed deliveries alike. Returns the sinks of held ones that are due now."""
    results = [result_of(each, move, now, **fields) for each in claimed]
    return ledger.write(lambda connection: attempts.settle(connection, owner, results, now))


def hand_back(ledger: Ledger, claimed: Sequence[Claimed], owner: str = "w", now: float = NOW) -> None:
    ledger.write(lambda connection: attempts.settle(connection, owner, [], now, claimed))


def step_operations(ledger: Ledger, now: float, bounds: StepBounds = STEP) -> bool:
    """Make the next step of each running operation. Returns whether one of them has another step due."""
    due = False
    for name in ledger.read(operations.running):
        due |= ledger.write(functools.partial(operations.step, operation_id=name, now=now, bounds=bounds))
    return due


def work_off(ledger: Ledger) -> None:
    """Make the steps of all operations that the clock would make."""
    while step_operations(ledger, time.time()):
        pass


def every_lane(connection: sa.Connection) -> list[Lane]:
    """All lanes that have a row, by name."""
    names = connection.execute(sa.select(lane_rows.c.lane).order_by(lane_rows.c.lane)).scalars().all()
    return [found for name in names if (found := lanes.find(connection, name))]


def states(ledger: Ledger, **wanted: object) -> dict[str, str]:
    rows = ledger.read(lambda connection: queries.list_deliveries(connection, queries.Filter(**wanted)))  # type: ignore[arg-type]
    return {f"{row['run_id']}:{row['sink']}": row["state"] for row in rows}


def event_body(ledger: Ledger, event_id: str) -> bytes | None:
    """The body of an event as the ledger keeps it."""
    return ledger.read(
        lambda connection: connection.execute(sa.select(tables.c.body).where(tables.c.id == event_id)).scalar()
    )


@contextmanager
def beside(
    ledger: Ledger, first: Callable[[Connection], object], second: Callable[[Connection], object]
) -> Iterator[tuple[Any, ...]]:
    """On PostgreSQL: do `first` in a transaction, begin `second` in another one, which may wait; commit the first."""
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(ledger.write(second)), daemon=True)
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"

    def work(connection: Connection) -> object:
        done = first(connection)
        thread.start()
        eventually(lambda: found or ledger.read(lambda it: it.exec_driver_sql(waiting).scalar()))
        return done

    done = ledger.write(work)
    thread.join(30)
    yield done, *found


def wait_until_blocked(ledger: Ledger, *under_way: Future[Any]) -> None:
    """Wait until as many transactions wait for another's lock as there are `under_way`, or have ended."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"

    def blocked() -> bool:
        if ledger.dialect == "sqlite":  # which has one writer at a time anyway
            return True
        waiting = ledger.read(lambda connection: connection.exec_driver_sql(query).scalar_one())
        return bool(waiting + sum(each.done() for each in under_way) >= len(under_way))

    eventually(blocked)


def polls_due(ledger: Ledger) -> dict[str, float]:
    """When each run, or submission without one, is polled next."""
    query = sa.select(schema.polls.c.run_id, schema.polls.c.due_at)
    return {row.run_id: row.due_at for row in ledger.read(lambda it: it.execute(query).all())}


Row = dict[str, Any]


def run_row(source: str, run_id: str, at: float, **fields: Any) -> Row:
    """Return a run that changed last `at`."""
    return {"source": source, "run_id": run_id, "events": 1, "first_seen_at": at, "updated_at": at, **fields}


def event_row(event_id: str, source: str, run_id: str, at: float, **fields: Any) -> Row:
    """Return an event that was recorded `at`."""
    texts = dict.fromkeys(("run_type", "status", "outcome", "statement", "extent", "problem", "submission_id"), "")
    flags = {"retry_pending": False, "final": True, "output_null": False, "unrouted": False}
    times = {"received_at": at, "recorded_at": at}
    more = {"id": event_id, "source": source, "run_id": run_id, "via": "webhook", "attempt": 1, "disposition": "new"}
    return {**texts, **flags, **times, **more, "body": b"{}", **fields}


def delivery_row(delivery_id: str, event: Row, sink: str, at: float, **fields: Any) -> Row:
    """Return a delivery of an event, made `at`."""
    of_event = {"event_id": event["id"], "source": event["source"], "run_id": event["run_id"]}
    times = {"due_at": 0.0, "created_at": at, "updated_at": at}
    return {"id": delivery_id, **of_event, "sink": sink, "lane": sink, "reason": "", **times, **fields}


def submission_row(submission_id: str, source: str, at: float, **fields: Any) -> Row:
    """Return an accepted submission, made `at`."""
    of_call = {"key_id": "key", "call": "tasks", "request_hash": "h", "state": "accepted"}
    return {"id": submission_id, "source": source, **of_call, "created_at": at, "updated_at": at, **fields}


def poll_row(source: str, run_id: str, at: float, due_at: float, **fields: Any) -> Row:
    """Return the poll of a run, or of a submission without one, made `at`."""
    times = {"due_at": due_at, "planned_at": due_at, "created_at": at, "updated_at": at}
    return {"source": source, "run_id": run_id, **times, **fields}


def attempt_row(delivery_id: str, number: int, **fields: Any) -> Row:
    """Return a refused attempt."""
    ended = {"outcome": "refused", "reason": "no", "started_at": 1.0, "ended_at": 2.0, "worker": "w"}
    return {"delivery_id": delivery_id, "number": number, **ended, **fields}


NO_REDACTION = Redactor([])


def index_words(ledger: Ledger, redactor: Redactor = NO_REDACTION, batch: int = words.BATCH) -> int:
    """Index all changes, `batch` at a time. Returns how many there were."""
    count = 0
    while some := ledger.write(lambda connection: words.index(connection, redactor, batch)):
        count += some
    return count


def queue_all_words(ledger: Ledger) -> None:
    """Queue all runs in the order of their changes, where rows were written past the code that records."""
    order = runs.c.updated_at, runs.c.source, runs.c.run_id
    query = sa.select(runs.c.source, runs.c.run_id, runs.c.updated_at).order_by(*order)
    into = sa.insert(to_index).from_select(["source", "run_id", "queued_at"], query)
    ledger.write(lambda connection: connection.execute(into))
