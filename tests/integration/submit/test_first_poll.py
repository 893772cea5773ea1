"""When the run of a submit is overdue: as the earlier runs of its agent have taken."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import count

import pytest

from receiver.domain.run import parse
from receiver.ledger import Ledger, run_polls
from simulator.samples import dumps
from tests.servers.skyvern import SkyvernSimulator
from tests.servers.submitting import Submitting
from tests.support.ledger import NOW, new_event, record

_COUNT = count()
Make = Callable[..., Submitting]


def ended_run(ledger: Ledger, run_id: str, seconds: float, workflow_id: str = "wpid_1") -> None:
    """Record the webhook of a run that took so long."""
    body = {
        "run_id": run_id,
        "run_type": "workflow_run",
        "status": "completed",
        "workflow_id": workflow_id,
        "created_at": "2026-01-01T00:00:00",
        "finished_at": f"2026-01-01T00:{int(seconds) // 60:02d}:{int(seconds) % 60:02d}",
    }
    record(ledger, new_event(run_id)._replace(run=parse(dumps(body))), now=NOW + next(_COUNT))


def test_the_first_poll_adapts_to_the_latest_runs_of_the_agent(
    submitting: Make, skyvern_simulator: SkyvernSimulator
) -> None:
    # Given an agent whose runs take 40 s, and another one that is not known
    rig = submitting(skyvern_simulator.url, dispatching=False)
    for number in range(20):
        ended_run(rig.ledger, f"wr_{number}", 40)

    # When a run of each is submitted
    for agent in ("wpid_1", "wpid_2"):
        answer = rig.client.post("/v1/run/agents", json={"agent_id": agent, "parameters": {}})
        assert answer.status_code == 200, answer.text

    # Then the first is overdue after 1.25 × 40 + 60 s, the other after the ten minutes of the config
    known, unknown = (row["due_at"] - time.time() for row in rig.rows())
    assert known == pytest.approx(110, abs=20)
    assert unknown == pytest.approx(600, abs=20)


def test_only_the_latest_ended_runs_of_that_agent_and_source_count(ledger: Ledger) -> None:
    for number in range(4):
        ended_run(ledger, f"wr_{number}", 10 + number)
    ended_run(ledger, "wr_other", 1000, "wpid_2")
    running = {"run_id": "wr_on", "run_type": "workflow_run", "status": "running", "workflow_id": "wpid_1"}
    record(ledger, new_event("wr_on")._replace(run=parse(dumps(running))))

    found = ledger.read(lambda connection: run_polls.durations(connection, "skyvern", "wpid_1", 3))

    assert found == [13.0, 12.0, 11.0]
    assert ledger.read(lambda connection: run_polls.durations(connection, "elsewhere", "wpid_1")) == []
