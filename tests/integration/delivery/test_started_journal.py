"""What a deliverer has started and not settled stays in its journal, whatever it starts and settles meanwhile."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import sqlalchemy as sa

from handlers import Delivery, Receipt
from receiver.domain.event import Event, event_id
from receiver.ledger import Ledger
from receiver.ledger.deliveries import recovery
from receiver.ledger.schema import attempts
from receiver.runtime import liveness
from receiver.runtime.handover import Handover
from receiver.runtime.liveness import LivenessLock, StartedJournal
from tests.support.handing_on import address, make_deliverer, make_recorder, offered, waiting
from tests.support.scripted_sink import BatchSink, accept, rows
from tests.support.waiting import PATIENCE, eventually

PLACES = 60


class OneIsSlow(BatchSink):
    """Takes until `go_on` is set for the run `tsk_slow`."""

    def __init__(self) -> None:
        super().__init__(self._answer, timeout=PATIENCE)
        self.go_on = threading.Event()

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self.go_on.set()

    def _answer(self, delivery: Delivery) -> Receipt:
        if delivery.run_id == "tsk_slow":
            assert self.go_on.wait(PATIENCE)
        return accept(delivery)


def sent(run_id: str) -> Event:
    body = json.dumps({"run_id": run_id, "status": "completed"}).encode()
    return Event(event_id("skyvern", body), "skyvern", body, time.time())


def test_a_batch_that_takes_long_is_known_to_have_started_after_many_others(
    ledger: Ledger, redis_url: str, handover: Handover, tmp_path: Path
) -> None:
    LivenessLock(tmp_path, "w", "deliver:ops")
    journal, sink = StartedJournal(tmp_path, "w", PLACES), OneIsSlow()
    deliverer = make_deliverer(
        address(ledger), redis_url, sink, handover, idle_wait=1, on_start=journal.add, on_settled=journal.settled
    )
    with waiting(deliverer, handover), sink:
        # Given a send that takes long
        make_recorder(ledger, redis_url, handover).dispatch([sent("tsk_slow")])
        eventually(lambda: sink.seen and offered(handover))
        # When many others start and end, all of which are handed on as well
        for batch in range(3):
            made = [sent(f"tsk_{batch}_{number}") for number in range(sink.batch_size)]
            make_recorder(ledger, redis_url, handover).dispatch(made)
            done = (batch + 1) * sink.batch_size
            eventually(lambda: offered(handover) and len(rows(ledger, state=["delivered"])) == done)  # noqa: B023
        # Then whoever finds the process dead knows of it, and says that it may have arrived
        started = liveness.started_items(tmp_path, "w")
        ledger.write(lambda connection: recovery.release_claims(connection, "w", ledger.now(), started))
        (slow,) = rows(ledger, run_id="tsk_slow")
        query = sa.select(attempts.c.outcome).where(attempts.c.delivery_id == slow["id"])
        outcomes = ledger.read(lambda connection: connection.execute(query).scalars().all())
        assert (slow["state"], slow["attempts"], outcomes) == ("queued", 1, ["lapsed"])
