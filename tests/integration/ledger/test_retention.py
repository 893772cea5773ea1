"""Retention beside others' transactions on PostgreSQL: what they queue or add meanwhile is not deleted with the old.

And which submissions and rows of runs it removes, and which runs can be erased, on both databases.
"""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from receiver.domain.callback import CALLBACK
from receiver.domain.delivery import DeliveryMove
from receiver.domain.event import ERASED
from receiver.domain.submission import NewSubmission, SubmissionMove
from receiver.errors import Conflict
from receiver.ledger import Connection, Ledger, operations, reroutes, retention, stats, verbs
from receiver.ledger.deliveries import creation, recovery
from receiver.ledger.deliveries.creation import AddedDelivery
from receiver.ledger.recording import binding
from receiver.ledger.schema import deliveries, events, polls, run_texts, runs, submissions
from receiver.ledger.selection import Selection
from receiver.ledger.submissions import lifecycle, records
from receiver.ledger.submissions.lifecycle import SubmitOutcome
from receiver.ledger.verbs import Operation
from tests.support import queries
from tests.support.ledger import (
    NOW,
    beside,
    claim,
    event_body,
    event_row,
    index_words,
    lock_runs,
    new_event,
    poll_row,
    queue_all_words,
    record,
    run_row,
    settle,
    states,
    submission_row,
)

LATER = NOW + 1000
EVENT = new_event("tsk_1", "ops").event.id


@pytest.fixture
def old(postgres_ledger: Ledger) -> Ledger:
    """A ledger with one event, which is old, and whose delivery is dead."""
    record(postgres_ledger, new_event("tsk_1", "ops"))
    settle(postgres_ledger, claim(postgres_ledger, "ops"), DeliveryMove.DIE)
    return postgres_ledger


def remove(connection: Connection) -> int:
    return retention.remove(connection, LATER).rows


def replay(connection: Connection) -> None:
    operations.create(connection, "op_1", Operation("replay", Selection()), LATER)
    operations.step(connection, "op_1", LATER)


def give(connection: Connection) -> bool:
    return creation.add(connection, AddedDelivery(EVENT, "skyvern", "tsk_1", "later", "backfill"), LATER)


def test_delivery_replayed_during_retention_is_kept(old: Ledger) -> None:
    with beside(old, replay, remove) as (_, removed):
        assert removed == 0
    assert states(old) == {"tsk_1:ops": "queued"}
    assert event_body(old, EVENT)


def test_delivery_added_during_retention_keeps_its_event(old: Ledger) -> None:
    with beside(old, give, remove) as (made, removed):
        assert (made, removed) == (True, 0)
    assert states(old) == {"tsk_1:ops": "dead", "tsk_1:later": "queued"}
    assert event_body(old, EVENT)


def test_no_delivery_is_added_to_an_event_that_is_being_removed(old: Ledger) -> None:
    with beside(old, remove, give) as (removed, made):
        assert (removed, made) == (1, False)
    assert states(old) == {}
    assert event_body(old, EVENT) is None


def test_reroute_makes_no_delivery_of_a_removed_event(postgres_ledger: Ledger) -> None:
    # Given a result that a reroute has read, and an update of it that came afterwards
    first = new_event("tsk_1", "ops")
    update = new_event("tsk_1", disposition="update", recording_url="r")._replace(repeat_of=first.event.id)
    record(postgres_ledger, first)
    record(postgres_ledger, update, now=NOW + 2)
    added = AddedDelivery(first.event.id, "skyvern", "tsk_1", "db", "backfill")
    # When retention removes the update while the reroute creates its delivery
    with beside(postgres_ledger, remove, lambda it: reroutes.add(it, [added], LATER, to_newest=True)) as (removed, _):
        # Then the event that is gone gets no delivery
        assert removed == 1
        assert states(postgres_ledger) == {"tsk_1:ops": "queued"}
        made = postgres_ledger.read(lambda it: it.execute(sa.select(deliveries.c.event_id)).scalars().all())
        assert made == [first.event.id]


def put(ledger: Ledger, table: sa.Table, *rows: dict[str, object]) -> None:
    ledger.write(lambda it: [it.execute(sa.insert(table).values(row)) for row in rows])


def submission(name: str, at: float = NOW, **fields: object) -> dict[str, object]:
    return submission_row(f"sub_{name}", "skyvern", at, **fields)


def remove_submissions(ledger: Ledger) -> list[str]:
    """Remove old submissions, and return the ids of those that are left."""
    ledger.write(lambda it: retention.remove_submissions(it, LATER))
    return ledger.read(lambda it: it.scalars(sa.select(submissions.c.id).order_by(submissions.c.id)).all())  # type: ignore[return-value]


