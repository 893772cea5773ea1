"""Deliveries that wait for others: what holds them, what releases them, and whose receipts they get."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa

from receiver.domain.delivery import DeliveryMove
from receiver.domain.new_event import NewDelivery, NewEvent
from receiver.ledger import Ledger
from receiver.ledger.deliveries import attempts, links, recovery
from receiver.ledger.schema import deliveries
from tests.support.ledger import NOW, beside, claim, new_event, record, result_of, settle, states

AFTER_ARCHIVE = NewDelivery("ops", "everything", after=("archive",))


def receipts(ledger: Ledger, event_id: str, *sinks: str) -> dict[str, object]:
    return dict(ledger.read(lambda connection: links.receipts(connection, event_id, sinks)))


@pytest.mark.parametrize("move", [DeliveryMove.ACCEPT, DeliveryMove.DIE])
def test_held_delivery_waits_for_all_its_sinks_to_end(ledger: Ledger, move: DeliveryMove) -> None:
    ops = NewDelivery("ops", "everything", after=("archive", "mirror"))
    item = new_event("tsk_1", "archive", "mirror", ops)
    record(ledger, item)
    assert claim(ledger, "ops") == []

    assert (
        settle(ledger, claim(ledger, "archive"), move, receipt={"id": "a"} if move is DeliveryMove.ACCEPT else None)
        == []
    )
    assert states(ledger)["tsk_1:ops"] == "held"
    assert settle(ledger, claim(ledger, "mirror"), DeliveryMove.ACCEPT, receipt={"id": "m"}) == ["ops"]

    (claimed,) = claim(ledger, "ops")
    assert receipts(ledger, claimed.event_id, *claimed.after) == {
        "archive": {"id": "a"} if move is DeliveryMove.ACCEPT else None,
        "mirror": {"id": "m"},
    }


def test_one_settlement_releases_all_that_waited_for_it(ledger: Ledger) -> None:
    after = [NewDelivery(sink, "r", after=("archive",)) for sink in ("mail", "ops")]
    record(ledger, *(new_event(f"tsk_{n}", "archive", *after) for n in range(links.PAGE // 2 + 2)))

    released = settle(ledger, claim(ledger, "archive", limit=links.PAGE), DeliveryMove.ACCEPT, receipt={"id": "a"})

    assert released == ["mail", "ops"]
    assert "held" not in states(ledger).values()


def test_second_of_two_concurrent_ends_releases_the_held_one(postgres_ledger: Ledger) -> None:
    # Given a delivery that waits for two sinks
    ledger = postgres_ledger
    record(ledger, new_event("tsk_1", "archive", "mirror", NewDelivery("ops", "r", after=("archive", "mirror"))))

    def settling(sink: str) -> Callable[[sa.Connection], list[str]]:
        results = [result_of(each, DeliveryMove.ACCEPT) for each in claim(ledger, sink)]
        return lambda connection: attempts.settle(connection, "w", results, NOW)

    # When both end, each in a transaction that does not see the other's
    with beside(ledger, settling("archive"), settling("mirror")) as released:
        # Then the second releases it, and no sweep is needed
        assert released == ([], ["ops"])
    assert states(ledger)["tsk_1:ops"] == "queued"


def test_the_sweep_frees_a_held_delivery_that_nobody_freed(ledger: Ledger) -> None:
    record(ledger, new_event("tsk_1", "archive", AFTER_ARCHIVE))
    done = sa.update(deliveries).where(deliveries.c.sink == "archive").values(state="delivered")
    ledger.write(lambda connection: connection.execute(done).rowcount)  # in a transaction that did not see the other

    assert ledger.write(lambda connection: recovery.sweep_held(connection, NOW)) == (["ops"], "")

    assert states(ledger)["tsk_1:ops"] == "queued"


def test_only_deliveries_held_for_removed_sinks_continue(ledger: Ledger) -> None:
    # Given two sinks that wait for others, of which only one is still in the config
    record(ledger, new_event("tsk_1", "archive", "mirror", AFTER_ARCHIVE, NewDelivery("mail", "r", after=("mirror",))))

    def sweep(*sinks: str) -> list[str]:
        return ledger.write(lambda connection: recovery.sweep_held(connection, NOW, sinks))[0]

    assert sweep("archive", "mirror", "ops", "mail") == []
    assert sweep("mirror", "ops", "mail") == ["ops"]

    assert states(ledger) == {
        "tsk_1:archive": "queued",
        "tsk_1:mirror": "queued",
        "tsk_1:ops": "queued",
        "tsk_1:mail": "held",
    }
    (claimed,) = claim(ledger, "ops")
    assert receipts(ledger, claimed.event_id, *claimed.after) == {"archive": None}


def test_sweep_releases_events_that_span_two_pages(ledger: Ledger) -> None:
    # Given more held deliveries than fit on a page, so that it ends in the middle of an event
    held = [NewDelivery(sink, "r", after=("archive",)) for sink in ("ops", "mail", "chat")]
    record(ledger, *(new_event(f"tsk_{number}", "archive", *held) for number in range(links.PAGE // 3 + 2)))
    # When the sink that they wait for is gone, and the sweep has gone through all pages once
    after, pages = "", 0
    while after or not pages:
        step = lambda connection: recovery.sweep_held(connection, NOW, ["ops", "mail", "chat"], after)  # noqa: B023, E731
        _, after = ledger.write(step)
        pages += 1
    # Then none is left behind
    assert pages == 2
    assert set(states(ledger).values()) == {"queued"}


def update_of(first: NewEvent, *sinks: str | NewDelivery) -> NewEvent:
    more = new_event(first.run.run_id, *sinks, disposition="update", downloaded_files=[{"checksum": "x"}])
    return more._replace(repeat_of=first.event.id)


def test_update_held_for_an_earlier_delivery_gets_its_receipt(ledger: Ledger) -> None:
    # Given a result that the archive has
    first = new_event("tsk_1", "archive")
    record(ledger, first)
    settle(ledger, claim(ledger, "archive"), DeliveryMove.ACCEPT, receipt={"id": "a1"})

    # When an update of it goes to a sink that waits for the archive, which is not told again
    record(ledger, update_of(first, AFTER_ARCHIVE))

    # Then it is due, with the receipt of the first
    (claimed,) = claim(ledger, "ops")
    assert receipts(ledger, claimed.event_id, *claimed.after) == {"archive": {"id": "a1"}}


def test_update_waits_while_the_first_event_is_being_sent(ledger: Ledger) -> None:
    first = new_event("tsk_1", "archive")
    record(ledger, first, new_event("tsk_2", "archive"))
    mine = [each for each in claim(ledger, "archive") if each.run_id == "tsk_1"]

    record(ledger, update_of(first, AFTER_ARCHIVE))

    assert ledger.write(lambda connection: recovery.sweep_held(connection, NOW)) == ([], "")
    settle(ledger, mine, DeliveryMove.ACCEPT, receipt={"id": "a1"})
    assert ledger.write(lambda connection: recovery.sweep_held(connection, NOW)) == (["ops"], "")


def test_an_update_prefers_the_receipt_of_its_own_event(ledger: Ledger) -> None:
    first = new_event("tsk_1", "archive")
    record(ledger, first)
    settle(ledger, claim(ledger, "archive"), DeliveryMove.ACCEPT, receipt={"id": "a1"})
    record(ledger, update_of(first, "archive", AFTER_ARCHIVE))
    assert claim(ledger, "ops") == []

    settle(ledger, claim(ledger, "archive"), DeliveryMove.ACCEPT, receipt={"id": "a2"})

    (claimed,) = claim(ledger, "ops")
    assert receipts(ledger, claimed.event_id, "archive", "nowhere") == {"archive": {"id": "a2"}, "nowhere": None}
