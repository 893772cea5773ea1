"""The events of a run that was submitted through Runhook."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
import redis
import sqlalchemy as sa

from handlers.support.resubmit_chain import CHAIN
from receiver.dispatch.dispatcher import Dispatcher
from receiver.domain.callback import CALLBACK, lane_of
from receiver.domain.event import Event
from receiver.domain.poll_schedule import AFTER_CANCEL, AFTER_RESTART
from receiver.domain.redaction import Redactor
from receiver.domain.submission import NewSubmission, SubmissionMove
from receiver.inbox.reader import InboxReader
from receiver.ledger import Connection, Ledger
from receiver.ledger.access import api_keys
from receiver.ledger.schema import deliveries, events, polls, runs, submissions
from receiver.ledger.submissions import lifecycle
from receiver.ledger.submissions.lifecycle import SubmitOutcome
from receiver.routing.route import RouteConfig
from receiver.routing.router import Router
from tests.support.dispatching import dispatch, make_dispatcher
from tests.support.events import body, event
from tests.support.ledger import polls_due, wait_until_blocked
from tests.support.runners import Taking, make_recorder

CALLER = "https://app.example/hook"
ROUTES = [
    RouteConfig(name="everything", to=["results"]),
    RouteConfig.model_validate({"name": "billing", "when": {"labels.team": "billing"}, "to": ["billing"]}),
    RouteConfig.model_validate(
        {
            "name": "of a shop",
            "when": {"run_request.url": "https://shop.example/"},
            "to": ["shop", {"sink": "ops", "after": ["shop"]}],
        }
    ),
    RouteConfig.model_validate({"name": "under way", "interim": True, "when": {"status": "running"}, "to": ["ops"]}),
]
REQUEST = {"prompt": "Log in", "url": "https://shop.example/", "title": "Größe ✓"}


def submit(ledger: Ledger, number: int, *, answered: bool = True, run: str = "", **fields: Any) -> None:
    """Record the submission of `tsk_<number>` or another run, and the answer that names it."""
    now = time.time()
    more = {"key_id": "k1", "labels": {"team": "billing"}, "webhook_url": CALLER, "request": REQUEST, **fields}
    new = NewSubmission(f"sub_{number}", "skyvern", call="tasks", request_hash=f"hash of {number}", **more)
    accepted = SubmitOutcome(SubmissionMove.ACCEPT, run or f"tsk_{number}", "task_v1", 200, b"{}", due_at=now + 600)
    ledger.write(lambda it: lifecycle.begin(it, new, now))
    if answered:
        ledger.write(lambda it: lifecycle.record_outcome(it, new.id, accepted, now))


def result(number: int, status: str = "completed", **fields: Any) -> Event:
    """The webhook of that run, by its token."""
    return event(body(f"tsk_{number}", status, **fields), submission_id=f"sub_{number}")


def dispatching(ledger: Ledger, redis_url: str) -> Dispatcher:
    connection = redis.Redis.from_url(redis_url, socket_timeout=10)
    reader = InboxReader(connection, "d1")
    return make_dispatcher(ledger, Router(ROUTES), Redactor([]), reader, connection, lambda _: True)


@pytest.fixture
def dispatcher(ledger: Ledger, redis_url: str) -> Iterator[Dispatcher]:
    with closing(dispatching(ledger, redis_url)) as it:
        yield it


def rows_of(ledger: Ledger, table: sa.Table) -> list[dict[str, Any]]:
    """The rows of a table by key, without times."""
    left_out = {"seq", "recorded_at", "first_seen_at", "updated_at", "created_at", "answered_at"}
    query = sa.select(*(each for each in table.c if each.name not in left_out))
    rows = [dict(row) for row in ledger.read(lambda it: it.execute(query).mappings().all())]
    for row in rows:
        row.pop("due_at", None)
    return sorted(rows, key=str)


def due_in(ledger: Ledger) -> dict[str, int]:
    """In how many hundreds of seconds each run is polled."""
    return {run_id: round((due_at - time.time()) / 100) for run_id, due_at in polls_due(ledger).items()}


def test_batch_size_does_not_change_results_of_submitted_runs(dispatcher: Dispatcher, ledger: Ledger) -> None:
    # Given results of submitted runs of each kind, between those of runs that nobody has submitted
    kinds: list[dict[str, Any]] = [
        {"output": {"n": 1}},
        {"status": "failed", "run_type": "workflow_run", "failure_reason": "x"},
        {"status": "canceled"},
        {"status": "running"},
        {"run_request": {"prompt": "told by the webhook", "url": None}},
    ]
    asked: list[dict[str, Any]] = [{}, {"labels": {}}, {"webhook_url": ""}, {"request": None}]
    found: dict[int, list[Any]] = {}
    made = [result(number, **{"status": "completed", **kinds[number % 5]}) for number in range(20)]
    made += [event(body(f"wr_{number}", **kinds[number % 5])) for number in range(10)]
    made.sort(key=lambda each: each.id)
    tables = (runs, events, deliveries, submissions)
    # When they come in batches of one, of a few, and all at once
    for size in (1, 4, 30):
        for number in range(20):
            submit(ledger, number, **asked[number % 4])
        for at in range(0, len(made), size):
            dispatch(dispatcher, made[at : at + size])
        found[size] = [*(rows_of(ledger, each) for each in tables), due_in(ledger)]
        ledger.write(lambda it: [it.execute(sa.delete(each)) for each in (*tables, polls)])
    # Then the tables say the same
    assert [len(rows) for rows in found[1][:4]] == [30, 30, len(found[1][2]), 20]
    assert found[1] == found[4] == found[30]
    # And that is what becomes of such: labels, what was asked for, the caller's webhook, and the end of the polls
    of_runs, of_events, made_deliveries, _, polled = found[1]
    assert {row["submission_id"]: row["labels"] for row in of_runs}["sub_0"] == '{"team": "billing"}'
    assert {(row["title"], row["prompt"]) for row in of_runs} >= {("Größe ✓", "Log in")}
    assert {row["sink"] for row in made_deliveries} == {"results", "billing", "shop", "ops", CALLBACK}
    assert any('"prompt": "Log in"' in row["completion"] for row in of_events)
    assert {number: polled.get(f"tsk_{number}") for number in range(20)} == {
        number: [None, round(AFTER_RESTART / 100), round(AFTER_CANCEL / 100), 6, None][number % 5]
        for number in range(20)
    }


def told_by_another(ledger: Ledger, status: str = "completed") -> None:
    connection = redis.Redis()  # which it does not use
    other = make_dispatcher(ledger, Router(ROUTES), Redactor([]), InboxReader(connection, "d2"), connection)
    dispatch(other, [event(body("tsk_0", status, step_count=7))])


def test_late_event_of_a_cancelled_run_keeps_its_last_poll(dispatcher: Dispatcher, ledger: Ledger) -> None:
    """It may have output, in a webhook that can be lost."""
    submit(ledger, 0)
    told_by_another(ledger, "canceled")

    dispatch(dispatcher, [result(0, "running")])

    assert due_in(ledger) == {"tsk_0": round(AFTER_CANCEL / 100)}


def test_submissions_are_locked_in_one_order(postgres_ledger: Ledger, redis_url: str) -> None:
    dispatcher = dispatching(postgres_ledger, redis_url)
    # Given submissions whose ids are in another order than those of their runs
    for number in range(10, 20):
        submit(postgres_ledger, number, run=f"tsk_{99 - number}")
    made = [event(body(f"tsk_{99 - number}"), submission_id=f"sub_{number}") for number in range(10, 20)]

    def lock(connection: Connection, submission_id: str) -> None:
        connection.execute(sa.select(submissions).where(submissions.c.id == submission_id).with_for_update())

    # When somebody locks them one after the other, by id, while their results are dispatched
    with ThreadPoolExecutor(1) as pool:

        def in_its_way(connection: Connection) -> Future[list[str]]:
            lock(connection, "sub_10")
            dispatching = pool.submit(dispatch, dispatcher, made)
            wait_until_blocked(postgres_ledger, dispatching)
            lock(connection, "sub_19")
            return dispatching

        postgres_ledger.write(in_its_way).result()
    # Then both come through
    count = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    assert postgres_ledger.read(lambda it: it.exec_driver_sql(count).scalar_one()) == 0
    assert polls_due(postgres_ledger) == {}
    dispatcher.close()


def every(ledger: Ledger, table: sa.Table) -> list[dict[str, Any]]:
    return [dict(row) for row in ledger.read(lambda it: it.execute(sa.select(table)).mappings().all())]


def test_the_same_event_again_changes_nothing(dispatcher: Dispatcher, ledger: Ledger) -> None:
    """Its dispatcher was killed between commit and acknowledgement."""
    submit(ledger, 1)
    first = result(1)
    dispatch(dispatcher, [first])
    before = [rows_of(ledger, each) for each in (runs, events, deliveries, submissions)]

    assert dispatch(dispatcher, [first]) == []

    assert [rows_of(ledger, each) for each in (runs, events, deliveries, submissions)] == before


def test_webhook_of_a_resubmitted_run_goes_to_its_first_caller(dispatcher: Dispatcher, ledger: Ledger) -> None:
    # Given a run that was submitted again, on behalf of the caller of the first one
    for name, scopes in (("k1", {"submit"}), ("k2", {"submit", "resubmit"})):
        key = api_keys.Key(name, name, f"hash of {name}", f"rhk_{name}", frozenset(scopes), "skyvern", None, 1.0)
        ledger.write(lambda it, key=key: api_keys.create(it, key))  # type: ignore[misc]
    submit(ledger, 1)
    submit(ledger, 2, labels={CHAIN: "tsk_1"}, key_id="k2")
    # When its result comes
    dispatch(dispatcher, [result(2)])
    # Then the webhook waits in the lane of that caller
    query = sa.select(deliveries.c.lane).where(deliveries.c.sink == CALLBACK)
    assert ledger.read(lambda it: it.execute(query).scalar_one()) == lane_of(CALLER, "k1")


@pytest.mark.parametrize("count", [1, 8])
def test_runner_gets_labels_and_completion_of_the_run(ledger: Ledger, redis_url: str, count: int) -> None:
    for number in range(count):
        submit(ledger, number, webhook_url="")
    ops = Taking()
    recorder = make_recorder(ledger, redis_url, ops=ops)

    assert dispatch(recorder, [result(number) for number in range(count)]) == []

    assert sorted(each.run_id for each in ops.taken) == [f"tsk_{number}" for number in range(count)]
    for each in ops.taken:
        assert each.labels == {"team": "billing"}
        assert json.loads(each.completion)["run_request"]["prompt"] == "Log in"
        assert each.run is not None
        assert each.run.data["run_request"]["prompt"] == "Log in"
    query = sa.select(deliveries.c.claim_owner, deliveries.c.state)
    claimed = ledger.read(lambda it: it.execute(query).all())
    assert [tuple(row) for row in claimed] == [("w", "sending")] * count
