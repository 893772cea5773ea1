"""What a simulated account has besides runs: agents, schedules, uploads, searches, and the Test button."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from receiver.domain.signature import HEADER, verify
from tests.servers.scripted import ScriptedServer
from tests.servers.skyvern import KEY, SkyvernSimulator
from tests.support.waiting import eventually

TASK, AGENT = "/v1/run/tasks", "/v1/run/agents"
EMPTY: dict[str, Any] = {"version": 1, "parameters": [], "blocks": []}


def test_an_update_makes_a_version_and_resets_what_it_leaves_out(sim: SkyvernSimulator) -> None:
    first = {"title": "Orders", "workflow_definition": EMPTY, "description": "d", "totp_identifier": "t"}
    made = sim.client.post("/v1/agents", json={"json_definition": first}).json()
    wpid = made["workflow_permanent_id"]

    changed = sim.client.put(
        f"/api/v1/workflows/{wpid}?expected_version=1",
        json={"title": "Orders", "workflow_definition": EMPTY, "webhook_callback_url": "https://here.example"},
    ).json()
    late = sim.client.put(f"/api/v1/workflows/{wpid}?expected_version=1", json=first)
    kept = sim.client.put(f"/api/v1/workflows/{wpid}", json={"title": "Orders", "workflow_definition": EMPTY}).json()

    assert (changed["version"], changed["webhook_callback_url"]) == (2, "https://here.example")
    assert changed["workflow_id"] != made["workflow_id"]
    assert (changed["description"], changed["totp_identifier"]) == (None, "t")
    assert late.status_code == 409
    assert kept["webhook_callback_url"] == "https://here.example"


def test_schedule_fires_with_its_agents_callback(sim: SkyvernSimulator, hook: ScriptedServer) -> None:
    for workflow_id, url in (("wpid_a", hook.url), ("wpid_b", None)):
        agent = {"workflow_id": workflow_id, "title": workflow_id, "webhook_callback_url": url}
        sim.client.post("/_sim/agents", json=agent)
        soon = (datetime.now(UTC) + timedelta(seconds=0.3)).isoformat()
        once = {"workflow_id": workflow_id, "run_at": soon, "parameters": {"n": 1}}
        sim.client.post("/_sim/schedules", json=once)

    said = json.loads(hook.wait_for_calls(1)[0].body)
    eventually(lambda: sim.stats().get("webhooks_none"))

    assert (said["workflow_id"], said["parameters"]) == ("wpid_a", {"n": 1})
    listed = {each["workflow_permanent_id"]: each for each in sim.get("/v1/schedules")["schedules"]}
    assert listed["wpid_a"]["dispatch_status"] == "fired"
    assert listed["wpid_a"]["workflow_run_id"] == said["run_id"]
    assert {each["trigger_type"] for each in sim.get("/v1/runs")} == {"scheduled"}
    assert len(hook.calls) == 1


def test_search_finds_titles_and_workflow_callback_urls(sim: SkyvernSimulator, hook: ScriptedServer) -> None:
    of_workflow = sim.submit("x", AGENT, workflow_id="wpid_1", webhook_url=f"{hook.url}/token-1")["run_id"]
    of_task = sim.submit("Order 66", TASK, webhook_url=f"{hook.url}/token-1")["run_id"]

    assert [each["run_id"] for each in sim.get("/v1/runs", search_key="TOKEN-1")] == [of_workflow]
    assert [each["run_id"] for each in sim.get("/v1/runs", search_key="order 66")] == [of_task]
    assert [each["run_id"] for each in sim.get("/v1/runs", workflow_permanent_id="wpid_1")] == [of_workflow]
    beyond = sim.client.get("/v1/runs", params={"search_key": "token", "page": 11, "page_size": 100})
    assert beyond.status_code == 400
    assert sim.get("/v1/runs", page=11, page_size=100) == []


@pytest.mark.parametrize(
    ("run_type", "run_id", "keys"),
    [("task", "tsk_sample_123456789", 31), ("workflow_run", "wr_sample_123456789", 55)],
)
def test_the_test_button_sends_the_same_but_for_the_times(
    run_type: str, run_id: str, keys: int, sim: SkyvernSimulator, hook: ScriptedServer
) -> None:
    pressed = {"webhook_url": hook.url, "run_type": run_type}

    answers = [sim.client.post("/v1/internal/test-webhook", json=pressed).json() for _ in range(2)]

    first, second = hook.wait_for_calls(2)
    said, again = json.loads(first.body), json.loads(second.body)
    assert [answer["status_code"] for answer in answers] == [200, 200]
    assert verify(first.body, first.headers[HEADER], [KEY])
    assert (said["run_id"], said["status"], len(said)) == (run_id, "completed", keys)
    differing = {name for name in said if said[name] != again[name]}
    assert differing == {"created_at", "modified_at", "queued_at", "started_at", "finished_at"}
    assert sim.get("/v1/runs") == []
