"""A run's webhook without its token, and the answer that says whose run it is: the second one sees the first."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from receiver.dispatch.dispatcher import Dispatcher
from receiver.dispatch.late_binding import LateBinding
from receiver.domain.redaction import Redactor
from receiver.domain.submission import NewSubmission, SubmissionMove
from receiver.ledger import Connection, Ledger
from receiver.ledger.recording import write
from receiver.ledger.schema import runs
from receiver.ledger.submissions import lifecycle
from receiver.ledger.submissions.lifecycle import OutcomeRecorded, SubmitOutcome
from receiver.routing.router import Router
from tests.support.dispatching import LABEL_ROUTES, dispatch, make_labelled_dispatcher
from tests.support.events import body, event
from tests.support.ledger import new_event, polls_due, states, wait_until_blocked

ALL_TOLD = {"tsk_1:results": "queued", "tsk_1:billing": "queued", "tsk_1:callback": "queued"}
TELL = LateBinding(lambda: Router(LABEL_ROUTES), Redactor([])).route_again
OUTCOME = SubmitOutcome(SubmissionMove.ACCEPT, "tsk_1", "task_v1", 200, b"{}", due_at=time.time() + 600)


@pytest.fixture
def submitted(ledger: Ledger) -> None:
    """Skyvern was asked for a run, and has not answered yet."""
    new = NewSubmission(
        *("sub_1", "skyvern", "k1", "tasks", "hash"), labels={"team": "billing"}, webhook_url="https://app.example/hook"
    )
    ledger.write(lambda connection: lifecycle.begin(connection, new, time.time()))


def answer(connection: Connection) -> OutcomeRecorded:
    """Record Skyvern's answer, in a transaction."""
    return lifecycle.record_outcome(connection, "sub_1", OUTCOME, time.time(), TELL)


def run_of(ledger: Ledger) -> tuple[Any, ...]:
    query = sa.select(runs.c.submission_id, runs.c.labels, runs.c.events, runs.c.status).where(runs.c.run_id == "tsk_1")
    return tuple(ledger.read(lambda connection: connection.execute(query).one()))


def due_at(ledger: Ledger) -> float | None:
    return polls_due(ledger).get("tsk_1")


def test_webhook_during_the_response_is_routed_as_submitted(
    dispatcher: Dispatcher, ledger: Ledger, submitted: None
) -> None:
    with ThreadPoolExecutor(1) as pool:

        def answered(connection: Connection) -> Future[list[str]]:
            answer(connection)
            recording = pool.submit(dispatch, dispatcher, [event(body("tsk_1"))])
            wait_until_blocked(ledger, recording)
            return recording

        recording = ledger.write(answered)
        woken = recording.result()

    assert states(ledger) == ALL_TOLD
    assert woken == ["billing", "callback", "results"]
    assert run_of(ledger) == ("sub_1", '{"team": "billing"}', 1, "completed")
    assert due_at(ledger) is None


def test_response_during_the_webhook_adds_missing_deliveries(
    dispatcher: Dispatcher, ledger: Ledger, submitted: None
) -> None:
    webhook = event(body("tsk_1"))
    with ThreadPoolExecutor(2) as pool:

        def in_its_way(connection: Connection) -> tuple[Future[list[str]], Future[OutcomeRecorded]]:
            # Given a recording that has looked for a submission and made the run, and waits for its event's row
            write.write(connection, [new_event("tsk_0")._replace(event=webhook)], (), time.time())
            recording = pool.submit(dispatch, dispatcher, [webhook])
            wait_until_blocked(ledger, recording)
            # When the answer comes
            answering = pool.submit(ledger.write, answer)
            wait_until_blocked(ledger, recording, answering)
            raise Withdrawn(recording, answering)

        with pytest.raises(Withdrawn) as withdrawn:
            ledger.write(in_its_way)
        for each in withdrawn.value.args:
            each.result()

    assert states(ledger) == ALL_TOLD
    assert run_of(ledger) == ("sub_1", '{"team": "billing"}', 1, "completed")
    assert due_at(ledger) is None


class Withdrawn(Exception):
    """A transaction is rolled back."""


# What makes it known whose run it is; each returns the sinks that are to be woken.


def accepted(_: Dispatcher, ledger: Ledger) -> Collection[str] | None:
    return ledger.write(answer).sinks


def found_by_its_token(_: Dispatcher, ledger: Ledger) -> Collection[str] | None:
    ledger.write(lambda it: lifecycle.resolve(it, "sub_1", SubmissionMove.MISS, time.time(), due_at=time.time()))
    move = SubmissionMove.ACCEPT
    return ledger.write(lambda it: lifecycle.resolve(it, "sub_1", move, time.time(), run_id="tsk_1", when_late=TELL))


def told_again_with_its_token(dispatcher: Dispatcher, _: Ledger) -> Collection[str] | None:
    return dispatch(dispatcher, [event(body("tsk_1", step_count=3), submission_id="sub_1")])