def remove_runs(ledger: Ledger) -> list[str]:
    """Remove old rows of runs, and return the ids of those that are left."""
    ledger.write(lambda it: retention.remove_idle_runs(it, LATER))
    return ledger.read(lambda it: it.scalars(sa.select(runs.c.run_id).order_by(runs.c.run_id)).all())  # type: ignore[return-value]


def test_old_submissions_that_have_ended_are_removed(ledger: Ledger) -> None:
    ended = [submission(each, state=each) for each in ("lost", "rejected", "accepted")]
    changed = submission("changed", state="rejected") | {"updated_at": LATER}
    polled = submission("polled", run_id="tsk_1")
    put(ledger, polls, poll_row("skyvern", "tsk_1", NOW, LATER))
    others = [submission(each, state=each) for each in ("pending", "unknown")]
    put(ledger, submissions, *ended, *others, polled, changed, submission("young", LATER, state="lost"))

    assert remove_submissions(ledger) == ["sub_changed", "sub_pending", "sub_polled", "sub_unknown", "sub_young"]


def test_submission_stays_while_its_run_or_a_retry_has_events(ledger: Ledger) -> None:
    # Given an ended run, and Skyvern's retry of one without an event, whose webhooks to their callers wait
    put(ledger, submissions, *(submission(each, run_id=f"tsk_{each}", callback_url="https://a") for each in "ab"))
    put(ledger, runs, run_row("skyvern", "tsk_retry", NOW, submission_id="sub_b"))
    record(ledger, new_event("tsk_a", CALLBACK), new_event("tsk_retry", CALLBACK))
    # And a lost submission, beside an event that names no run
    put(ledger, submissions, submission("c", state="lost"))
    put(ledger, events, event_row("evt_x", "skyvern", "", LATER))
    # Then the first two stay with the events, although these are old
    assert ledger.write(lambda it: retention.remove(it, NOW + 1).rows) == 0
    assert remove_submissions(ledger) == ["sub_a", "sub_b"]
    # And go after them
    settle(ledger, claim(ledger, CALLBACK), DeliveryMove.ACCEPT)
    assert ledger.write(lambda it: retention.remove(it, NOW + 1).rows) == 2
    assert remove_submissions(ledger) == []


def test_old_rows_of_runs_without_events_are_removed(ledger: Ledger) -> None:
    # Given old rows of runs that have no events and no words, but a link, a poll, a submission, or that were erased
    kept = [
        run_row("skyvern", "tsk_polled", NOW, events=0),
        run_row("skyvern", "tsk_of_submission", NOW, events=0),
        run_row("skyvern", "tsk_retry", NOW, events=0, submission_id="sub_a"),
        run_row("skyvern", "tsk_erased", NOW, erased_at=NOW),
        run_row("skyvern", "tsk_young", LATER, events=0),
    ]
    linked = run_row("skyvern", "tsk_linked", NOW, events=0, retried_by="tsk_event")
    put(ledger, runs, *kept, linked, run_row("skyvern", "tsk_of_none", NOW, events=0, submission_id="sub_gone"))
    put(ledger, submissions, submission("a", run_id="tsk_of_submission"))
    put(ledger, polls, *(poll_row("skyvern", run_id, NOW, LATER) for run_id in ("tsk_polled", "tsk_of_submission")))
    record(ledger, new_event("tsk_event"), new_event("tsk_left"))
    # And one that lost its events, with its words
    queue_all_words(ledger)
    index_words(ledger)
    ledger.write(lambda it: it.execute(sa.delete(events).where(events.c.run_id == "tsk_left")))
    # Then only those that nothing needs are removed
    assert remove_runs(ledger) == sorted([*(str(each["run_id"]) for each in kept), "tsk_event"])
    assert ledger.read(lambda it: it.scalars(sa.select(run_texts.c.run_id)).all()) == ["tsk_event"]
    # And when the submission has ended, its run goes as well
    ledger.write(lambda it: it.execute(sa.delete(polls).where(polls.c.run_id == "tsk_of_submission")))
    assert remove_submissions(ledger) == []
    assert remove_runs(ledger) == ["tsk_erased", "tsk_event", "tsk_polled", "tsk_young"]


