"""The row of a run: a batch with new and known runs records each event as if it had come alone."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
import sqlalchemy as sa
from sqlalchemy import exc as sa_exc

from receiver.dispatch.dispatcher import Dispatcher
from receiver.domain.redaction import Redactor
from receiver.domain.submission import NewSubmission, SubmissionMove
from receiver.inbox.reader import InboxReader
from receiver.ledger import Ledger, polls, retention
from receiver.ledger.recording import write as recording
from receiver.ledger.schema import deliveries, events, runs, to_index
from receiver.ledger.submissions import lifecycle
from receiver.ledger.submissions.lifecycle import SubmitOutcome
from receiver.routing.route import RouteConfig
from receiver.routing.router import Router, RunView, Verdict
from tests.support.dispatching import dispatch, make_dispatcher
from tests.support.events import body, event
from tests.support.hostile import hostile_bodies
from tests.support.ledger import states, with_tables


class Picky(Router):
    """A router with a bug that one run meets."""

    bad = ""

    def match(self, view: RunView, **more: Any) -> Verdict:
        if view.run.run_id == self.bad:
            raise ZeroDivisionError
        return super().match(view, **more)


@pytest.fixture
def router() -> Picky:
    return Picky([RouteConfig(name="everything", to=["results"])])


@pytest.fixture
def dispatcher(ledger: Ledger, redis_url: str, router: Picky) -> Iterator[Dispatcher]:
    connection = redis.Redis.from_url(redis_url, socket_timeout=10)
    it = make_dispatcher(ledger, router, Redactor([]), InboxReader(connection, "d1"), connection)
    yield it
    it.close()


def row(ledger: Ledger, run_id: str) -> tuple[Any, ...]:
    it = runs.c
    query = sa.select(it.event_id, it.events, it.status, it.final, it.title).where(it.run_id == run_id)
    return tuple(ledger.read(lambda connection: connection.execute(query).one()))


def unreadable(ledger: Ledger) -> list[tuple[Any, ...]]:
    it = events.c
    query = sa.select(it.id, it.body, it.problem).where(it.disposition == "unreadable").order_by(it.seq)
    return [tuple(each) for each in ledger.read(lambda connection: connection.execute(query).all())]


@pytest.mark.parametrize("count", [1, 8])
def test_each_new_run_is_queued_for_the_index(dispatcher: Dispatcher, ledger: Ledger, count: int) -> None:
    # When so many new runs are recorded, and one of them once more
    run_ids = [f"tsk_{number}" for number in range(count)]
    dispatch(dispatcher, [event(body(run_id)) for run_id in run_ids])
    dispatch(dispatcher, [event(body("tsk_0", "failed"))])
    # Then the outbox has their changes in order
    query = sa.select(to_index.c.run_id).order_by(to_index.c.seq)
    assert ledger.read(lambda connection: connection.execute(query).scalars().all()) == [*run_ids, "tsk_0"]


def test_run_whose_only_event_failed_to_route_has_not_ended(
    dispatcher: Dispatcher, router: Picky, ledger: Ledger
) -> None:
    """Else nobody would ask Skyvern for it, and its result would go nowhere."""
    router.bad = "tsk_1"
    bad = event(body("tsk_1", title="One"))
    dispatch(dispatcher, [bad, event(body("tsk_2"))])
    assert unreadable(ledger) == [(bad.id, bad.body, "could not be read: ZeroDivisionError")]
    assert ledger.read(lambda it: it.scalars(sa.select(runs.c.run_id)).all()) == ["tsk_2"]
    assert row(ledger, "tsk_2")[1:4] == (1, "completed", True)

    router.bad = ""
    again = event(body("tsk_1", title="One", step_count=2))

    assert dispatch(dispatcher, [again]) == ["results"]
    assert row(ledger, "tsk_1") == (again.id, 1, "completed", True, "One")


def test_retried_transaction_keeps_permission_to_poll_again(
    ledger: Ledger, redis_url: str, router: Picky, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a source that may be polled once more, and a transaction whose first try fails at its end
    connection = redis.Redis.from_url(redis_url, socket_timeout=10)
    allowed, errors, record = iter([True]), [psycopg.errors.SerializationFailure()], recording.write
    it = make_dispatcher(
        ledger, router, Redactor([]), InboxReader(connection, "d1"), connection, lambda _: next(allowed, False)
    )

    def failing_once(*given: Any, **more: Any) -> Any:
        found = record(*given, **more)
        if errors:
            raise sa_exc.OperationalError("", {}, errors.pop())
        return found

    monkeypatch.setattr(recording, "write", failing_once)
    # When two tasks end without their request
    assert dispatch(it, [event(body("tsk_1", run_request=None), via="webhook")]) == ["results"]
    dispatch(it, [event(body("tsk_2", run_request=None), via="webhook")])
    # Then the first one is polled once more, and only that one
    assert errors == []
    due = ledger.write(lambda each: polls.lease_due(each, "skyvern", time.time() + 3600, 10))
    assert [each.run_id for each in due] == ["tsk_1"]
    it.close()


def test_event_of_an_unfinished_run_keeps_its_poll(dispatcher: Dispatcher, ledger: Ledger) -> None:
    ledger.write(lambda it: polls.ask(it, "skyvern", {"tsk_1": 5.0}, time.time()))
    dispatch(dispatcher, [event(body("tsk_1", "paused"))])
    due = ledger.write(lambda it: polls.lease_due(it, "skyvern", 5.0, 10))
    assert [each.run_id for each in due] == ["tsk_1"]


def submitted(ledger: Ledger, submission_id: str, run_id: str) -> None:
    """Record a submission, and the answer that names its run."""
    now = time.time()
    new = NewSubmission(submission_id, "skyvern", "key", "tasks", f"hash of {submission_id}", labels={"team": "ops"})
    accepted = SubmitOutcome(SubmissionMove.ACCEPT, run_id, due_at=now + 600)
    ledger.write(lambda connection: lifecycle.begin(connection, new, now))
    ledger.write(lambda connection: lifecycle.record_outcome(connection, submission_id, accepted, now))


@pytest.mark.parametrize("beside", [0, 20])
def test_known_runs_are_recognized_among_new_ones(dispatcher: Dispatcher, ledger: Ledger, beside: int) -> None:
    """Given a run with an event, one that was submitted and whose webhook comes without its token, and one whose end
    Skyvern's list has shown, when their events come with that of a new run, then each is recorded as it is alone."""
    first = event(body("tsk_1"))
    dispatch(dispatcher, [first])
    submitted(ledger, "sub_1", "tsk_2")
    ledger.write(lambda connection: polls.ask(connection, "skyvern", {"tsk_3": time.time()}, time.time(), grace=60.0))

    batch = [event(body(run_id, step_count=2)) for run_id in ("tsk_1", "tsk_2", "tsk_3", "tsk_4")]
    others = [event(body(f"wr_{number}")) for number in range(beside)]
    assert dispatch(dispatcher, [*others[:7], *batch, *others[7:]]) == ["results"]

    it = events.c
    query = sa.select(it.run_id, it.disposition, runs.c.labels, runs.c.events)
    query = query.join(runs, runs.c.run_id == it.run_id).where(it.id.in_(each.id for each in batch))
    found = ledger.read(lambda connection: connection.execute(query.order_by(it.run_id)).all())
    assert [tuple(each) for each in found] == [
        ("tsk_1", "update", "{}", 2),
        ("tsk_2", "new", '{"team": "ops"}', 1),
        ("tsk_3", "new", "{}", 1),
        ("tsk_4", "new", "{}", 1),
    ]
    ids = [*(f"tsk_{number}" for number in (1, 2, 3, 4)), *(f"wr_{number}" for number in range(beside))]
    assert states(ledger) == {f"{run_id}:results": "queued" for run_id in ids}


