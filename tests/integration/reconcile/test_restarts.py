"""Runs that Skyvern started again without saying so, and whose webhooks were lost."""

from __future__ import annotations

import time

import pytest
import sqlalchemy as sa

from receiver.domain import poll_schedule
from receiver.domain.event import Event, event_id
from receiver.ledger.schema import runs
from simulator.bodies import webhook
from simulator.samples import dumps
from tests.support.reconciling import TOKEN, MakeRig, Rig
from tests.support.waiting import eventually


class Restarted:
    """A workflow run of a submission, which failed and said so, and which Skyvern then started again."""

    def __init__(self, it: Rig) -> None:
        self.it, self.sim = it, it.sim
        callback = f"http://127.0.0.1:9/webhooks/skyvern/{TOKEN}"
        asked = {"agent_id": "wpid_1", "webhook_url": callback}
        self.first = self.sim.submit("mine [restart]", "/v1/run/agents", **asked)["run_id"]
        it.begin(call="agents")
        it.answered(self.first)
        self.again = eventually(lambda: self.sim.run(self.first).retried_by)
        self.sim.wait_final(self.first, self.again)
        content = dumps({**webhook(self.sim.run(self.first), lambda _: ""), "retried_by_workflow_run_id": None})
        event = Event(event_id("skyvern", content), "skyvern", content, time.time(), submission_id=TOKEN)
        it.dispatcher.dispatch([event])

    def due_at(self) -> float | None:
        """When the first run is looked at again."""
        asked = sa.select(runs.c.due_at).where(runs.c.run_id == self.first)
        return self.it.ledger.read(lambda c: c.execute(asked).scalar_one())

    def look(self) -> None:
        change = f"UPDATE runs SET due_at = 1 WHERE run_id = '{self.first}'"
        self.it.ledger.write(lambda c: c.exec_driver_sql(change))
        self.it.reconciler.drain(20)


def test_restarted_run_is_found_by_its_callback_url(rig: MakeRig) -> None:
    # Given a run that failed, whose webhook was sent before it was started again
    run = Restarted(rig())
    assert run.due_at() == pytest.approx(time.time() + poll_schedule.AFTER_RESTART, abs=30)

    # When its time has come, and no webhook
    run.look()

    # Then the other is found, belongs to the same submission, and Skyvern is asked no more
    assert run.it.events() == [(run.first, "webhook", "new"), (run.again, "poll", "new")]
    assert run.it.submission().run_id in {run.first, run.again}
    owners = run.it.ledger.read(lambda c: set(c.execute(sa.select(runs.c.submission_id)).scalars()))
    assert owners == {TOKEN}
    assert run.due_at() is None