def sent_again_with_its_token(dispatcher: Dispatcher, _: Ledger) -> Collection[str] | None:
    return dispatch(dispatcher, [event(body("tsk_1"), submission_id="sub_1")])


Learn = Callable[[Dispatcher, Ledger], Collection[str] | None]
LEARN = [accepted, found_by_its_token, told_again_with_its_token, sent_again_with_its_token]


@pytest.mark.parametrize("learn", LEARN)
def test_late_binding_adds_each_missing_delivery_once(
    dispatcher: Dispatcher, ledger: Ledger, submitted: None, learn: Learn
) -> None:
    # Given a run that was tried again, and has ended; all of which came by webhooks without its token
    trying = event(body("tsk_1", "failed", attempt=1, retry_pending=True))
    dispatch(dispatcher, [trying])
    dispatch(dispatcher, [event(body("tsk_1"))])
    assert {key: state for key, state in states(ledger).items() if "results" not in key} == {}
    # When it turns out whose run it is
    woken = learn(dispatcher, ledger)
    # Then its caller and its label's sink get the result and are woken, and what is old news goes to nobody
    assert states(ledger) == ALL_TOLD
    assert woken is not None
    assert set(woken) == {"billing", "callback"}
    assert run_of(ledger)[:2] == ("sub_1", '{"team": "billing"}')
    rows = sinks_by_event(ledger)
    assert rows.count((trying.id, "callback")) == 0
    # And when it comes again, nobody is told twice
    dispatch(dispatcher, [event(body("tsk_1"), submission_id="sub_1")])
    assert sinks_by_event(ledger) == rows


def test_late_binding_in_a_mixed_batch_wakes_the_sinks(dispatcher: Dispatcher, submitted: None) -> None:
    dispatch(dispatcher, [event(body("tsk_1"))])
    news = event(body("tsk_1", step_count=3), submission_id="sub_1")  # which says the same, and goes nowhere itself
    woken = dispatch(dispatcher, [*(event(body(f"tsk_{number}")) for number in (2, 3, 4)), news])
    assert woken == ["billing", "callback", "results"]


def sinks_by_event(ledger: Ledger) -> list[tuple[str, str]]:
    query = sa.text("SELECT event_id, sink FROM deliveries ORDER BY event_id, sink")
    return [tuple(row) for row in ledger.read(lambda connection: connection.execute(query).all())]


def test_concurrent_responses_and_webhooks_deliver_once(postgres_ledger: Ledger, redis_url: str) -> None:
    # Given submissions whose answers and webhooks come at once, each in another order
    ledger, numbers = postgres_ledger, range(40)
    for number in numbers:
        new = NewSubmission(
            *(f"sub_{number}", "skyvern", "k1", "tasks", f"hash of {number}"),
            labels={"team": "billing"},
            webhook_url="https://app.example/hook",
        )
        ledger.write(lambda connection, new=new: lifecycle.begin(connection, new, time.time()))  # type: ignore[misc]

    def order(name: str) -> list[int]:
        return random.Random(name).sample(numbers, len(numbers))

    def answers(name: str) -> None:
        for number in order("answers")[int(name) :: 2]:
            outcome = replace(OUTCOME, run_id=f"tsk_{number}")
            ledger.write(
                lambda it, number=number, outcome=outcome: lifecycle.record_outcome(  # type: ignore[misc]
                    it, f"sub_{number}", outcome, time.time(), TELL
                )
            )

    def webhooks(name: str) -> None:
        it, chance = make_labelled_dispatcher(ledger, redis_url, name), order(name)
        while chance:
            batch, chance = chance[: 1 + chance[0] % 3], chance[1 + chance[0] % 3 :]
            tokens = [f"sub_{number}" if number % 3 else "" for number in batch]
            dispatch(
                it, [event(body(f"tsk_{each}"), submission_id=token) for each, token in zip(batch, tokens, strict=True)]
            )

    # When all are at it
    with ThreadPoolExecutor(4) as pool:
        at_once = [pool.submit(answers, name) for name in "01"] + [pool.submit(webhooks, name) for name in "ab"]
    for each in at_once:
        each.result()
    # Then each run has its submission, and each sink has its result once
    it = runs.c
    bound = sa.select(it.run_id, it.submission_id, it.labels, it.events).order_by(it.run_id)
    assert sorted(ledger.read(lambda connection: [tuple(row) for row in connection.execute(bound)])) == sorted(
        (f"tsk_{number}", f"sub_{number}", '{"team": "billing"}', 1) for number in numbers
    )
    assert Counter(sink for _, sink in sinks_by_event(ledger)) == dict.fromkeys(("results", "billing", "callback"), 40)
    count = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    assert ledger.read(lambda connection: connection.exec_driver_sql(count).scalar_one()) == 0
