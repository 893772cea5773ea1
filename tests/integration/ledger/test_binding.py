"""Which submission a run came of, and what follows: labels, the caller's own webhook, an end to looking for it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import pytest

from receiver.dispatch.dispatcher import Dispatcher
from receiver.domain.poll_schedule import AFTER_RESTART
from receiver.domain.submission import NewSubmission, SubmissionMove, SubmissionState
from receiver.ledger import Ledger, polls, runs
from receiver.ledger.submissions import lifecycle, records
from tests.support import queries
from tests.support.dispatching import dispatch
from tests.support.events import body, event, press
from tests.support.ledger import polls_due

CALLER = "https://app.example/hooks/runs?x=1"


@pytest.fixture
def submit(ledger: Ledger) -> Callable[..., str]:
    """Writes a submission down; with `run_id`, Skyvern has answered it."""

    def make(name: str, run_id: str = "", source: str = "skyvern", **fields: Any) -> str:
        new = NewSubmission(name, source, "k1", "tasks", f"hash of {name}", **fields)
        ledger.write(lambda connection: lifecycle.begin(connection, new, 1.0))
        if run_id:
            answer = lifecycle.SubmitOutcome(SubmissionMove.ACCEPT, run_id, "task_v1", 200, b"{}", due_at=5.0)
            ledger.write(lambda connection: lifecycle.record_outcome(connection, name, answer, 2.0))
        return name

    return make


def sinks(ledger: Ledger) -> list[tuple[str, str, str]]:
    found = ledger.read(lambda connection: queries.list_deliveries(connection, queries.Filter()))
    return sorted((row["run_id"], row["sink"], row["route"]) for row in found)


def stands(ledger: Ledger, name: str) -> tuple[SubmissionState, str, float | None]:
    found = ledger.read(lambda connection: records.get(connection, name))
    assert found is not None
    return found.state, found.run_id, polls_due(ledger).get(found.run_id or name)


def test_webhook_before_the_response_binds_by_its_token(
    dispatcher: Dispatcher, ledger: Ledger, submit: Callable[..., str]
) -> None:
    submit("sub_1", labels={"team": "billing"}, webhook_url=CALLER)

    woken = dispatch(dispatcher, [event(body("tsk_1"), submission_id="sub_1")])

    assert woken == ["billing", "callback", "results"]
    assert sinks(ledger) == [
        ("tsk_1", "billing", "billing"),
        ("tsk_1", "callback", "caller"),
        ("tsk_1", "results", "everything"),
    ]
    assert stands(ledger, "sub_1") == (SubmissionState.ACCEPTED, "tsk_1", None)


def test_a_run_that_is_known_by_the_answer_needs_no_token(
    dispatcher: Dispatcher, ledger: Ledger, submit: Callable[..., str]
) -> None:
    submit("sub_1", "tsk_1", labels={"team": "billing"})

    dispatch(dispatcher, [event(body("tsk_1"))])

    assert [sink for _, sink, _ in sinks(ledger)] == ["billing", "results"]
    assert stands(ledger, "sub_1") == (SubmissionState.ACCEPTED, "tsk_1", None)


@pytest.mark.parametrize("token", ["sub_1", "sub_nobody", "", "x" * 300])
def test_a_token_that_contradicts_what_is_known_binds_nothing(
    dispatcher: Dispatcher, ledger: Ledger, submit: Callable[..., str], token: str
) -> None:
    submit("sub_1", "tsk_1", labels={"team": "billing"}, webhook_url=CALLER)

    dispatch(dispatcher, [event(body("tsk_2"), submission_id=token)])

    assert sinks(ledger) == [("tsk_2", "results", "everything")]
    assert stands(ledger, "sub_1") == (SubmissionState.ACCEPTED, "tsk_1", 5.0)


def test_a_token_of_another_source_binds_nothing(
    dispatcher: Dispatcher, ledger: Ledger, submit: Callable[..., str]
) -> None:
    submit("sub_1", source="other", webhook_url=CALLER)

    dispatch(dispatcher, [event(body("tsk_1"), submission_id="sub_1")])

    assert sinks(ledger) == [("tsk_1", "results", "everything")]
    assert stands(ledger, "sub_1")[:2] == (SubmissionState.PENDING, "")


def test_the_caller_hears_of_each_attempt_and_of_no_repeat(
    dispatcher: Dispatcher, ledger: Ledger, submit: Callable[..., str]
) -> None:
    submit("sub_1", "wr_1", webhook_url=CALLER)

    first = event(body("wr_1", "failed", attempt=1, retry_pending=True))
    dispatch(dispatcher, [first])
    assert stands(ledger, "sub_1") == (SubmissionState.ACCEPTED, "wr_1", 5.0)
    last = event(body("wr_1", attempt=2, modified_at="2026-01-01T00:00:01"))
    dispatch(dispatcher, [last, event(body("wr_1", attempt=2, modified_at="2026-01-01T00:00:02"))])

    assert [sink for _, sink, _ in sinks(ledger)] == ["callback", "callback", "results"]
    assert stands(ledger, "sub_1") == (SubmissionState.ACCEPTED, "wr_1", None)


def test_the_same_final_event_again_still_ends_the_polling(
    dispatcher: Dispatcher, ledger: Ledger, submit: Callable[..., str]
) -> None:
    # given a run whose event came before anybody knew that it was submitted by us
    dispatch(dispatcher, [event(body("tsk_1"))])
    submit("sub_1")
    ledger.write(lambda c: lifecycle.resolve(c, "sub_1", SubmissionMove.MISS, 3.0, due_at=4.0))
    ledger.write(lambda c: lifecycle.resolve(c, "sub_1", SubmissionMove.ACCEPT, 3.0, run_id="tsk_1", due_at=4.0))

    dispatch(dispatcher, [event(body("tsk_1"))])

    assert stands(ledger, "sub_1") == (SubmissionState.ACCEPTED, "tsk_1", None)
    assert sinks(ledger) == [("tsk_1", "results", "everything")]


def test_test_webhook_does_not_bind_a_submission(
    dispatcher: Dispatcher, ledger: Ledger, submit: Callable[..., str]
) -> None:
    # Given a submission whose run is not known yet, and a test webhook to its callback URL
    submit("s1")
    dispatch(dispatcher, [event(press("task"), submission_id="s1")])
    # Then it waits for its own run, and gets that
    assert stands(ledger, "s1")[1] == ""
    dispatch(dispatcher, [event(body("tsk_1"), submission_id="s1")])
    assert stands(ledger, "s1")[1] == "tsk_1"


# --- Runs that Skyvern itself starts again

TOKEN = "sub_" + 32 * "a"


def workflow(run_id: str, status: str = "failed", token: str = TOKEN, **fields: Any) -> bytes:
    ours = f"https://hooks.example/webhooks/skyvern/{token}"
    return body(run_id, status, run_type="workflow_run", webhook_callback_url=ours, **fields)


def owners(ledger: Ledger, *run_ids: str) -> list[str | None]:
    found = [ledger.read(lambda c, run_id=run_id: records.of_run(c, "skyvern", run_id)) for run_id in run_ids]  # type: ignore[misc]
    return [each.id if each else None for each in found]


@pytest.mark.parametrize("answered", ["before", "after", "never"])
@pytest.mark.parametrize("at_once", [True, False])
def test_restarted_runs_keep_their_submission_in_any_order(
    dispatcher: Dispatcher, ledger: Ledger, submit: Callable[..., str], at_once: bool, answered: str
) -> None:
    for number, order in enumerate(itertools.permutations(["c", "a", "b"])):
        token = f"sub_{number:032x}"
        # three runs, each started for the one before; only the later one of each two says so
        first, second, third = (f"wr_{number}_{name}" for name in "cab")
        told = {
            "c": workflow(first, token=token),
            "a": workflow(second, token=token, retried_from_workflow_run_id=first),
            "b": workflow(third, "completed", token=token, retried_from_workflow_run_id=second),
        }
        submit(token, labels={"team": "billing"}, webhook_url=CALLER)
        answer = lifecycle.SubmitOutcome(SubmissionMove.ACCEPT, first, "workflow_run", 200, b"{}", due_at=5.0)
        if answered == "before":
            ledger.write(lambda c: lifecycle.record_outcome(c, token, answer, 2.0))  # noqa: B023
        events = [event(told[name], submission_id=token) for name in order]
        for batch in [events] if at_once else [[each] for each in events]:
            dispatch(dispatcher, batch)
        if answered == "after":
            ledger.write(lambda c: lifecycle.record_outcome(c, token, answer, 2.0))  # noqa: B023

        assert owners(ledger, first, second, third) == [token] * 3, order
        assert stands(ledger, token)[:2] == (SubmissionState.ACCEPTED, first), order
        assert [(run_id, sink) for run_id, sink, _ in sinks(ledger) if run_id in (first, second, third)] == [
            (run_id, sink) for run_id in sorted((first, second, third)) for sink in ("billing", "callback", "results")
        ]
        assert ledger.read(lambda c: runs.last_of_chain(c, "skyvern", first)) == third  # noqa: B023
        rows = ledger.read(lambda c: queries.list_runs(c, queries.Filter()))
        assert [row["submission_id"] for row in rows].count(token) == 3


def test_late_response_leaves_the_restarted_run_bound(
    dispatcher: Dispatcher, ledger: Ledger, submit: Callable[..., str]
) -> None:
    submit(TOKEN, labels={"team": "billing"})
    dispatch(dispatcher, [event(workflow("wr_2", retried_from_workflow_run_id="wr_1"), submission_id=TOKEN)])

    answer = lifecycle.SubmitOutcome(SubmissionMove.ACCEPT, "wr_1", "workflow_run", 200, b"{}", due_at=5.0)
    ledger.write(lambda connection: lifecycle.record_outcome(connection, TOKEN, answer, 2.0))

    assert owners(ledger, "wr_1", "wr_2") == [TOKEN, TOKEN]
    assert stands(ledger, TOKEN) == (SubmissionState.ACCEPTED, "wr_1", 5.0)


def test_run_that_names_its_restart_binds_and_polls_it(
    dispatcher: Dispatcher, ledger: Ledger, submit: Callable[..., str]
) -> None:
    submit(TOKEN, "wr_1", labels={"team": "billing"})
    dispatcher.recorder.may_ask = lambda _: True

    dispatch(dispatcher, [event(body("wr_1", "failed", retried_by_workflow_run_id="wr_2"))])
    due = ledger.read(lambda c: polls.count_due(c, time.time() + AFTER_RESTART + 1, ["skyvern"], 10))
    dispatch(dispatcher, [event(body("wr_2"), submission_id=TOKEN)])  # which says nothing of the first one

    assert due == {"skyvern": 1}
    assert owners(ledger, "wr_2") == [TOKEN]
    assert ("wr_2", "billing", "billing") in sinks(ledger)


def test_manually_restarted_run_is_bound_but_not_chained(
    dispatcher: Dispatcher, ledger: Ledger, submit: Callable[..., str]
) -> None:
    submit(TOKEN, "wr_1", webhook_url=CALLER)

    dispatch(dispatcher, [event(workflow("wr_2"), submission_id=TOKEN)])

    assert owners(ledger, "wr_2") == [TOKEN]
    assert ledger.read(lambda c: runs.last_of_chain(c, "skyvern", "wr_1")) == "wr_1"


@pytest.mark.parametrize("token", [TOKEN, ""])
def test_caller_gets_every_result_of_a_restarted_run(
    dispatcher: Dispatcher, ledger: Ledger, submit: Callable[..., str], token: str
) -> None:
    """One that is sent again may have fewer members, and come to another address."""
    # Given a submission with two runs, the second of which says itself that it has the first one's callback URL
    submit(TOKEN, "wr_1", labels={"team": "billing"}, webhook_url=CALLER)
    dispatch(dispatcher, [event(workflow("wr_2"), submission_id=TOKEN)])
    # When another result of that comes, which says nothing of it
    other = event(body("wr_2", output={"n": 2}), submission_id=token)
    dispatch(dispatcher, [other])
    # Then it goes where the first one went
    assert [sink for run_id, sink, _ in sinks(ledger) if run_id == "wr_2"] == [
        *("billing", "billing", "callback", "callback", "results", "results")
    ]


@pytest.mark.parametrize("linked_to", ["wr_elsewhere", None])
def test_a_token_in_the_url_alone_adds_no_run_to_a_submission(
    dispatcher: Dispatcher, ledger: Ledger, submit: Callable[..., str], linked_to: str | None
) -> None:
    submit(TOKEN, "wr_1", webhook_url=CALLER)

    dispatch(dispatcher, [event(body("wr_2", retried_from_workflow_run_id=linked_to), submission_id=TOKEN)])

    assert owners(ledger, "wr_2") == [None]
