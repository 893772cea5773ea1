"""Runs that Skyvern itself starts again: they stay with the submission of the first one."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from receiver.domain.signature import sign
from tests.servers.skyvern import KEY, Simulate, SkyvernSimulator
from tests.servers.submitting import Make, Submitting
from tests.support import queries
from tests.support.waiting import PATIENCE, eventually


def deliveries(rig: Submitting) -> set[tuple[str, str]]:
    rows = rig.ledger.read(lambda connection: queries.list_deliveries(connection, queries.Filter()))
    return {(row["run_id"], row["sink"]) for row in rows}


def end(rig: Submitting, sim: SkyvernSimulator, run_id: str, status: str, **more: Any) -> None:
    """Post the webhook of a run that ends."""
    said = {**sim.get(f"/v1/runs/{run_id}"), "status": status, "finished_at": "2026-01-01T00:00:00", **more}
    body = json.dumps(said).encode()
    headers = {"x-skyvern-signature": sign(body, KEY), "content-type": "application/json"}
    assert rig.client.post("/webhooks/skyvern", content=body, headers=headers).status_code == 202


@pytest.fixture
def started_again(submitting: Make, simulate_skyvern: Simulate) -> tuple[Submitting, SkyvernSimulator, str, str]:
    """A run that failed, and the one that Skyvern has started for it, which is over too."""
    sim = simulate_skyvern()
    sinks: dict[str, Any] = {"all": {"type": "files", "path": "/nowhere"}}
    route = {"name": "ours", "when": {"labels.team": "billing"}, "to": ["all"]}
    rig = submitting(sim.url, sinks=sinks, routes=[route])
    told = rig.client.post(
        "/v1/run/agents",
        json={"agent_id": "wpid_1", "title": "[restart]", "webhook_url": "https://app.example/h"},
        headers={"x-runhook-labels": "team=billing"},
    )
    first = told.json()["run_id"]
    second = eventually(lambda: sim.run(first).retried_by)
    eventually(lambda: (second, "callback") in deliveries(rig))
    return rig, sim, first, second


def test_get_names_the_last_run_and_wait_ends_with_it(
    started_again: tuple[Submitting, SkyvernSimulator, str, str],
) -> None:
    rig, _, first, second = started_again

    plain, waited = rig.client.get(f"/v1/runs/{first}"), rig.client.get(f"/v1/runs/{first}?wait=10")

    assert (plain.json()["run_id"], plain.json()["status"]) == (first, "failed")
    assert plain.json()["retried_by_workflow_run_id"] == plain.headers["x-runhook-retried-by"] == second
    assert (waited.json()["run_id"], waited.headers["x-runhook-retried-from"]) == (second, first)
    assert plain.headers["x-runhook-submission-id"] == waited.headers["x-runhook-submission-id"]
    for run_id in (first, second):
        asked = rig.client.get(f"/v1/runs/{run_id}?from=skyvern")
        assert asked.headers["x-runhook-submitted-run"] == first
        assert asked.headers["x-runhook-submission-id"] == rig.rows()[0]["id"]
        assert asked.json()["run_request"]["webhook_url"] == "https://app.example/h"
    assert rig.client.get(f"/v1/runs/{first}?from=skyvern").headers["x-runhook-retried-by"] == second
    assert rig.client.get(f"/v1/runs/{second}?from=submission").json()["run_id"] == first


def test_running_wait_follows_to_the_last_run(submitting: Make, simulate_skyvern: Simulate) -> None:
    sim = simulate_skyvern(run_seconds=1000.0)
    rig = submitting(sim.url)
    first = rig.client.post("/v1/run/agents", json={"agent_id": "wpid_1"}).json()["run_id"]
    second = sim.submit("next", path="/v1/run/agents", agent_id="wpid_1")["run_id"]

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(rig.client.get, f"/v1/runs/{first}?wait=300")
        end(rig, sim, first, "failed", retried_by_workflow_run_id=second)
        eventually(lambda: rig.client.get(f"/v1/runs/{first}").headers["x-runhook-from"] == "ledger")
        running = not answer.done()
        end(rig, sim, second, "completed", retried_from_workflow_run_id=first)
        found = answer.result(60)

    assert running
    assert (found.json()["run_id"], found.json()["status"]) == (second, "completed")
    assert found.headers["x-runhook-retried-from"] == first


@pytest.mark.parametrize("length", [1, 2])
def test_circular_restarts_end_all_waits(submitting: Make, simulate_skyvern: Simulate, length: int) -> None:
    # Given runs, and a caller that waits for the first
    sim = simulate_skyvern(run_seconds=1000.0)
    rig = submitting(sim.url)
    runs = [rig.client.post("/v1/run/agents", json={"agent_id": "wpid_1"}).json()["run_id"] for _ in range(length)]

    with ThreadPoolExecutor(1) as pool:
        waited = pool.submit(rig.client.get, f"/v1/runs/{runs[0]}?wait=300")
        eventually(waited.running)

        # When each ends, and says that the next one was started for it, and the last names the first
        for run_id, following in zip(runs, [*runs[1:], runs[0]], strict=True):
            end(rig, sim, run_id, "failed", retried_by_workflow_run_id=following)

        # Then the wait ends with one of them
        found = waited.result(PATIENCE).json()
    assert (found["run_id"] in runs, found["status"]) == (True, "failed")


def test_its_labels_route_it_and_its_caller_hears_of_it(
    started_again: tuple[Submitting, SkyvernSimulator, str, str],
) -> None:
    rig, _, first, second = started_again

    assert deliveries(rig) == {(run_id, sink) for run_id in (first, second) for sink in ("all", "callback")}
    (row,) = rig.rows()
    assert (row["state"], row["run_id"]) == ("accepted", first)


@pytest.mark.parametrize("begun", [False, True], ids=["before", "after"])
def test_run_with_unknown_successor_keeps_its_own_end(
    submitting: Make, simulate_skyvern: Simulate, begun: bool
) -> None:
    # Given a run that has failed and says that another was started for it, which is not there
    sim = simulate_skyvern(run_seconds=1000.0)
    rig = submitting(sim.url)
    run_id = rig.client.post("/v1/run/agents", json={"agent_id": "wpid_1"}).json()["run_id"]

    # When it is waited for, from before that or from after it
    with ThreadPoolExecutor(1) as pool:
        if begun:
            waiting = pool.submit(rig.client.get, f"/v1/runs/{run_id}?wait=5", timeout=30)
        end(rig, sim, run_id, "failed", retried_by_workflow_run_id="wr_gone")
        eventually(lambda: rig.client.get(f"/v1/runs/{run_id}").headers["x-runhook-from"] == "ledger")
        if not begun:
            waiting = pool.submit(rig.client.get, f"/v1/runs/{run_id}?wait=5", timeout=30)
        found = waiting.result(30)

    # Then its own end is returned
    assert (found.status_code, found.json()["run_id"], found.json()["status"]) == (200, run_id, "failed")
    assert found.headers["x-runhook-retried-by"] == "wr_gone"
