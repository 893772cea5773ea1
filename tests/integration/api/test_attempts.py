"""The attempts of one delivery over the API: with the filter of the list, like any others."""

from __future__ import annotations

from pathlib import Path

import pytest

from receiver.domain.delivery import DeliveryMove
from receiver.errors import Invalid
from receiver.ledger import Ledger
from receiver.ledger.deliveries import recovery
from tests.support.api import call, service
from tests.support.ledger import NOW, claim, new_event, record, settle


def test_one_delivery_is_narrowed_by_the_rest_of_the_filter(ledger: Ledger, tmp_path: Path) -> None:
    # Given a delivery that its sink has refused
    record(ledger, new_event("tsk_1", "ops"))
    (claimed,) = claim(ledger, "ops")
    settle(ledger, [claimed], DeliveryMove.DIE)
    it = service(ledger, tmp_path)

    def numbers(**wanted: object) -> list[int]:
        return [row["number"] for row in call(it, "list_attempts", delivery=claimed.id, **wanted)["items"]]

    # Then its attempt is told to who asks for what it is
    assert numbers() == numbers(state=["dead"], sink="ops", run="tsk_1") == [1]
    # And page by page, each once
    record(ledger, new_event("tsk_2", "chat"))
    for _ in range(3):
        (other,) = claim(ledger, "chat", now=NOW + 10)
        settle(ledger, [other], DeliveryMove.DEFER, due_at=NOW)
        ledger.write(lambda connection: recovery.make_due(connection, NOW + 10))
    told, after = [], ""
    while after is not None:
        page = call(it, "list_attempts", delivery=other.id, limit=1, after=after)
        told += [row["number"] for row in page["items"]]
        assert len(page["items"]) <= 1
        after = page["next"]
    assert told == [3, 2, 1]
    # And not to who asks for anything else
    assert numbers(state=["delivered"]) == numbers(until="2001-01-01") == []
    with pytest.raises(Invalid, match="sink: opps: unknown sink; did you mean ops"):
        numbers(sink="opps")
    # And what is no delivery has none
    for thing in ("tsk_1", "evt_"):
        with pytest.raises(Invalid, match="unknown delivery"):
            call(it, "list_attempts", delivery=thing)
