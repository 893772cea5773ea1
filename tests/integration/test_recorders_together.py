"""Several dispatchers that get the same events at once: the two ways in which these are recorded, beside each other."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing

import sqlalchemy as sa

from receiver.domain.event import Event, event_id
from receiver.ledger import Ledger
from receiver.ledger.deliveries.packed_claims import unpack
from receiver.ledger.schema import deliveries, events, runs
from receiver.runtime.handover import HandedOn, Handover, Offer
from tests.support.handing_on import address, make_recorder

DISPATCHERS = 3


def some_events(chance: random.Random) -> list[Event]:
    """Events of few runs: repeats, changes, links between runs, and bodies that nobody can read."""

    def one(number: int) -> Event:
        fields = {"run_id": f"tsk_{chance.randrange(30)}", "status": chance.choice(["completed", "failed", "running"])}
        if number % 10 == 0:
            fields["retried_from_workflow_run_id"] = f"tsk_{chance.randrange(30)}"
        body = json.dumps({**fields, "output": chance.randrange(3), "step_count": number}).encode()
        body = b"no JSON %d" % number if number % 20 == 19 else body
        return Event(event_id("skyvern", body), "skyvern", body, time.time())

    return [one(number) for number in range(150)]


def dispatch(url: str, redis_url: str, owner: str, found: Sequence[Event], answers: list[HandedOn]) -> None:
    """Dispatch the events in an order and in batches of its own, with an offer out for most of them."""
    chance, left = random.Random(owner), list(found)
    chance.shuffle(left)
    with closing(Ledger(url)) as ledger, closing(Handover()) as handover:
        recorder = make_recorder(ledger, redis_url, handover)
        for number in range(1, len(left) + 1):
            size = chance.choice([1, 1, 2, 4, 8, 12])
            batch, left = left[:size], left[size:]
            if chance.random() < 0.7:
                handover.put(Offer(owner, number, 32))
            recorder._runs_are_new = recorder._runs_are_new or chance.random() < 0.5  # so both ways are taken
            recorder.dispatch(batch)
            if not handover.withdraw() and (answer := handover.receive()):
                answers.append(answer)
            if not left:
                return


def test_the_same_events_at_several_dispatchers_are_recorded_once_and_each_claim_is_handed_on_once(
    postgres_ledger: Ledger, redis_url: str
) -> None:
    # Given dispatchers that each get the same events, in another order
    found, answers, url = some_events(random.Random(7)), list[HandedOn](), address(postgres_ledger)
    owners = [f"w{number}" for number in range(DISPATCHERS)]
    threads = [threading.Thread(target=dispatch, args=(url, redis_url, each, found, answers)) for each in owners]
    # When all are at it at once
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    def counted(connection: sa.Connection) -> tuple[Counter[str], Counter[str]]:
        recorded = Counter(connection.execute(sa.select(events.c.run_id).where(events.c.run_id != "")).scalars())
        said = {row.run_id: row.events for row in connection.execute(sa.select(runs.c.run_id, runs.c.events))}
        return recorded, +Counter(said)  # without the runs that others only name

    def claimed(connection: sa.Connection) -> dict[str, tuple[str, int]]:
        it = deliveries.c
        mine = sa.select(it.id, it.claim_owner, it.claim_number).where(it.state == "sending")
        return {row.id: (row.claim_owner, row.claim_number) for row in connection.execute(mine)}

    # Then each event is there, and is counted once by its run
    there = postgres_ledger.read(lambda connection: set(connection.execute(sa.select(events.c.id)).scalars()))
    assert there == {each.id for each in found}
    recorded, said = postgres_ledger.read(counted)
    assert recorded == said
    # And who has a claim was told of it, once, and nobody else that he may send without a look at the ledger
    told = {(key, (answer.owner, answer.claim_number)) for answer in answers for key in answer.ids}
    whole = [(each.id, (it.owner, it.claim_number)) for it in answers if it.packed for each in unpack(it.packed)]
    claims = postgres_ledger.read(claimed)
    assert claims.items() <= told
    assert len(whole) == len({key for key, _ in whole}) > 10
    assert set(whole) <= claims.items()
