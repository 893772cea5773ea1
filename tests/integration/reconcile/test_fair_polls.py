"""Polls of one source, and of one kind, leave others their share."""

from __future__ import annotations

from receiver.ledger import Connection, run_polls
from receiver.ledger.submissions import lifecycle
from receiver.ledger.submissions.records import NewSubmission
from tests.support.reconciling import Rigged


def test_removed_source_does_not_block_another(rigged: Rigged) -> None:
    # Given a great many submissions and runs that are due for a source which is no longer in the config
    it, sim = rigged()

    def strand(connection: Connection) -> None:
        for number in range(300):
            new = NewSubmission(f"sub_{number:032x}", "gone", "k", "tasks", f"hash {number}")
            lifecycle.begin(connection, new, 1.0)
            run_polls.ask(connection, "gone", {f"tsk_{number}": 1.0}, 1.0)

    it.ledger.write(strand)
    # And a submission and a run of another source
    submitted, alone = sim.submit("submitted")["run_id"], sim.submit("alone")["run_id"]
    it.begin()
    it.answered(submitted, due_at=100.0)
    it.ledger.write(lambda c: run_polls.ask(c, "skyvern", {alone: 100.0}, 100.0))
    sim.wait_final(submitted, alone)

    # When what is due is polled
    it.reconciler.drain(30)

    # Then that source's results are there
    assert {run_id for run_id, _, _ in it.events()} == {submitted, alone}


def test_submissions_and_runs_share_a_small_budget(rigged: Rigged) -> None:
    # Given more submissions due than the budget allows, and a run from elsewhere
    it, sim = rigged(budget="4/h", concurrency=1)
    for number in range(20):
        it.begin(f"sub_{number:032x}")
        it.answered(f"tsk_{number}", f"sub_{number:032x}")
    alone = sim.submit("alone")["run_id"]
    it.ledger.write(lambda c: run_polls.ask(c, "skyvern", {alone: 2.0}, 2.0))
    sim.wait_final(alone)

    # When the budget is used up
    it.reconciler.drain(30)

    # Then the run was asked for as well
    assert sim.run(alone).polls == 1
