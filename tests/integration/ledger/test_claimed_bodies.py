"""What a claim brings of the bodies: each delivery its own, once the claim is committed."""

from __future__ import annotations

import sqlalchemy as sa

from receiver.ledger import Ledger
from receiver.ledger.deliveries import claims
from receiver.ledger.deliveries.claimed import load_bodies
from receiver.ledger.schema import events
from tests.support.ledger import NOW, new_event, record


def test_each_claimed_delivery_gets_its_own_body(ledger: Ledger) -> None:
    # Given bodies, of which one lacks members that are kept beside it; the oldest was recorded last
    sizes = {f"tsk_{number}": size for number, size in enumerate([10, 20_000, 20, 30_000, 30])}
    for age, (run_id, size) in enumerate(sizes.items()):
        record(ledger, new_event(run_id, "ops", output="x" * size), now=NOW - age)
    ledger.write(
        lambda it: it.execute(sa.update(events).where(events.c.run_id == "tsk_4").values(completion='{"title":"t"}'))
    )
    expected = ledger.read(lambda it: {row.run_id: row for row in it.execute(sa.select(events))})
    # When they are claimed, then the transaction sends none to a host that may have vanished
    claimed = ledger.write(lambda it: claims.claim(it, "ops", len(sizes), "w", NOW))
    assert [each.body for each in claimed] == [b""] * len(sizes)
    # And in the end each has its own, the oldest first
    loaded = ledger.read(lambda it: load_bodies(it, claimed))
    assert [each.run_id for each in loaded] == sorted(sizes, reverse=True)
    found = {each.run_id: (each.body, each.completion, each.event_seq) for each in loaded}
    assert found == {run_id: (row.body, row.completion, 0) for run_id, row in expected.items()}


def test_an_event_removed_before_its_body_is_loaded_is_left_out(ledger: Ledger) -> None:
    record(ledger, new_event("tsk_1", "ops"), new_event("tsk_2", "ops"))
    claimed = ledger.write(lambda it: claims.claim(it, "ops", 10, "w", NOW))
    ledger.write(lambda it: it.execute(sa.delete(events).where(events.c.run_id == "tsk_1")))

    assert [each.run_id for each in ledger.read(lambda it: load_bodies(it, claimed))] == ["tsk_2"]
