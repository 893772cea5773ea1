"""When a lost Redis is recorded, on both databases."""

from __future__ import annotations

from receiver.domain.liveness import DISPATCH, ProcessBeat
from receiver.ledger import Ledger, heartbeats
from receiver.ledger.access import audit, redis_losses
from receiver.ledger.access.audit import AuditActor
from tests.support.ledger import NOW, new_event, record


def test_loss_is_recorded_once_until_its_results_are_imported(ledger: Ledger) -> None:
    # Given a process that started before the last webhook was recorded
    ledger.write(lambda it: heartbeats.put(it, ProcessBeat("d", DISPATCH, "host", 1, "1", "", NOW - 10)))
    record(ledger, new_event("tsk_1"))
    # When the inbox is missing again and again, as in a Redis that is full, then one loss is recorded
    assert [ledger.write(redis_losses.record_loss) for _ in range(3)] == [True, False, False]
    # And after an import, the next one is
    actor = AuditActor("local", "ada")
    ledger.write(lambda it: audit.record(it, actor, redis_losses.IMPORT, {"since": NOW}, 1))
    assert ledger.write(redis_losses.record_loss)
