"""The simulated Skyvern between a run's end and its webhook, and what it starts by itself."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx2
import pytest

from receiver.domain.signature import HEADER, verify
from simulator.faults import Fault
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


def recordings(sim: SkyvernSimulator, run_id: str) -> list[dict[str, Any]]:
    listed = sim.get(f"/v1/runs/{run_id}/artifacts", artifact_type="recording")
    return [{**each, "got": len(httpx2.get(each["signed_url"], trust_env=False).content)} for each in listed]


def test_recording_record_is_ahead_of_its_bytes(simulate_skyvern: Simulate, hook: ScriptedServer) -> None:
    sim = simulate_skyvern(speed=5.0, long_gap_seconds=5.0, seed=1)
    sizes: list[tuple[int, int]] = []
    records: set[tuple[int, bool]] = set()  # size, and whether the record was changed since it was made
    run_ids: list[str] = []

    def look() -> bool:
        for run_id in run_ids[-6:]:
            found = recordings(sim, run_id)
            sizes.extend((each["file_size"], each["got"]) for each in found)
            records.update((each["file_size"], each["modified_at"] != each["created_at"]) for each in found)
        whole = max((size for size, _ in sizes), default=0)
        half = whole // 2
        seen = {(0, half), (whole, half), (whole, whole)} <= set(sizes) and {(0, False), (whole, True)} <= records
        if not seen and all(sim.run(run_id).settled for run_id in run_ids[-6:]):
            # The first, or others where those were too quick for a busy machine.
            run_ids.extend(start(sim, hook, "p [gap]", engine="skyvern-1.0") for _ in range(6))
        return seen

    eventually(look, what=lambda: f"{sizes}\n{records}")
    assert (0, True) not in records


def test_recording_can_be_half_at_the_webhook(simulate_skyvern: Simulate, hook: ScriptedServer) -> None:
    sim = simulate_skyvern(half_seconds=20.0)

    run_id = start(sim, hook, "p [half]", engine="skyvern-1.0")
    (said,) = bodies(hook, 1)
    first = len(httpx2.get(said["recording_url"], trust_env=False).content)
    (record,) = recordings(sim, run_id)

    assert record["file_size"] > first
    eventually(lambda: len(httpx2.get(said["recording_url"], trust_env=False).content) == record["file_size"])


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


def test_a_retry_policy_can_fail_twice(sim: SkyvernSimulator, hook: ScriptedServer) -> None:
    start(sim, hook, "p [retries]", workflow_id="wpid_1")
    said = bodies(hook, 3)

    assert [(each["attempt"], each["retry_pending"]) for each in said] == [(1, True), (2, True), (3, False)]


def test_cancelled_webhooks_can_change_places(simulate_skyvern: Simulate, hook: ScriptedServer) -> None:
    sim = simulate_skyvern(speed=50.0)

    start(sim, hook, "p [cancel] [disorder]", workflow_id="wpid_1")
    later, earlier = bodies(hook, 2)

    assert later["status"] == earlier["status"] == "canceled"
    assert later["outputs"]
    assert earlier["outputs"] is None
    assert earlier["modified_at"] < later["modified_at"]


@pytest.mark.parametrize(("fault", "status"), [("pause", "paused"), ("queue", "queued")])
def test_a_run_can_wait_for_long(fault: str, status: str, simulate_skyvern: Simulate, hook: ScriptedServer) -> None:
    sim = simulate_skyvern(paused_seconds=10.0, queued_seconds=10.0)

    run_id = start(sim, hook, f"p [{fault}]", engine="skyvern-1.0")

    eventually(lambda: sim.get(f"/v1/runs/{run_id}")["status"] == status)
    began = time.monotonic()
    bodies(hook, 1)
    assert time.monotonic() - began > 0.3


def test_retry_webhook_refusals(simulate_skyvern: Simulate, hook: ScriptedServer) -> None:
    sim = simulate_skyvern(run_seconds=600.0)
    policy = start(sim, hook, "p [retry]", workflow_id="wpid_1")
    plain = start(sim, hook, "p", workflow_id="wpid_1")
    sim.client.post("/_sim/faults", json={})
    yutori = start(sim, hook, "p", engine="yutori-navigator")

    answers = [sim.client.post(f"/v1/runs/{run_id}/retry_webhook") for run_id in (policy, plain, yutori)]

    assert [answer.status_code for answer in answers] == [409, 400, 400]
    assert "is not supported for webhook replay" in answers[2].json()["detail"]


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


def test_ratios_reach_the_new_faults_too(simulate_skyvern: Simulate, hook: ScriptedServer) -> None:
    sim = simulate_skyvern(ratios={Fault.RESTART: 1.0})

    start(sim, hook, "p", workflow_id="wpid_1")
    said = bodies(hook, 2)

    assert [each["status"] for each in said] == ["failed", "completed"]
    assert len(sim.world.runs) == 2  # what was started again is not started again