def test_submissions_and_runs_are_removed_in_bounded_steps(ledger: Ledger) -> None:
    # Given as many old rows as one step reads that must stay, and some behind them
    numbers = [f"{number:04}" for number in range(retention.BATCH + 10)]
    rows = [submission(number, state="lost", run_id=f"s{number}") for number in numbers]
    of_runs = [run_row("skyvern", f"r{number}", NOW) for number in numbers]
    kept = [f"{kind}{number}" for kind in "rs" for number in numbers[: retention.BATCH]]
    put(ledger, polls, *(poll_row("skyvern", run_id, NOW, LATER) for run_id in kept))
    ledger.write(lambda it: [it.execute(sa.insert(submissions), rows), it.execute(sa.insert(runs), of_runs)])
    for step in (retention.remove_submissions, retention.remove_idle_runs):
        # When a second step begins where the first one ended, then it comes to those behind
        first = ledger.write(lambda it: step(it, LATER))  # noqa: B023
        assert first.rows == 0
        assert ledger.write(lambda it: step(it, LATER, first.after)) == (10, None)  # noqa: B023


def test_late_webhook_of_a_removed_submission_is_a_run_alone(ledger: Ledger) -> None:
    # Given a submission that was lost, and removed by its age
    new = NewSubmission("sub_a", "skyvern", "k1", "tasks", "hash", labels={"a": "b"}, idempotency_key="once")
    ledger.write(lambda it: lifecycle.begin(it, new, NOW))
    ledger.write(lambda it: lifecycle.resolve(it, "sub_a", SubmissionMove.MISS, NOW))
    ledger.write(lambda it: lifecycle.resolve(it, "sub_a", SubmissionMove.GIVE_UP, NOW))
    assert remove_submissions(ledger) == []
    # When its webhook comes after all, then its run is recorded without it
    assert ledger.write(bind) == {}
    record(ledger, new_event("tsk_1"))
    assert [each["submission_id"] for each in ledger.read(lambda it: queries.list_runs(it, queries.Filter()))] == [""]
    # And its Idempotency-Key is free
    repeated = NewSubmission("sub_b", "skyvern", "k1", "tasks", "hash", idempotency_key="once")
    assert ledger.write(lambda it: lifecycle.begin(it, repeated, LATER))[1]


def bind(connection: Connection) -> object:
    lock_runs(connection, [RUN], LATER)
    return binding.bind(connection, [binding.Reported(*RUN, "sub_a")], LATER, {})


def bind_and_record(connection: Connection) -> object:
    bound = bind(connection)
    connection.execute(sa.insert(events).values(event_row("evt_late", *RUN, LATER)))
    return bound


def test_submission_whose_late_event_is_being_recorded_stays(postgres_ledger: Ledger) -> None:
    put(postgres_ledger, submissions, submission("a", run_id="tsk_1"))
    with beside(postgres_ledger, bind_and_record, lambda it: retention.remove_submissions(it, LATER).rows) as done:
        assert (list(done[0]), done[1]) == ([RUN], 0)


def test_late_event_does_not_bind_a_submission_being_removed(postgres_ledger: Ledger) -> None:
    put(postgres_ledger, submissions, submission("a", run_id="tsk_1"))
    remove = lambda it: retention.remove_submissions(it, LATER).rows  # noqa: E731
    with beside(postgres_ledger, remove, bind_and_record) as (removed, bound):
        assert (removed, bound) == (1, {})


def test_run_whose_first_event_is_being_recorded_stays(postgres_ledger: Ledger) -> None:
    put(postgres_ledger, runs, run_row("skyvern", "tsk_1", NOW, events=0))
    removing = lambda it: retention.remove_idle_runs(it, LATER).rows  # noqa: E731
    with beside(postgres_ledger, lambda it: lock_runs(it, [RUN], LATER), removing) as (_, removed):
        assert removed == 0


RUN = ("skyvern", "tsk_1")


def erase(connection: Connection) -> int | str:
    try:
        return retention.erase(connection, RUN, "ada", LATER)
    except Conflict as why:
        return str(why)


def test_run_with_pending_deliveries_is_not_erased(ledger: Ledger) -> None:
    # Given a run whose delivery is queued, then claimed, then waits
    record(ledger, new_event("tsk_1", "ops"))
    refusals = [ledger.write(erase)]
    claimed = claim(ledger, "ops")
    refusals.append(ledger.write(erase))
    settle(ledger, claimed, DeliveryMove.DEFER)
    refusals.append(ledger.write(erase))
    # Then each refusal names the sink and the way out, and nothing is erased
    assert all("deliveries to ops are pending" in str(each) for each in refusals)
    assert all("`runhook cancel tsk_1`" in str(each) for each in refusals)
    assert event_body(ledger, EVENT)
    # And once it is cancelled, the run is erased
    ledger.write(lambda connection: verbs.cancel(connection, list(delivery_ids(connection)), "no", LATER))
    assert ledger.write(erase) == 1
    assert event_body(ledger, EVENT) == b""
    assert ledger.read(lambda connection: stats.newest(connection, 0.0)).troubled == 0, "an erased event is no trouble"


