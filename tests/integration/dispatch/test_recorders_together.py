"""Several dispatchers that get the same events at once."""

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
from receiver.domain.submission import NewSubmission, SubmissionMove
from receiver.ledger import Connection, Ledger
from receiver.ledger.schema import deliveries, events, runs
from receiver.ledger.submissions import lifecycle
from receiver.ledger.submissions.lifecycle import SubmitOutcome
from tests.support.dispatching import dispatch
from tests.support.runners import Taking, address, make_recorder

DISPATCHERS = 3
SUBMITTED = 20


def some_events(chance: random.Random) -> list[Event]:
    """Events of few runs: repeats, changes, links between runs, and bodies that nobody can read. The first SUBMITTED
    runs come with the token of their submission."""

    def one(number: int) -> Event:
        run = chance.randrange(30)
        fields = {"run_id": f"tsk_{run}", "status": chance.choice(["completed", "failed", "running"])}
        if number % 10 == 0:
            fields["retried_from_workflow_run_id"] = f"tsk_{chance.randrange(30)}"
        body = json.dumps({**fields, "output": chance.randrange(3), "step_count": number}).encode()
        body = b"no JSON %d" % number if number % 20 == 19 else body
        token = f"sub_{run}" if run < SUBMITTED else ""
        return Event(event_id("skyvern", body), "skyvern", body, time.time(), submission_id=token)

    return [one(number) for number in range(150)]


def submit(ledger: Ledger) -> None:
    """Record the submissions of the first runs, and the answers that name these."""

    def record(connection: Connection) -> None:
        for number in range(SUBMITTED):
            new = NewSubmission(f"sub_{number}", "skyvern", "k1", "tasks", f"hash of {number}", labels={"team": "ops"})
            accepted = SubmitOutcome(SubmissionMove.ACCEPT, f"tsk_{number}", due_at=time.time() + 600)
            lifecycle.begin(connection, new, time.time())
            lifecycle.record_outcome(connection, new.id, accepted, time.time())

    ledger.write(record)


def dispatch_all(url: str, redis_url: str, runner: Taking, found: Sequence[Event]) -> None:
    """Dispatch the events in an order and in batches of its own, with room for most of them."""
    chance, left = random.Random(runner.owner), list(found)
    chance.shuffle(left)
    with closing(Ledger(url)) as ledger:
        recorder = make_recorder(ledger, redis_url, ops=runner)
        while left:
            size = chance.choice([1, 1, 2, 4, 8, 12])
            batch, left = left[:size], left[size:]
            runner.places = chance.choice([0, 5, 32])
            dispatch(recorder, batch)


def test_same_events_at_several_dispatchers_are_recorded_once(postgres_ledger: Ledger, redis_url: str) -> None:
    # Given runs that were submitted, others, and dispatchers that each get the same events, in another order
    submit(postgres_ledger)
    found, url = some_events(random.Random(7)), address(postgres_ledger)
    runners = [Taking(f"w{number}") for number in range(DISPATCHERS)]
    threads = [threading.Thread(target=dispatch_all, args=(url, redis_url, each, found)) for each in runners]
    # When all are at it at once
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    def counted(connection: sa.Connection) -> tuple[Counter[str], Counter[str]]:
        recorded = Counter(connection.execute(sa.select(events.c.run_id).where(events.c.run_id != "")).scalars())
        said = {row.run_id: row.events for row in connection.execute(sa.select(runs.c.run_id, runs.c.events))}
        return recorded, +Counter(said)  # without the runs that others only name

    def claimed(connection: sa.Connection) -> dict[str, str]:
        mine = sa.select(deliveries.c.id, deliveries.c.claim_owner).where(deliveries.c.state == "sending")
        return {row.id: row.claim_owner for row in connection.execute(mine)}

    # Then each event is there, and is counted once by its run
    there = postgres_ledger.read(lambda connection: set(connection.execute(sa.select(events.c.id)).scalars()))
    assert there == {each.id for each in found}
    recorded, said = postgres_ledger.read(counted)
    assert recorded == said
    # And each run that was submitted is its submission's
    named = sa.select(runs.c.run_id, runs.c.submission_id).where(runs.c.events > 0)
    of_run = {row.run_id: row.submission_id for row in postgres_ledger.read(lambda it: it.execute(named).all())}
    mine = [f"tsk_{number}" for number in range(SUBMITTED) if f"tsk_{number}" in of_run]
    assert [of_run[run_id] for run_id in mine] == [run_id.replace("tsk", "sub") for run_id in mine]
    assert len(mine) > 10
    # And each runner got what is claimed for it, once
    taken = [(each.id, runner.owner) for runner in runners for each in runner.taken]
    assert len(taken) == len(set(taken)) > 10
    assert dict(taken) == postgres_ledger.read(claimed)
