"""Operations: durable, bounded, exactly what was counted, and never twice to a sink that has it already."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa

from receiver.domain.delivery import DeliveryMove
from receiver.domain.event import delivery_id
from receiver.domain.new_event import NewDelivery
from receiver.errors import NotAsExpected
from receiver.ledger import Ledger, operations, verbs
from receiver.ledger.deliveries import claims
from receiver.ledger.operations import STEP, Operation, StepBounds
from receiver.ledger.schema import deliveries
from receiver.ledger.selection import Selection
from tests.support import queries
from tests.support.backlog import analyze, effort
from tests.support.ledger import NOW, claim, new_event, record, settle, states, step_operations
from tests.support.listed import fill

TWO = {"tsk_1:ops", "tsk_2:ops"}
CANCELLED = Selection(state=("cancelled",))


def create(ledger: Ledger, selection: Selection = Selection(), kind: str = "replay", **options: Any) -> Operation:  # noqa: B008
    expect = options.pop("expect", None)
    action = Operation(kind, selection, **options)
    return ledger.write(lambda connection: operations.create(connection, "op_1", action, NOW + 10, expect=expect))


def finish(ledger: Ledger, now: float = NOW + 11, bounds: StepBounds = STEP) -> None:
    while ledger.read(operations.count_running):
        step_operations(ledger, now, bounds)


@pytest.fixture
def mixed(ledger: Ledger) -> Ledger:
    """tsk_1 dead at ops and delivered at results; tsk_2 dead at both; tsk_3 still queued."""
    record(ledger, new_event("tsk_1", "ops", "results"), new_event("tsk_2", "ops", "results"))
    settle(ledger, claim(ledger, "ops"), DeliveryMove.DIE)
    taken = claim(ledger, "results")
    settle(ledger, [each for each in taken if each.run_id == "tsk_1"], DeliveryMove.ACCEPT, receipt={"id": "r"})
    settle(ledger, [each for each in taken if each.run_id == "tsk_2"], DeliveryMove.DIE)
    record(ledger, new_event("tsk_3", "ops", "results"))
    return ledger


@pytest.mark.parametrize(
    ("selection", "options", "replayed"),
    [
        (Selection(), {}, {"tsk_1:ops", "tsk_2:ops", "tsk_2:results"}),
        (Selection(), {"force": True}, {"tsk_1:ops", "tsk_1:results", "tsk_2:ops", "tsk_2:results"}),
        (Selection(run_id="tsk_1"), {}, {"tsk_1:ops"}),
        (Selection(sink="results"), {}, {"tsk_2:results"}),
        (Selection(event_id=new_event("tsk_2").event.id), {}, {"tsk_2:ops", "tsk_2:results"}),
        (Selection(delivery_ids=(delivery_id(new_event("tsk_1").event.id, "ops"),)), {}, {"tsk_1:ops"}),
        (Selection(status=("failed",)), {}, set()),
        (Selection(since=NOW + 5), {}, set()),
        (Selection(until=NOW), {}, set()),
        (Selection(since=NOW, until=NOW + 5), {}, {"tsk_1:ops", "tsk_2:ops", "tsk_2:results"}),
        (Selection(run_id="tsk_3"), {"force": True}, set()),
        (Selection(run_ids=("tsk_1", "tsk_3")), {}, {"tsk_1:ops"}),
        (Selection(event_ids=(new_event("tsk_2").event.id[:14],), run_ids=("tsk_1",), sink="ops"), {}, TWO),
        (Selection(run_ids=("tsk_1", "tsk_2"), run_id="tsk_2"), {}, {"tsk_2:ops", "tsk_2:results"}),
        (CANCELLED, {}, set()),
    ],
)
def test_a_replay_takes_what_was_chosen_and_has_ended(
    mixed: Ledger, selection: Selection, options: dict[str, bool], replayed: set[str]
) -> None:
    before = states(mixed)
    counted = mixed.read(lambda connection: Operation("replay", selection, **options).count(connection))

    operation = create(mixed, selection, **options)
    finish(mixed)

    after = states(mixed)
    assert {name for name in after if after[name] == "queued" and before[name] != "queued"} == replayed
    assert {name: state for name, state in after.items() if name not in replayed} == {
        name: state for name, state in before.items() if name not in replayed
    }
    assert operation.total == counted == len(replayed)


def test_delivery_can_be_replayed_again_with_the_same_key(ledger: Ledger) -> None:
    record(ledger, new_event("tsk_1", "ops"))
    (first,) = claim(ledger, "ops")
    settle(ledger, [first], DeliveryMove.DIE)

    for number in (2, 3, 4):
        begin = partial(operations.create, operation_id=f"op_{number}", operation=Operation("replay", Selection()))
        ledger.write(partial(begin, now=NOW + number))
        finish(ledger)
        (again,) = claim(ledger, "ops", now=NOW + 20)
        assert (again.id, again.attempt_number, again.spent) == (first.id, number, 0)
        settle(ledger, [again], DeliveryMove.DIE)


def test_an_operation_goes_on_after_a_restart_where_it_stood(ledger: Ledger) -> None:
    record(ledger, *(new_event(f"tsk_{n}", "ops") for n in range(8)))
    settle(ledger, claim(ledger, "ops"), DeliveryMove.DIE)
    create(ledger)
    step_operations(ledger, NOW + 11, StepBounds(3))
    half = ledger.read(lambda connection: operations.get(connection, "op_1"))
    assert half is not None
    assert (half.state, half.done, half.total) == ("running", 3, 8)

    again = Ledger(ledger.url.render_as_string(hide_password=False))
    finish(again)
    again.close()

    done = ledger.read(lambda connection: operations.get(connection, "op_1"))
    assert done is not None
    assert (done.state, done.done) == ("done", 8)
    assert set(states(ledger).values()) == {"queued"}


def test_replay_range_ends_when_the_replay_begins(ledger: Ledger) -> None:
    record(ledger, new_event("tsk_1", "ops"))
    settle(ledger, claim(ledger, "ops"), DeliveryMove.DIE)

    operation = create(ledger, Selection(sink="ops", until=NOW + 3600))

    assert operation.selection.until == NOW + 10


def test_a_rate_is_kept(ledger: Ledger) -> None:
    record(ledger, *(new_event(f"tsk_{n}", "ops") for n in range(10)))
    settle(ledger, claim(ledger, "ops"), DeliveryMove.DIE)
    create(ledger, rate=2.0)

    counts = []
    for now in (NOW + 10, NOW + 10.4, NOW + 11, NOW + 12):
        step_operations(ledger, now)
        counts.append(list(states(ledger).values()).count("queued"))

    assert counts == [1, 1, 3, 5]


def test_a_cancelled_operation_takes_no_more(ledger: Ledger) -> None:
    record(ledger, *(new_event(f"tsk_{n}", "ops") for n in range(5)))
    settle(ledger, claim(ledger, "ops"), DeliveryMove.DIE)
    create(ledger)
    step_operations(ledger, NOW + 11, StepBounds(2))

    assert ledger.write(lambda connection: operations.cancel(connection, "op_1", NOW + 11))
    finish(ledger)

    assert sorted(states(ledger).values()) == ["dead"] * 3 + ["queued"] * 2
    assert not ledger.write(lambda connection: operations.cancel(connection, "op_1", NOW + 12))


def test_only_what_waits_can_be_cancelled(mixed: Ledger) -> None:
    rows = mixed.read(lambda connection: queries.list_deliveries(connection, queries.Filter()))
    claim(mixed, "results")  # tsk_3's is being sent

    cancelled = mixed.write(lambda connection: verbs.cancel(connection, [row["id"] for row in rows], "", NOW + 1))

    assert [row["run_id"] + row["sink"] for row in rows if row["id"] in cancelled] == ["tsk_3ops"]
    assert mixed.read(lambda connection: claims.due_sinks(connection, ["ops"], NOW + 5)) == []


def test_operation_is_refused_if_its_count_changed(mixed: Ledger) -> None:
    before = states(mixed)
    with pytest.raises(NotAsExpected) as raised:
        create(mixed, Selection(), expect=2)
    assert raised.value.count == 3
    assert mixed.read(operations.list_operations) == []
    assert states(mixed) == before

    assert create(mixed, Selection(), expect=3).total == 3


def test_old_operations_are_removed_in_bounded_steps(ledger: Ledger) -> None:
    # Given three that are done, one that ended later, and one that runs, and is old
    record(ledger, new_event("tsk_1", "ops"))
    for number, when in enumerate((NOW, NOW + 1, NOW + 2, NOW + 50)):
        ledger.write(lambda it: operations.create(it, f"op_{number}", Operation("replay", Selection()), when))  # noqa: B023
    ledger.write(lambda it: operations.create(it, "op_runs", Operation("cancel", Selection()), NOW + 5))

    assert [ledger.write(lambda it: operations.remove(it, NOW + 10, 2)) for _ in range(3)] == [2, 1, 0]

    assert [each.id for each in ledger.read(operations.list_operations)] == ["op_3", "op_runs"]


def test_a_replay_takes_none_that_died_after_it_was_begun(mixed: Ledger) -> None:
    # Given a replay that was begun, and a delivery of the same selection that dies before the clock comes to it
    create(mixed, Selection(sink="ops"), expect=2)
    settle(mixed, claim(mixed, "ops", now=NOW + 30), DeliveryMove.DIE, now=NOW + 30)

    # When it is worked off
    finish(mixed, NOW + 40)

    # Then only those are sent again that were counted
    assert {name for name, state in states(mixed, sink="ops").items() if state == "queued"} == TWO
    done = mixed.read(lambda connection: operations.get(connection, "op_1"))
    assert done is not None
    assert (done.state, done.done, done.total) == ("done", 2, 2)


def test_replay_skips_what_was_cancelled_after_it_began(ledger: Ledger) -> None:
    # Given a replay of what is cancelled, and more that is cancelled before the clock comes to it
    record(ledger, new_event("tsk_1", "ops"), new_event("tsk_2", "ops"))
    first, later = (delivery_id(new_event(run).event.id, "ops") for run in ("tsk_1", "tsk_2"))
    ledger.write(lambda it: verbs.cancel(it, [first], "", NOW + 1))
    create(ledger, CANCELLED, expect=1)
    ledger.write(lambda it: verbs.cancel(it, [later], "", NOW + 20))

    # When it is worked off
    finish(ledger, NOW + 30)

    # Then that stays cancelled
    assert states(ledger) == {"tsk_1:ops": "queued", "tsk_2:ops": "cancelled"}


def test_a_cancel_takes_none_that_was_made_after_it_was_begun(ledger: Ledger) -> None:
    # Given a cancel of what waits for a sink, and more that comes before the clock comes to it
    record(ledger, new_event("tsk_1", "ops"), new_event("tsk_2", "ops"))
    create(ledger, Selection(sink="ops"), "cancel", expect=2)
    record(ledger, *(new_event(f"tsk_{number}", "ops") for number in range(3, 9)), now=NOW + 20)

    # When it is worked off
    finish(ledger, NOW + 30)

    # Then only those are cancelled that were counted
    assert {name for name, state in states(ledger).items() if state == "cancelled"} == TWO
    done = ledger.read(lambda connection: operations.get(connection, "op_1"))
    assert done is not None
    assert (done.state, done.done, done.total) == ("done", 2, 2)


def test_matching_deliveries_are_cancelled_and_restored_in_steps(ledger: Ledger) -> None:
    # Given some that wait for two sinks, one that has ended, and one that waits for the end of another
    after = new_event("tsk_9", "ops", NewDelivery("chat", "everything", after=["ops"]))
    record(ledger, after, *(new_event(f"tsk_{n}", "ops", "results") for n in range(5)))
    settle(ledger, claim(ledger, "ops", limit=1), DeliveryMove.ACCEPT, receipt={"id": "r"})
    before = states(ledger)
    (ended,) = (name for name, state in before.items() if state == "delivered")

    # When all that wait for one of them are cancelled
    operation = create(ledger, Selection(sink="ops"), "cancel", expect=5)
    finish(ledger, bounds=StepBounds(2))

    # Then these are, with the operation as the reason, and what waited for one of them goes on
    cancelled = {name for name, state in states(ledger).items() if state == "cancelled"}
    assert cancelled == {name for name in before if name.endswith(":ops")} - {ended}
    assert states(ledger)["tsk_9:chat"] == "queued"
    reasons = ledger.read(lambda it: Operation("replay", CANCELLED).examples(it, 9))
    assert {row["reason"] for row in reasons} == {"cancelled by an operator, with op_1"}
    assert operation.total == 5

    # And all of them can be brought back, with what waits for nothing as it was
    ledger.write(lambda it: operations.create(it, "op_2", Operation("replay", CANCELLED), NOW + 20, expect=5))
    finish(ledger, NOW + 21, StepBounds(2))
    assert states(ledger) == {**before, "tsk_9:chat": "queued"}


def test_operations_are_listed_page_by_page_and_by_source(ledger: Ledger) -> None:
    for number, source in enumerate(["", "a", "a", "b"]):
        wanted, at = Selection(source=source), NOW + number // 2
        ledger.write(lambda it: operations.create(it, f"op_{number}", Operation("replay", wanted), at, actor="me"))  # noqa: B023
    ids = []
    before = None
    while page := ledger.read(lambda it: operations.list_operations(it, 1, after=before)):  # noqa: B023
        ids.append(page[0].id)
        before = (page[0].created_at, page[0].id)
    assert ids == ["op_3", "op_2", "op_1", "op_0"]
    of_a = ledger.read(lambda it: operations.list_operations(it, source="a"))
    assert [(each.id, each.source, each.actor) for each in of_a] == [("op_2", "a", "me"), ("op_1", "a", "me")]


def test_action_on_named_ids_reads_few_rows(ledger: Ledger) -> None:
    # Given many deliveries
    fill(ledger, 5_000)
    analyze(ledger)
    of_run = sa.select(deliveries).where(deliveries.c.run_id == "tsk_2503")
    row, _ = ledger.read(lambda it: it.execute(of_run).all())
    # When some are named, or all of an event or a run
    cases = {
        "a delivery": Selection(delivery_ids=(row.id,)),
        "an event": Selection(event_ids=(row.event_id,)),
        "only of an event": Selection(event_id=row.event_id),
        "a run": Selection(run_ids=(row.run_id,), source=row.source),
        "only of a run": Selection(run_id=row.run_id, source=row.source),
        "of several kinds": Selection(delivery_ids=(row.id,), event_ids=(row.event_id,), run_ids=(row.run_id,)),
    }
    counted = {name: ledger.read(Operation("replay", each, force=True).count) for name, each in cases.items()}
    read = {name: effort(ledger, Operation("replay", each, force=True).count) for name, each in cases.items()}
    # Then hardly more is read than these
    assert counted == {**dict.fromkeys(cases, 2), "a delivery": 1}
    assert {name: each for name, each in read.items() if each > 150} == {}
