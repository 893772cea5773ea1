"""Deliveries of a sink that is in no config: counted, given to another sink and back, cancelled and brought back."""

from __future__ import annotations

import secrets

import pytest
import sqlalchemy as sa

from receiver.domain.delivery import DeliveryMove
from receiver.domain.event import delivery_id
from receiver.domain.new_event import NewDelivery
from receiver.ledger import Ledger, operations, stats, verbs
from receiver.ledger.deliveries import lanes, recovery
from receiver.ledger.operations import STEP, Operation, StepBounds
from receiver.ledger.selection import Selection
from tests.support import queries
from tests.support.ledger import NOW, claim, new_event, record, settle, states, step_operations


@pytest.fixture
def renamed(ledger: Ledger) -> Ledger:
    """The sink old is gone: tsk_1 is delivered to it, tsk_2 dead, tsk_3 waiting, tsk_4 queued; mail waits for tsk_4."""
    record(ledger, *(new_event(f"tsk_{n}", "old") for n in (1, 2, 3)))
    taken = {each.run_id: each for each in claim(ledger, "old")}
    settle(ledger, [taken["tsk_1"]], DeliveryMove.ACCEPT, receipt={"id": "r"})
    settle(ledger, [taken["tsk_2"]], DeliveryMove.DIE)
    settle(ledger, [taken["tsk_3"]], DeliveryMove.DEFER, due_at=NOW + 3600)
    record(ledger, new_event("tsk_4", "old", NewDelivery("mail", "r", after=("old",))))
    return ledger


def move(
    ledger: Ledger, old: str, new: str, kind: str = "move", bounds: StepBounds = STEP, *, force: bool = False
) -> int:
    """Move all deliveries of a sink as the clock does. Returns how many."""
    name, action = f"op_{secrets.token_hex(4)}", Operation(kind, Selection(sink=old), new, force)
    ledger.write(lambda it: operations.create(it, name, action, NOW + 60))
    while ledger.read(operations.count_running):
        step_operations(ledger, NOW + 60, bounds)
    done = ledger.read(lambda it: operations.get(it, name))
    assert done is not None
    return done.done


def rows(ledger: Ledger, sink: str) -> dict[str, tuple[str, float, int]]:
    found = ledger.read(lambda it: queries.list_deliveries(it, queries.Filter(sink=sink)))
    return {row["run_id"]: (row["state"], row["due_at"], row["spent"]) for row in found}


def test_open_deliveries_of_removed_sinks_are_counted(renamed: Ledger) -> None:
    def count(*sinks: str) -> dict[str, dict[str, int]]:
        return stats.orphaned(renamed.read(stats.counts), sinks)

    assert count("old", "mail") == {}
    assert count("new", "mail") == {"old": {"queued": 1, "waiting": 1}}
    assert count("old") == {"mail": {"held": 1}}


@pytest.mark.parametrize("bounds", [STEP, StepBounds(2)])
def test_a_moved_delivery_keeps_its_key_and_is_a_new_effort(renamed: Ledger, bounds: StepBounds) -> None:
    ids = {row["id"] for row in renamed.read(lambda it: queries.list_deliveries(it, queries.Filter(sink="old")))}

    assert move(renamed, "old", "new", bounds=bounds) == 3

    assert rows(renamed, "old").keys() == {"tsk_1"}
    assert rows(renamed, "new") == {
        "tsk_2": ("dead", 0.0, 1),
        "tsk_3": ("waiting", NOW + 60, 0),
        "tsk_4": ("queued", NOW + 60, 0),
    }
    (claimed,) = claim(renamed, "new", now=NOW + 60)
    assert (claimed.lane, claimed.id in ids, claimed.id) == ("new", True, delivery_id(claimed.event_id, "old"))


def test_delivery_held_for_a_moved_one_waits_for_the_new_sink(renamed: Ledger) -> None:
    move(renamed, "old", "new")

    assert states(renamed)["tsk_4:mail"] == "held"
    released = settle(renamed, claim(renamed, "new", now=NOW + 60), DeliveryMove.ACCEPT, receipt={"id": "n"})

    assert released == ["mail"]
    (mail,) = claim(renamed, "mail", now=NOW + 60)
    assert mail.after == ("new",)