def delivery_ids(connection: Connection) -> list[str]:
    return list(connection.execute(sa.select(deliveries.c.id)).scalars())


def test_run_that_has_not_ended_is_not_erased(ledger: Ledger) -> None:
    record(ledger, new_event("tsk_1", status="running", disposition="interim"))
    assert "it has not ended" in str(ledger.write(erase))


def test_submission_that_got_a_run_meanwhile_is_not_erased(ledger: Ledger) -> None:
    # Given a submission that had no run when its erasure began, and has one now
    put(ledger, submissions, submission("a", run_id="tsk_1", prompt="Jane Doe"))
    # Then it is refused, and nothing has changed
    with pytest.raises(Conflict, match="sub_a: it has not ended"):
        ledger.write(lambda it: retention.erase(it, ("skyvern", "sub_a"), "ada", LATER))
    assert ledger.read(lambda it: it.scalars(sa.select(submissions.c.prompt)).all()) == ["Jane Doe"]
    assert ledger.read(lambda it: it.scalars(sa.select(runs.c.run_id)).all()) == []


def test_row_of_an_erased_run_outlives_its_events(ledger: Ledger) -> None:
    # Given a run that is erased, whose events are then removed by age
    record(ledger, new_event("tsk_1"))
    ledger.write(erase)
    assert ledger.write(lambda connection: retention.remove(connection, LATER + 1).rows) == 1
    # When an event of it comes after all, then it is known to be erased
    known = ledger.write(lambda connection: lock_runs(connection, [RUN], LATER + 2))
    assert known[RUN].erased_at


@pytest.mark.parametrize("lost", [False, True], ids=["late answer", "lost answer"])
def test_submission_bound_to_an_erased_run_keeps_no_content(ledger: Ledger, lost: bool) -> None:
    # Given a submission whose answer has not come, and its run, which ended and was erased
    secret = {
        "title": "Jane Doe",
        "prompt": "Call Jane Doe",
        "request": {"prompt": "Jane Doe"},
        "labels": {"a": "Jane"},
    }
    new = NewSubmission("sub_a", "skyvern", "k1", "tasks", "hash", **secret)  # type: ignore[arg-type]
    ledger.write(lambda it: lifecycle.begin(it, new, NOW))
    record(ledger, new_event("tsk_1"))
    ledger.write(erase)
    # When its answer comes, or a search finds the run, and the reply to its caller is kept
    accepted = SubmitOutcome(SubmissionMove.ACCEPT, "tsk_1", status=200, body=b"Jane Doe")
    if lost:
        miss = SubmitOutcome(SubmissionMove.MISS, status=502, body=b"{}", due_at=NOW)
        ledger.write(lambda it: lifecycle.record_outcome(it, "sub_a", miss, LATER))
        ledger.write(lambda it: lifecycle.resolve(it, "sub_a", SubmissionMove.ACCEPT, LATER, run_id="tsk_1"))
    else:
        ledger.write(lambda it: lifecycle.record_outcome(it, "sub_a", accepted, LATER))
    ledger.write(lambda it: lifecycle.set_answer(it, "sub_a", 200, b"Jane Doe", LATER))
    # Then neither holds content, and a repeated submit gets the id of the run
    found = ledger.read(lambda it: records.get(it, "sub_a"))
    assert found is not None
    assert (found.title, found.prompt, found.request, found.labels) == (None, None, None, {})
    assert (found.run_id, found.answer_status, found.answer) == ("tsk_1", 200, b'{"run_id": "tsk_1"}')
    assert ledger.read(lambda it: it.execute(sa.select(runs.c.labels)).scalar_one()) == "{}"


def test_late_result_of_an_erased_run_keeps_no_response(ledger: Ledger) -> None:
    # Given a worker that was suspended while it sent, whose delivery another one has sent
    record(ledger, new_event("tsk_1", "ops"))
    (suspended,) = claim(ledger, "ops", "w1")
    assert ledger.write(lambda connection: recovery.lapse_claims(connection, LATER)) == 1
    settle(ledger, claim(ledger, "ops", "w2", now=LATER), DeliveryMove.ACCEPT, "w2")
    # When its result comes after the run was erased
    ledger.write(erase)
    settle(ledger, [suspended], DeliveryMove.DIE, "w1", response="Jane Doe is unknown")
    # Then the result is recorded without what the server said
    tried = ledger.read(queries.list_attempts)
    assert [(each["outcome"], each["response"]) for each in tried] == [("refused", ERASED), ("accepted", "")]


def test_run_replayed_while_it_is_erased_is_not_erased(old: Ledger) -> None:
    with beside(old, replay, erase) as (_, said):
        assert "deliveries to ops are pending" in str(said)
    assert event_body(old, EVENT)
