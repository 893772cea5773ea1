"""The simulated Skyvern between a run's end and its webhook, and what it starts by itself."""

from __future__ import annotations

import json
from typing import Any

import pytest

from receiver.domain.signature import HEADER, verify
from tests.servers.scripted import ScriptedServer
from tests.servers.skyvern import KEY, Simulate, SkyvernSimulator
from tests.support.waiting import eventually

TASK, AGENT = "/v1/run/tasks", "/v1/run/agents"


def bodies(hook: ScriptedServer, count: int) -> list[dict[str, Any]]:
    return [json.loads(call.body) for call in hook.wait_for_calls(count)]


def start(sim: SkyvernSimulator, hook: ScriptedServer, prompt: str, **fields: Any) -> str:
    path = AGENT if "workflow_id" in fields else TASK
    return str(sim.submit(prompt, path, webhook_url=hook.url, **fields)["run_id"])


def has_no(said: dict[str, Any], *names: str) -> bool:
    return not any(said[name] for name in names)


@pytest.mark.parametrize("fields", [{"engine": "skyvern-1.0"}, {"engine": "skyvern-2.0"}, {"workflow_id": "wpid_1"}])
def test_poll_before_the_webhook_has_no_files(
    fields: dict[str, str], simulate_skyvern: Simulate, hook: ScriptedServer
) -> None:
    sim = simulate_skyvern(speed=10.0, long_gap_seconds=5.0)

    run_id = start(sim, hook, "p [gap]", **fields)
    eventually(lambda: sim.run(run_id).final)
    first = sim.get(f"/v1/runs/{run_id}")
    (said,) = bodies(hook, 1)
    last = sim.get(f"/v1/runs/{run_id}")

    assert first["status"] == last["status"] == said["status"] == "completed"
    assert has_no(first, "screenshot_urls", "downloaded_files")
    assert all(last[name] for name in ("recording_url", "screenshot_urls", "downloaded_files"))
    assert len(said["screenshot_urls"]) == 2
    assert [file["filename"] for file in said["downloaded_files"]] == ["invoice.pdf"]
    assert first["finished_at"].rstrip("Z") == said["finished_at"]
    if "workflow_id" in fields:
        assert first["output"]["extract_invoice_output"]["task_screenshots"] == []
    else:
        assert first["output"] == said["output"]


def test_restarted_workflow_keeps_its_callback_url(simulate_skyvern: Simulate, hook: ScriptedServer) -> None:
    sim = simulate_skyvern(api_keys=(KEY, "newest"))

    first = start(sim, hook, "p [restart]", workflow_id="wpid_1", parameters={"n": 7})
    said, again = bodies(hook, 2)

    assert (said["run_id"], said["status"], said["retried_by_workflow_run_id"]) == (first, "failed", None)
    assert (again["status"], again["retried_from_workflow_run_id"]) == ("completed", first)
    assert again["run_id"] != first
    assert (again["parameters"], again["webhook_callback_url"]) == ({"n": 7}, said["webhook_callback_url"])
    assert verify(hook.calls[1].body, hook.calls[1].headers[HEADER], ["newest"])
    # A poll tells nothing of it; the call of Skyvern's own UI does.
    assert not {name for name in sim.get(f"/v1/runs/{first}") if name.startswith("retried")}
    assert sim.get(f"/v1/workflows/runs/{first}")["retried_by_workflow_run_id"] == again["run_id"]


def test_ui_run_sends_to_its_agents_url_or_nowhere(simulate_skyvern: Simulate, hook: ScriptedServer) -> None:
    sim = simulate_skyvern(api_keys=(KEY, "newest"))
    sim.client.post("/_sim/agents", json={"workflow_id": "wpid_a", "title": "A", "webhook_callback_url": hook.url})
    sim.client.post("/_sim/agents", json={"workflow_id": "wpid_b", "title": "B"})

    heard = sim.client.post("/_sim/start", json={"workflow_id": "wpid_a"}).json()["run_id"]
    silent = sim.client.post("/_sim/start", json={"workflow_id": "wpid_b"}).json()["run_id"]
    misspelt = sim.client.post(AGENT, json={"agent_id": "wpid_b", "webhook_callback_url": hook.url}).json()["run_id"]
    (said,) = bodies(hook, 1)
    sim.wait_final(heard, silent, misspelt)
    eventually(lambda: sim.stats().get("webhooks_none") == 2)

    assert (said["run_id"], said["workflow_title"]) == (heard, "A")
    assert verify(hook.calls[0].body, hook.calls[0].headers[HEADER], ["newest"])
    listed = {each["run_id"]: each for each in sim.get("/v1/runs")}
    assert (listed[silent]["title"], listed[silent]["trigger_type"], listed[misspelt]["trigger_type"]) == (
        "B",
        "manual",
        "api",
    )
