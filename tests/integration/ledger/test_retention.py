"""Retention beside others' transactions on PostgreSQL: what they queue or add meanwhile is not deleted with the old.

And which runs can be erased, on both databases.
"""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from receiver.domain.delivery import DeliveryMove
from receiver.domain.event import ERASED
from receiver.domain.submission import SubmissionMove
from receiver.errors import Conflict
from receiver.ledger import Connection, Ledger, actions, retention, stats
from receiver.ledger.deliveries import creation, recovery, resend
from receiver.ledger.deliveries.creation import AddedDelivery
from receiver.ledger.schema import deliveries, runs
from receiver.ledger.selection import Action, Selection
from receiver.ledger.submissions import lifecycle, records
from receiver.ledger.submissions.lifecycle import SubmitOutcome
from receiver.ledger.submissions.records import NewSubmission
from tests.support import queries
from tests.support.ledger import NOW, beside, claim, event_body, lock_runs, new_event, record, settle, states

LATER = NOW + 1000
EVENT = new_event("tsk_1", "ops").event.id


@pytest.fixture
def old(postgres_ledger: Ledger) -> Ledger:
    """A ledger with one event, which is old, and whose delivery is dead."""
    record(postgres_ledger, new_event("tsk_1", "ops"))
    settle(postgres_ledger, claim(postgres_ledger, "ops"), DeliveryMove.DIE)
    return postgres_ledger


def remove(connection: Connection) -> int:
    return retention.remove(connection, LATER).events


def replay(connection: Connection) -> None:
    actions.create(connection, "op_1", Action("replay", Selection()), LATER)
    assert actions.step(connection, LATER).sinks == ["ops"]


def backfill(connection: Connection) -> bool:
    return creation.add(connection, AddedDelivery(EVENT, "skyvern", "tsk_1", "later", "backfill"), LATER)


def test_delivery_replayed_during_retention_is_kept(old: Ledger) -> None:
    with beside(old, replay, remove) as (_, removed):
        assert removed == 0
    assert states(old) == {"tsk_1:ops": "queued"}
    assert event_body(old, EVENT)


def test_delivery_added_during_retention_keeps_its_event(old: Ledger) -> None:
    with beside(old, backfill, remove) as (made, removed):
        assert (made, removed) == (True, 0)
    assert states(old) == {"tsk_1:ops": "dead", "tsk_1:later": "queued"}
    assert event_body(old, EVENT)


def test_no_delivery_is_added_to_an_event_that_is_being_removed(old: Ledger) -> None:
    with beside(old, remove, backfill) as (removed, made):
        assert (removed, made) == (1, False)
    assert states(old) == {}
    assert event_body(old, EVENT) is None


def test_backfill_makes_no_delivery_of_a_removed_event(postgres_ledger: Ledger) -> None:
    # Given a result that a backfill has counted, and an update of it that came afterwards
    first = new_event("tsk_1", "ops")
    update = new_event("tsk_1", disposition="update", recording_url="r")._replace(repeat_of=first.event.id)
    record(postgres_ledger, first)
    postgres_ledger.write(lambda it: actions.create(it, "op_1", Action("backfill", Selection(), "db"), NOW + 1))
    record(postgres_ledger, update, now=NOW + 2)
    # When retention removes the update while the backfill makes its step
    with beside(postgres_ledger, remove, lambda it: actions.step(it, LATER)) as (removed, _):
        # Then the event that is gone gets no delivery
        assert removed == 1
        assert states(postgres_ledger) == {"tsk_1:ops": "queued"}
        made = postgres_ledger.read(lambda it: it.execute(sa.select(deliveries.c.event_id)).scalars().all())
        assert made == [first.event.id]


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
    ledger.write(lambda connection: resend.cancel(connection, list(delivery_ids(connection)), "no", LATER))
    assert ledger.write(erase) == 1
    assert event_body(ledger, EVENT) == b""
    assert ledger.read(lambda connection: stats.newest(connection, 0.0)).troubled == 0, "an erased event is no trouble"


def delivery_ids(connection: Connection) -> list[str]:
    return list(connection.execute(sa.select(deliveries.c.id)).scalars())


def test_run_that_has_not_ended_is_not_erased(ledger: Ledger) -> None:
    record(ledger, new_event("tsk_1", status="running", disposition="interim"))
    assert "it has not ended" in str(ledger.write(erase))


def test_row_of_an_erased_run_outlives_its_events(ledger: Ledger) -> None:
    # Given a run that is erased, whose events are then removed by age
    record(ledger, new_event("tsk_1"))
    ledger.write(erase)
    assert ledger.write(lambda connection: retention.remove(connection, LATER + 1).events) == 1
    # When an event of it comes after all, then it is known to be erased
    known = ledger.write(lambda connection: lock_runs(connection, [RUN], LATER + 2))
    assert known[RUN].erased


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
    found = ledger.read(lambda it: records.one(it, "sub_a"))
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
