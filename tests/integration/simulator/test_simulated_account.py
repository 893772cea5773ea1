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


def test_an_agent_is_known_by_its_permanent_id_only(sim: SkyvernSimulator) -> None:
    agent = sim.client.post(
        "/v1/agents", json={"json_definition": {"title": "Orders", "workflow_definition": EMPTY}}
    ).json()

    found = sim.get(f"/v1/workflows/{agent['workflow_permanent_id']}")

    assert (found["title"], found["agent_id"], found["version"]) == ("Orders", agent["workflow_permanent_id"], 1)
    assert agent["workflow_id"].startswith("w_")
    assert sim.client.get(f"/v1/agents/{agent['workflow_id']}").status_code == 404
    assert [each["title"] for each in sim.get("/v1/agents", search_key="order")] == ["Orders"]


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


def test_an_answer_of_the_api_is_no_definition(sim: SkyvernSimulator) -> None:
    block = {"label": "b", "block_type": "task", "output_parameter": {"key": "b_output"}}
    given = {"title": "t", "workflow_definition": {**EMPTY, "blocks": [block]}}

    assert sim.client.post("/v1/agents", json={"json_definition": given}).status_code == 422


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


def test_stopped_schedule_shows_the_missed_time(sim: SkyvernSimulator) -> None:
    sim.client.post("/_sim/schedules/stop", json={"stopped": True})
    past = (datetime.now(UTC) - timedelta(hours=2)).isoformat()
    every = {"workflow_id": "wpid_1", "interval_seconds": 3600, "first_fire_at": past, "created_at": past}
    schedule = sim.client.post("/_sim/schedules", json=every).json()

    (shown,) = sim.get("/v1/schedules", status="active")["schedules"]

    assert shown["next_run"] > datetime.now(UTC).isoformat()
    assert sim.get("/v1/runs") == []
    fired = sim.client.post(f"/_sim/schedules/{schedule['workflow_schedule_id']}/fire").json()
    assert [each["run_id"] for each in sim.get("/v1/runs")] == [fired["run_id"]]


def test_schedules_are_made_and_changed_below_their_agent(sim: SkyvernSimulator) -> None:
    client, below = sim.client, "/v1/agents/wpid_1/schedules"
    made = client.post(below, json={"cron_expression": "0 9 * * 1-5", "timezone": "Europe/Prague"}).json()
    one = f"{below}/{made['schedule']['workflow_schedule_id']}"

    paused = client.post(f"{one}/disable").json()
    changed = client.put(one, json={"interval_seconds": 600, "timezone": "UTC"}).json()
    wrong = client.post(below, json={"cron_expression": "0 9 * *", "timezone": "UTC"})
    both = client.post(below, json={"cron_expression": "0 9 * * *", "interval_seconds": 600, "timezone": "UTC"})

    assert len(made["next_runs"]) == 5
    assert paused["schedule"]["enabled"] is False
    assert (changed["schedule"]["cron_expression"], changed["schedule"]["interval_seconds"]) == (None, 600)
    assert (wrong.status_code, both.status_code) == (400, 422)
    assert client.delete(one).json() == {"ok": True}
    assert client.get(one).status_code == 404


def test_search_finds_titles_and_workflow_callback_urls(sim: SkyvernSimulator, hook: ScriptedServer) -> None:
    of_workflow = sim.submit("x", AGENT, workflow_id="wpid_1", webhook_url=f"{hook.url}/token-1")["run_id"]
    of_task = sim.submit("Order 66", TASK, webhook_url=f"{hook.url}/token-1")["run_id"]

    assert [each["run_id"] for each in sim.get("/v1/runs", search_key="TOKEN-1")] == [of_workflow]
    assert [each["run_id"] for each in sim.get("/v1/runs", search_key="order 66")] == [of_task]
    assert [each["run_id"] for each in sim.get("/v1/runs", workflow_permanent_id="wpid_1")] == [of_workflow]
    beyond = sim.client.get("/v1/runs", params={"search_key": "token", "page": 11, "page_size": 100})
    assert beyond.status_code == 400
    assert sim.get("/v1/runs", page=11, page_size=100) == []


def test_uploaded_file_serves_one_run(sim: SkyvernSimulator) -> None:
    first, other = (sim.client.post("/v1/upload_file", content=b"x").json()["file_id"] for _ in range(2))
    run_id = sim.submit("p", TASK, file_ids=[first])["run_id"]

    while_it_runs = sim.client.post(TASK, json={"prompt": "p", "file_ids": [first, other]})
    sim.wait_final(run_id)
    afterwards = sim.client.post(TASK, json={"prompt": "p", "file_ids": [first]})

    assert (while_it_runs.status_code, afterwards.status_code) == (422, 422)
    assert first in afterwards.json()["detail"]
    assert sim.get(f"/v1/runs/{run_id}")["run_request"]["file_ids"] is None
    assert len(sim.world.runs) == 1


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