def test_update_held_for_a_moved_result_waits_for_new_sink(ledger: Ledger) -> None:
    first = new_event("tsk_1", "old")
    record(ledger, first)
    update = new_event("tsk_1", NewDelivery("mail", "r", after=("old",)), recording_url="https://x.example/r")
    record(ledger, update._replace(disposition="update", repeat_of=first.event.id))

    move(ledger, "old", "new")

    ledger.write(lambda it: recovery.sweep_held(it, NOW + 60, ["new", "mail"]))
    assert states(ledger)["tsk_1:mail"] == "held"
    settle(ledger, claim(ledger, "new", now=NOW + 60), DeliveryMove.ACCEPT, receipt={"id": "n"})
    ledger.write(lambda it: recovery.sweep_held(it, NOW + 60, ["new", "mail"]))
    (mail,) = claim(ledger, "mail", now=NOW + 60)
    assert mail.after == ("new",)


def test_what_a_move_took_is_given_back_and_no_more(renamed: Ledger) -> None:
    before = states(renamed)
    record(renamed, new_event("tsk_5", "new"))
    move(renamed, "old", "new")
    done = [each for each in claim(renamed, "new", now=NOW + 60) if each.run_id == "tsk_4"]
    settle(renamed, done, DeliveryMove.ACCEPT, receipt={"id": "n"})

    assert move(renamed, "new", "old", "move_back") == 2

    after = states(renamed)
    assert {name: state for name, state in after.items() if before.get(name) != state} == {
        "tsk_5:new": "sending",
        "tsk_4:new": "delivered",
        "tsk_4:mail": "queued",
    }


def test_renamed_sink_keeps_its_earlier_deliveries(renamed: Ledger) -> None:
    assert move(renamed, "old", "new", force=True) == 4

    assert rows(renamed, "new")["tsk_1"] == ("delivered", NOW, 0)
    assert rows(renamed, "old") == {}


def test_move_makes_no_second_delivery_of_an_event(ledger: Ledger) -> None:
    record(ledger, new_event("tsk_1", "old", "new"), new_event("tsk_2", "old"))

    assert move(ledger, "old", "new") == 1

    assert states(ledger) == {"tsk_1:old": "queued", "tsk_1:new": "queued", "tsk_2:new": "queued"}


def work_off(ledger: Ledger, kind: str, selection: Selection, now: float = NOW + 60) -> int:
    """Begin an operation, and make the steps of the clock. Returns how many it has moved."""
    begun = ledger.write(
        lambda it: operations.create(it, f"op_{secrets.token_hex(4)}", Operation(kind, selection), now)
    )
    while ledger.read(operations.count_running):
        step_operations(ledger, now + 1)
    done = ledger.read(lambda it: operations.get(it, begun.id))
    assert done is not None
    return done.done


def test_deliveries_of_a_sink_are_cancelled_and_restored(renamed: Ledger) -> None:
    before = states(renamed)
    together = verbs.TOGETHER
    assert [work_off(renamed, "cancel", Selection(sink=each)) for each in ("mail", "old", "old")] == [1, 2, 0]
    assert set(states(renamed).values()) == {"cancelled", "dead", "delivered"}

    restored = [
        work_off(renamed, "replay", Selection(sink=each, reason=together, state=("cancelled",)))
        for each in ("old", "mail", "old")
    ]

    # What waited for its next attempt is due now, and what was held is held again
    assert restored == [2, 1, 0]
    assert states(renamed) == {**before, "tsk_3:old": "queued"}
    assert rows(renamed, "old")["tsk_3"] == ("queued", NOW + 61, 0)


def test_what_comes_after_a_cancel_of_all_is_not_cancelled(renamed: Ledger) -> None:
    assert work_off(renamed, "cancel", Selection(sink="old"), now=NOW) == 0


def test_a_replay_leaves_what_nobody_would_send(renamed: Ledger) -> None:
    record(renamed, new_event("tsk_6", "new"))
    settle(renamed, claim(renamed, "new"), DeliveryMove.DIE)

    assert work_off(renamed, "replay", Selection(sinks=("new", "mail"))) == 1

    assert (states(renamed)["tsk_2:old"], states(renamed)["tsk_6:new"]) == ("dead", "queued")


def test_replay_of_waiting_deliveries_probes_an_open_breaker(renamed: Ledger) -> None:
    opened = sa.insert(lanes.lanes).values(
        lane="old", sink="old", breaker="open", failures=9, until=NOW + 1800, reason="away", updated_at=NOW
    )
    renamed.write(lambda it: it.execute(opened).rowcount)

    assert work_off(renamed, "replay", Selection(state=("waiting",))) == 1

    assert rows(renamed, "old")["tsk_3"] == ("queued", NOW + 61, 1)
    assert states(renamed)["tsk_2:old"] == "dead"
    assert [each.probe for each in claim(renamed, "old", now=NOW + 62)] == [True]
