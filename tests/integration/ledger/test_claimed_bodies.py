"""What a claim brings of the bodies: small ones at once where nobody waits for them, and each delivery its own."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from receiver.ledger import Ledger
from receiver.ledger.deliveries import claims
from receiver.ledger.deliveries.claimed import load_bodies
from receiver.ledger.schema import events
from tests.support.ledger import NOW, new_event, record

LARGE = claims.AT_ONCE + 1


@pytest.mark.parametrize("prefetch", [0, 10])
def test_each_delivery_gets_its_own_body_whether_it_comes_with_the_claim_or_later(
    ledger: Ledger, prefetch: int
) -> None:
    # Given small and large bodies, and one that lacks members which are kept beside it; the oldest was recorded last
    sizes = {f"tsk_{number}": size for number, size in enumerate([10, LARGE, 20, LARGE, 30, 40])}
    for age, (run_id, size) in enumerate(sizes.items()):
        record(ledger, new_event(run_id, "ops", output="x" * size), now=NOW - age)
    ledger.write(
        lambda it: it.execute(sa.update(events).where(events.c.run_id == "tsk_4").values(completion='{"title":"t"}'))
    )
    expected = ledger.read(lambda it: {row.run_id: row for row in it.execute(sa.select(events))})
    # When they are claimed, some of them ahead
    claimed = ledger.write(
        lambda it: claims.claim(it, "ops", len(sizes) - prefetch // 3, "w", 1, NOW, 15, prefetch=prefetch)
    )
    # Then the transaction brings what is small, but sends nothing to a host that may have vanished
    at_once = {"tsk_0", "tsk_2", "tsk_5"} if ledger.dialect == "sqlite" else set()
    assert {each.run_id for each in claimed if each.body} == at_once
    # And in the end each has its own, the oldest first
    loaded = ledger.read(lambda it: load_bodies(it, claimed))
    assert [each.run_id for each in loaded] == sorted(sizes, reverse=True)
    found = {each.run_id: (each.body, each.completion, each.event_seq) for each in loaded}
    assert found == {run_id: (row.body, row.completion, 0) for run_id, row in expected.items()}


def test_an_event_that_is_gone_before_its_body_is_loaded_is_left_out(ledger: Ledger) -> None:
    record(ledger, new_event("tsk_1", "ops", output="x" * LARGE), new_event("tsk_2", "ops", output="x" * LARGE))
    claimed = ledger.write(lambda it: claims.claim(it, "ops", 10, "w", 1, NOW, 15))
    ledger.write(lambda it: it.execute(sa.delete(events).where(events.c.run_id == "tsk_1")))

    assert [each.run_id for each in ledger.read(lambda it: load_bodies(it, claimed))] == ["tsk_2"]