@pytest.mark.parametrize("beside", [0, 20])
def test_removed_run_still_belongs_to_its_submission(dispatcher: Dispatcher, ledger: Ledger, beside: int) -> None:
    """Given a submitted run whose events retention has removed, but not its submission, when its webhook is sent again
    with those of new runs, then it belongs to that submission, with its labels."""
    submitted(ledger, "sub_1", "tsk_1")
    dispatch(dispatcher, [event(body("tsk_1"))])
    ledger.write(lambda it: it.execute(sa.update(deliveries).values(state="delivered")))
    later = time.time() + 60
    assert ledger.write(lambda it: retention.remove(it, later)).rows == 1
    assert row(ledger, "tsk_1") == ("", 0, "", False, None)

    others = [event(body(f"wr_{number}")) for number in range(beside)]
    assert dispatch(dispatcher, [*others, event(body("tsk_1", step_count=2))]) == ["results"]

    query = sa.select(runs.c.submission_id, runs.c.labels, runs.c.events).where(runs.c.run_id == "tsk_1")
    found = ledger.read(lambda it: it.execute(query).one())
    assert tuple(found) == ("sub_1", '{"team": "ops"}', 1)


def rows_of(ledger: Ledger, table: sa.Table) -> list[dict[str, Any]]:
    """The rows of a table by key, without times of recording and without the order of it."""
    left_out = ["seq", "recorded_at", "first_seen_at", "updated_at"]
    left_out += [] if table is runs else ["created_at", "due_at"]
    query = sa.select(*(each for each in table.c if each.name not in left_out))
    found = ledger.read(lambda connection: connection.execute(query).mappings().all())
    return sorted((dict(each) for each in found), key=str)


def test_batch_size_and_database_do_not_change_what_is_recorded(
    postgres_ledger: Ledger, redis_url: str, router: Picky, tmp_path: Path
) -> None:
    # Given bodies that no Skyvern sends, the same run twice, and numbers at the ends of a column's range
    odd = hostile_bodies("127.0.0.2:1", "http://127.0.0.2:1/r")
    odd += [body(f"n_{number}", attempt=number) for number in (2**31 - 1, 2**31, 2**63, 10**400, -1)]
    odd += [body(f"t_{number}", title=text, run_type=text) for number, text in enumerate(("\0", "\ud800", "x" * 5000))]
    odd += [
        body("twice\0"),
        body("twice\ufffd", step_count=1),
        body("\U0001f600"),
        body("\ue000"),
        body("É"),
        body("Z"),
    ]
    made = [event(each) for n, one in enumerate(odd) for each in (one, body(f"wr_{n}"), body(f"tsk_{n}"))]
    lite = with_tables(Ledger(f"sqlite:///{tmp_path / 'ledger.db'}"))
    connection = redis.Redis.from_url(redis_url, socket_timeout=10)
    found: list[list[Any]] = []
    # When they come alone, a few or many at a time, on each database
    for ledger, size in itertools.product((lite, postgres_ledger), (256, 1, 4)):
        it = make_dispatcher(ledger, router, Redactor([]), InboxReader(connection, "d1"), connection)
        for at in range(0, len(made), size):
            dispatch(it, made[at : at + size])
        found.append([rows_of(ledger, table) for table in (runs, events, deliveries)])
        ledger.write(lambda it: [it.execute(sa.delete(each)) for each in (deliveries, events, runs)])
    # Then each of them is there, and the tables say the same
    assert {each["id"] for each in found[0][1]} == {each.id for each in made}
    for others in found[1:]:
        assert others == found[0]
    lite.close()
    connection.close()
