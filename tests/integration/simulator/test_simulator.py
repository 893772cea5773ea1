"""The simulated Skyvern over real sockets: it behaves as the real one was seen to."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

from receiver.domain.signature import HEADER, verify
from receiver.runtime.child import die_with_parent
from tests.servers.scripted import Call, Reply, ScriptedServer
from tests.servers.skyvern import KEY, Simulate, SkyvernSimulator
from tests.support.paths import ROOT
from tests.support.waiting import eventually

TASK, AGENT, LEGACY = "/v1/run/tasks", "/v1/run/agents", "/api/v1/tasks"


def body_of(call: Call) -> dict[str, Any]:
    return dict(json.loads(call.body))


def agent(sim: SkyvernSimulator, prompt: str, hook: ScriptedServer, **fields: Any) -> str:
    answer = sim.submit(prompt, AGENT, workflow_id="wpid_1", webhook_url=hook.url + "/hook?corr=1", **fields)
    return str(answer["run_id"])


def task(sim: SkyvernSimulator, prompt: str, hook: ScriptedServer, **fields: Any) -> str:
    return str(sim.submit(prompt, TASK, webhook_url=hook.url + "/hook?corr=1", **fields)["run_id"])


def test_submitted_run_proceeds_by_itself(sim: SkyvernSimulator) -> None:
    answer = sim.submit("Get the price", engine="skyvern-1.0", url="https://shop.example", max_steps=9)

    run_id = answer["run_id"]
    assert (answer["status"], answer["run_type"], answer["output"]) == ("created", "task_v1", None)
    assert answer["run_request"]["max_steps"] == 9
    seen: list[str] = []

    def look() -> bool:
        status = sim.get(f"/v1/runs/{run_id}/")["status"]
        if not seen or seen[-1] != status:
            seen.append(status)
        return status == "completed"

    eventually(look)
    in_order = ["created", "queued", "running", "completed"]
    assert seen == [status for status in in_order if status in seen]


@pytest.mark.parametrize("headers", [{"x-api-key": "wrong"}, {}, {"authorization": "Bearer wrong"}])
def test_a_bad_or_missing_key_is_403(headers: dict[str, str], sim: SkyvernSimulator) -> None:
    answer = httpx2.get(sim.url + "/v1/runs", headers=headers, trust_env=False)

    assert (answer.status_code, answer.json()) == (403, {"detail": "Invalid credentials"})


def test_runs_are_listed_in_pages_and_searched(sim: SkyvernSimulator) -> None:
    ids = [sim.submit(f"Invoice {number}")["run_id"] for number in range(5)]
    other = agent_id = sim.submit("Another", AGENT, workflow_id="wpid_1")["run_id"]
    sim.wait_final(*ids, other)

    assert [each["run_id"] for each in sim.get("/v1/runs", page_size=2, page=2)] == [ids[3], ids[2]]
    assert [each["run_id"] for each in sim.get("/v1/runs", search_key="voice 3")] == [ids[3]]
    assert [each["run_id"] for each in sim.get("/v1/runs", run_type=["workflow_run"])] == [agent_id]
    assert sim.get("/v1/runs", status=["failed", "canceled"]) == []
    assert sim.get("/v1/runs", page=100) == []
    assert sim.get("/v1/runs")[0].keys() >= {"run_id", "task_run_type", "status", "title", "created_at"}


@pytest.mark.parametrize(
    ("path", "body", "keys"),
    [
        (TASK, {"prompt": "p", "engine": "skyvern-1.0"}, 31),
        (TASK, {"prompt": "p", "engine": "anthropic-cua"}, 31),
        (TASK, {"prompt": "p", "engine": "skyvern-2.0"}, 44),
        (AGENT, {"agent_id": "wpid_1"}, 58),
    ],
)
def test_a_run_that_has_ended_sends_a_signed_webhook(
    path: str, body: dict[str, Any], keys: int, sim: SkyvernSimulator, hook: ScriptedServer
) -> None:
    run_id = sim.client.post(path, json={**body, "webhook_url": hook.url + "/h/s1?c=2"}).json()["run_id"]

    (call,) = hook.wait_for_calls(1)
    said = body_of(call)
    assert (call.method, call.path, call.headers["content-type"]) == ("POST", "/h/s1?c=2", "application/json")
    assert verify(call.body, call.headers[HEADER], [KEY])
    assert call.headers["x-skyvern-timestamp"].isdigit()
    assert call.headers["user-agent"].startswith("python-httpx/")
    assert (said["run_id"], said["status"], len(said)) == (run_id, "completed", keys)
    assert said["output"]
    assert b'": ' not in call.body
    assert "\\u" not in call.body.decode()


@pytest.mark.parametrize(
    ("status", "attempts"),
    [
        *((status, 3) for status in (403, 408, 425, 429, 500, 503)),
        *((status, 1) for status in (301, 307, 400, 401, 404, 409, 413, 422)),
    ],
)
def test_only_temporary_refusals_are_retried(
    status: int, attempts: int, simulate_skyvern: Simulate, hook: ScriptedServer
) -> None:
    sim = simulate_skyvern(speed=500.0)
    hook.default = Reply(status, b"no", {"location": hook.url + "/elsewhere"})

    run_id = task(sim, "p", hook)

    eventually(lambda: sim.stats().get("webhooks_failed"))
    assert len(hook.calls) == attempts
    assert len({(call.headers[HEADER], call.headers["x-skyvern-timestamp"], call.body) for call in hook.calls}) == 1
    assert sim.run(run_id).webhook_failure_reason == f"Webhook failed with status code {status}, error message: no"


def test_retry_webhook_sends_fewer_keys(sim: SkyvernSimulator, hook: ScriptedServer) -> None:
    run_id = agent(sim, "p", hook)
    hook.wait_for_calls(1)
    v2 = task(sim, "p", hook, engine="skyvern-2.0")
    hook.wait_for_calls(2)
    hook.script = [Reply(), Reply(), Reply(500)]

    first = sim.client.post(f"/v1/runs/{run_id}/retry_webhook", headers={"content-length": "0"})
    second = sim.client.post(f"/v1/runs/{v2}/retry_webhook", json={"webhook_url": hook.url + "/other"})
    third = sim.client.post(f"/v1/runs/{run_id}/retry_webhook")

    assert (first.status_code, first.json()["error"], first.json()["status_code"]) == (200, None, 200)
    assert (third.status_code, third.json()["status_code"]) == (200, 500)
    assert third.json()["error"]
    again = [body_of(call) for call in hook.calls[2:]]
    assert len(again) == 3
    assert (len(again[0]), again[0]["step_count"]) == (53, None)
    assert len(again[1]) == 21
    assert "task_id" not in again[1]
    assert hook.calls[3].path == "/other"
    assert second.json()["target_webhook_url"] == hook.url + "/other"


def test_cancelled_run_sends_null_output_first(simulate_skyvern: Simulate, hook: ScriptedServer) -> None:
    sim = simulate_skyvern(run_seconds=600.0)
    run_id = agent(sim, "p", hook)

    answer = sim.client.post(f"/v1/runs/{run_id}/cancel")
    assert (answer.status_code, answer.json()) == (200, None)
    first, second = (body_of(call) for call in hook.wait_for_calls(2))
    again = sim.client.post(f"/v1/runs/{run_id}/cancel")
    third = body_of(hook.wait_for_calls(3)[2])

    assert again.status_code == 200
    assert (first["status"], first["output"], first["outputs"]) == ("canceled", None, None)
    assert second["status"] == "canceled"
    assert second["outputs"]
    assert third["outputs"].keys() == second["outputs"].keys()
    # The second call may be answered before the server has noted that the second webhook arrived.
    assert first["modified_at"] < second["modified_at"] <= third["modified_at"]


def test_artifacts_are_bytes_under_signed_urls(sim: SkyvernSimulator, hook: ScriptedServer) -> None:
    run_id = task(sim, "p", hook)
    said = body_of(hook.wait_for_calls(1)[0])
    listed = {each["artifact_type"]: each for each in sim.get(f"/v1/runs/{run_id}/artifacts")}

    (file,) = said["downloaded_files"]
    invoice = httpx2.get(file["url"], trust_env=False)
    recording = httpx2.get(said["recording_url"], trust_env=False)
    screenshot = httpx2.get(said["screenshot_urls"][0], trust_env=False)

    assert invoice.content.startswith(b"%PDF")
    assert hashlib.sha256(invoice.content).hexdigest() == file["checksum"] == listed["download"]["checksum"]
    assert len(invoice.content) == file["file_size"]
    assert invoice.headers["content-disposition"] == 'attachment; filename="invoice.pdf"'
    assert recording.content.startswith(b"\x1a\x45\xdf\xa3")
    assert recording.headers["content-type"] == "video/webm"
    assert screenshot.content.startswith(b"\x89PNG")
    assert (listed["recording"]["checksum"], listed["recording"]["file_size"]) == (None, len(recording.content))
    assert sim.get("/v1/runs/tsk_0/artifacts") == []


def test_retried_workflow_sends_a_webhook_per_attempt(sim: SkyvernSimulator, hook: ScriptedServer) -> None:
    run_id = agent(sim, "p [retry]", hook)

    first, second = (body_of(call) for call in hook.wait_for_calls(2))
    assert (first["status"], first["attempt"], first["retry_pending"]) == ("failed", 1, True)
    assert first["next_attempt_at"]
    assert first["attempts"][0]["retry_decision"] == "retry"
    assert (second["status"], second["attempt"], second["retry_pending"]) == ("completed", 2, False)
    assert len(second["attempts"]) == 2
    assert sim.run(run_id).final


def test_faults_can_be_changed_while_it_runs(sim: SkyvernSimulator) -> None:
    changed = sim.client.post("/_sim/faults", json={"429": 1})
    refused = sim.client.get("/v1/runs")
    wrong = sim.client.post("/_sim/faults", json={"loose": 1})

    assert changed.json() == {"429": 1.0}
    assert refused.status_code == 429
    assert wrong.status_code == 400


def start(tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    parent = os.getpid()
    return subprocess.Popen(
        [sys.executable, "-m", "receiver.cli", "simulate", *arguments],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: die_with_parent(parent),
    )


def test_the_command_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    process = start(tmp_path, "--port", "0", "--api-key", "k", "--fault", "lose=0.25", "--speed", "50")
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found, line
        body = {"prompt": "p"}
        answer = httpx2.post(found[0] + TASK, json=body, headers={"x-api-key": "k"}, trust_env=False)
        assert "lose 25%" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()

    assert answer.status_code == 200
    assert (process.returncode, rest) == (0, "")


def test_default_key_is_the_local_receivers(tmp_path: Path) -> None:
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / "skyvern-api-key").write_text("local-one")
    process = start(tmp_path, "--port", "0")
    assert process.stderr is not None
    try:
        found = re.search(r"http://127\.0\.0\.1:\d+", process.stderr.readline())
        assert found
        answer = httpx2.get(found[0] + "/v1/runs", headers={"x-api-key": "local-one"}, trust_env=False)
    finally:
        process.kill()
        process.communicate()

    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--fault", "loose=0.1"], "runhook: --fault: no such fault: loose; there are fail, "),
        (["--fault", "lose"], "runhook: --fault lose: must be NAME=RATIO, such as lose=0.2"),
    ],
)
def test_invalid_fault_is_one_line(arguments: list[str], expected: str, tmp_path: Path) -> None:
    process = start(tmp_path, "--port", "0", *arguments)
    _, said = process.communicate(timeout=60)

    assert process.returncode == 2
    assert said.startswith(expected)
    assert len(said.splitlines()) == 1


def test_a_busy_port_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = start(tmp_path, "--port", str(port), "--api-key", "k")
        _, said = process.communicate(timeout=60)

    assert process.returncode == 3
    assert said.splitlines() == [
        f"runhook: can't listen on 127.0.0.1:{port}: the port is in use; choose another with --port or --host"
    ]


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
        soon = (datetime.now(UTC) + timedelta(seconds=2)).isoformat()
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


def bodies(hook: ScriptedServer, count: int) -> list[dict[str, Any]]:
    return [json.loads(call.body) for call in hook.wait_for_calls(count)]


def begin(sim: SkyvernSimulator, hook: ScriptedServer, prompt: str, **fields: Any) -> str:
    path = AGENT if "workflow_id" in fields else TASK
    return str(sim.submit(prompt, path, webhook_url=hook.url, **fields)["run_id"])


def has_no(said: dict[str, Any], *names: str) -> bool:
    return not any(said[name] for name in names)


@pytest.mark.parametrize("fields", [{"engine": "skyvern-1.0"}, {"engine": "skyvern-2.0"}, {"workflow_id": "wpid_1"}])
def test_poll_before_the_webhook_has_no_files(
    fields: dict[str, str], simulate_skyvern: Simulate, hook: ScriptedServer
) -> None:
    sim = simulate_skyvern(speed=10.0, long_gap_seconds=30.0)  # 1.5 to 4.5 s, in which it is polled

    run_id = begin(sim, hook, "p [gap]", **fields)
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

    first = begin(sim, hook, "p [restart]", workflow_id="wpid_1", parameters={"n": 7})
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


def test_a_pass_through_can_be_checked_and_tells_no_key(sim: SkyvernSimulator) -> None:
    answer = sim.client.post("/v1/_sim/echo?a=1&a=2", content=b"hello")

    assert answer.json()["query"] == "a=1&a=2"
    assert (answer.json()["body"], answer.json()["key"]) == ("hello", 0)
    assert KEY not in answer.text
