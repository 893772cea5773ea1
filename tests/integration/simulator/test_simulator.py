"""The simulated Skyvern over real sockets: that it behaves as the real one was seen to."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest

from receiver.domain.signature import HEADER, verify
from receiver.runtime.child import die_with_parent
from simulator.faults import Fault, check, drawn
from simulator.webhooks import pause
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


@pytest.mark.parametrize(
    ("path", "body", "run_type"),
    [
        (TASK, {"prompt": "p", "engine": "skyvern-2.0"}, "task_v2"),
        (TASK, {"prompt": "p", "engine": "ui-tars"}, "ui_tars"),
        (AGENT, {"agent_id": "wpid_1"}, "workflow_run"),
        ("/v1/run/workflows", {"workflow_id": "wpid_1", "parameters": {"a": 1}}, "workflow_run"),
        (LEGACY, {"url": "https://x.example", "navigation_goal": "g"}, "task_v1"),
    ],
)
def test_each_way_to_submit_makes_its_type_of_run(
    path: str, body: dict[str, Any], run_type: str, sim: SkyvernSimulator
) -> None:
    answer = sim.client.post(path, json=body).json()

    run_id = answer["task_id"] if path == LEGACY else answer["run_id"]
    assert sim.get(f"/v1/runs/{run_id}")["run_type"] == run_type
    assert path != LEGACY or answer == {"task_id": run_id}


@pytest.mark.parametrize("headers", [{"x-api-key": "wrong"}, {}, {"authorization": "Bearer wrong"}])
def test_a_bad_or_missing_key_is_403(headers: dict[str, str], sim: SkyvernSimulator) -> None:
    answer = httpx2.get(sim.url + "/v1/runs", headers=headers, trust_env=False)

    assert (answer.status_code, answer.json()) == (403, {"detail": "Invalid credentials"})


def test_errors_have_skyverns_shape(sim: SkyvernSimulator) -> None:
    client = sim.client

    missing = client.post(TASK, json={"title": "t"})
    wrong = client.post(TASK, json={"prompt": "p", "engine": "steam"})
    broken = client.post(TASK, content=b"{")
    page = client.get("/v1/runs", params={"page": 0, "page_size": 101, "status": "nice", "search_key": "ab"})
    unknown = client.get("/v1/runs/tsk_0")
    nowhere = client.get("/v1/nowhere")
    url = client.post(TASK, json={"prompt": "p", "webhook_url": "gopher://x"})

    (problem,) = missing.json()["detail"]
    assert (missing.status_code, problem["type"], problem["loc"]) == (422, "missing", ["body", "prompt"])
    assert problem["msg"] == "Field required"
    assert (wrong.status_code, wrong.json()["detail"][0]["loc"]) == (422, ["body", "engine"])
    assert (broken.status_code, broken.json()["detail"][0]["type"]) == (422, "json_invalid")
    assert {tuple(each["loc"])[:2] for each in page.json()["detail"]} == {
        ("query", "page"),
        ("query", "page_size"),
        ("query", "status"),
        ("query", "search_key"),
    }
    assert (unknown.status_code, unknown.json()) == (404, {"detail": "Task run not found tsk_0"})
    assert (nowhere.status_code, nowhere.json()) == (404, {"detail": "Not Found"})
    assert url.status_code == 400


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


def test_broken_submit_makes_no_run(sim: SkyvernSimulator, capfd: pytest.CaptureFixture[str]) -> None:
    host, _, port = sim.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST {TASK} HTTP/1.1\r\nhost: x\r\nx-api-key: {KEY}\r\ncontent-length: 99\r\n\r\n"
        connection.sendall(head.encode() + b'{"prompt":')
    sim.submit("another")

    assert len(sim.world.runs) == 1
    assert "Exception" not in capfd.readouterr().err


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


def test_whole_float_is_an_integer_in_the_webhook(sim: SkyvernSimulator, hook: ScriptedServer) -> None:
    run_id = task(sim, "p", hook)
    (call,) = hook.wait_for_calls(1)
    answer = sim.client.get(f"/v1/runs/{run_id}")

    assert isinstance(answer.json()["output"]["total"], float)
    assert isinstance(body_of(call)["output"]["total"], int)
    assert answer.json()["output"] == body_of(call)["output"]


def test_submit_with_a_bearer_token_sends_no_webhook(sim: SkyvernSimulator, hook: ScriptedServer) -> None:
    headers = {"authorization": f"Bearer {KEY}"}
    body = {"prompt": "p", "webhook_url": hook.url}
    run_id = httpx2.post(sim.url + TASK, json=body, headers=headers, trust_env=False).json()["run_id"]

    sim.wait_final(run_id)
    eventually(lambda: sim.stats().get("webhooks_none"))
    assert hook.calls == []


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


@pytest.mark.parametrize(
    ("number", "retry_after", "expected"),
    [(1, None, 1.5), (2, None, 2.5), (1, "7", 7.0), (1, "600", 30.0), (2, "nonsense", 2.5), (1, "0", 0.0)],
)
def test_the_pause_between_attempts_is_skyverns(number: int, retry_after: str | None, expected: float) -> None:
    assert pause(number, retry_after, 0.5) == expected


def test_task_v2_is_signed_with_the_newest_key(simulate_skyvern: Simulate, hook: ScriptedServer) -> None:
    sim = simulate_skyvern(api_keys=(KEY, "newest"))

    task(sim, "p", hook, engine="skyvern-1.0")
    task(sim, "p", hook, engine="skyvern-2.0")

    signed = {body_of(call)["run_type"]: call for call in hook.wait_for_calls(2)}
    assert verify(signed["task_v1"].body, signed["task_v1"].headers[HEADER], [KEY])
    assert verify(signed["task_v2"].body, signed["task_v2"].headers[HEADER], ["newest"])


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


def test_retry_webhook_is_400_while_the_run_goes_on(simulate_skyvern: Simulate, hook: ScriptedServer) -> None:
    sim = simulate_skyvern(run_seconds=600.0)
    run_id = task(sim, "p", hook)

    answer = sim.client.post(f"/v1/runs/{run_id}/retry_webhook")

    assert answer.status_code == 400
    assert "has not reached a terminal state" in answer.json()["detail"]


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


def test_many_runs_are_cancelled_at_once(simulate_skyvern: Simulate, hook: ScriptedServer) -> None:
    sim = simulate_skyvern(run_seconds=600.0)
    ids = [task(sim, "p", hook) for _ in range(3)]

    answer = sim.client.post("/v1/runs/cancel", json={"run_ids": [*ids, "tsk_0"]})
    too_many = sim.client.post("/v1/runs/cancel", json={"run_ids": ["x"] * 101})

    assert (answer.status_code, answer.json()) == (200, {"cancelled": ids, "failed": ["tsk_0"]})
    assert too_many.status_code == 422
    assert {sim.run(run_id).status for run_id in ids} == {"canceled"}
    assert sim.client.post("/v1/runs/tsk_0/cancel").status_code == 404


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


def test_content_comes_in_ranges_and_with_the_key_as_well(sim: SkyvernSimulator) -> None:
    run_id = sim.submit("p")["run_id"]
    sim.wait_final(run_id)
    (stored,) = sim.run(run_id).of_type("recording")
    client = sim.client

    def get(wanted: str) -> httpx2.Response:
        return client.get(stored.path, headers={"range": wanted})

    middle, tail, beyond, several = get("bytes=10-19"), get("bytes=-5"), get("bytes=99999999-"), get("bytes=0-1,3-4")
    assert (middle.status_code, middle.content) == (206, stored.content[10:20])
    assert middle.headers["content-range"] == f"bytes 10-19/{len(stored.content)}"
    assert tail.content == stored.content[-5:]
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(stored.content)}")
    assert (several.status_code, several.content) == (200, stored.content)
    assert httpx2.get(sim.url + stored.path, trust_env=False).status_code == 403


def test_expired_url_is_renewed_by_the_api(sim: SkyvernSimulator, hook: ScriptedServer) -> None:
    run_id = task(sim, "Get it [lapsed]", hook)
    said = body_of(hook.wait_for_calls(1)[0])

    lapsed = httpx2.get(said["recording_url"], trust_env=False)
    tampered = httpx2.get(said["recording_url"].replace("expiry=1", "expiry=9"), trust_env=False)
    fresh = httpx2.get(sim.get(f"/v1/runs/{run_id}")["recording_url"], trust_env=False)

    assert (lapsed.status_code, lapsed.json()) == (403, {"detail": "Invalid or expired artifact URL"})
    assert tampered.status_code == 403
    assert fresh.status_code == 200


def test_local_storage_gives_file_urls(simulate_skyvern: Simulate) -> None:
    sim = simulate_skyvern(local_storage=True)
    run_id = sim.submit("p")["run_id"]
    sim.wait_final(run_id)

    run = sim.get(f"/v1/runs/{run_id}")
    listed = sim.get(f"/v1/runs/{run_id}/artifacts")

    assert run["recording_url"].startswith("file://")
    assert {each["signed_url"] for each in listed if each["artifact_type"] != "recording"} == {None}
    assert sim.client.get(f"/v1/artifacts/{listed[0]['artifact_id']}/content").status_code == 200


def test_which_faults_a_run_has_hangs_on_the_seed_alone() -> None:
    ratios = check({"lose": 0.2, "double": 0.1})
    first = [drawn(ratios, 7, number) for number in range(2000)]

    assert [drawn(ratios, 7, number) for number in range(2000)] == first
    assert [drawn(ratios, 8, number) for number in range(2000)] != first
    assert 300 < sum(Fault.LOSE in faults for faults in first) < 500
    assert drawn({}, 7, 1, "Do it [late] [echo]") == {Fault.LATE, Fault.ECHO}


@pytest.mark.parametrize("ratios", [{"loose": 0.2}, {"lose": 1.5}])
def test_a_fault_that_is_none_is_refused(ratios: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"loose|1\.5"):
        check(ratios)


def test_lost_webhook_is_counted_as_unreported(simulate_skyvern: Simulate, hook: ScriptedServer) -> None:
    sim = simulate_skyvern(ratios={Fault.LOSE: 1.0})
    run_id = task(sim, "p", hook)
    sim.wait_final(run_id)

    eventually(lambda: sim.stats().get("webhooks_lost"))
    assert (sim.stats()["unreported"], hook.calls) == (1, [])
    assert sim.get(f"/v1/runs/{run_id}")["status"] == "completed"


def test_double_changes_the_bytes_and_echo_does_not(sim: SkyvernSimulator, hook: ScriptedServer) -> None:
    task(sim, "p [double]", hook)
    first, second = hook.wait_for_calls(2)
    task(sim, "p [echo]", hook)
    third, fourth = hook.wait_for_calls(4)[2:]

    assert first.body != second.body
    assert body_of(first)["output"] == body_of(second)["output"]
    assert (body_of(first)["webhook_failure_reason"], body_of(second)["webhook_failure_reason"]) == (None, "")
    assert third.body == fourth.body


def test_retried_workflow_sends_a_webhook_per_attempt(sim: SkyvernSimulator, hook: ScriptedServer) -> None:
    run_id = agent(sim, "p [retry]", hook)

    first, second = (body_of(call) for call in hook.wait_for_calls(2))
    assert (first["status"], first["attempt"], first["retry_pending"]) == ("failed", 1, True)
    assert first["next_attempt_at"]
    assert first["attempts"][0]["retry_decision"] == "retry"
    assert (second["status"], second["attempt"], second["retry_pending"]) == ("completed", 2, False)
    assert len(second["attempts"]) == 2
    assert sim.run(run_id).final


def test_disorder_sends_the_first_attempt_last(simulate_skyvern: Simulate, hook: ScriptedServer) -> None:
    sim = simulate_skyvern(speed=50.0, run_seconds=0.1)
    agent(sim, "p [retry] [disorder]", hook)

    last, first = (body_of(call) for call in hook.wait_for_calls(2))
    assert (last["attempt"], last["status"], first["attempt"], first["status"]) == (2, "completed", 1, "failed")
    assert first["modified_at"] < last["modified_at"]


def test_a_task_v2_can_be_called_failed_for_its_webhook_only(sim: SkyvernSimulator, hook: ScriptedServer) -> None:
    task(sim, "p [tangled]", hook, engine="skyvern-2.0")

    said = body_of(hook.wait_for_calls(1)[0])
    assert said["status"] == "failed"
    assert "Failed to send webhook" in said["failure_reason"]
    assert said["output"]


@pytest.mark.parametrize(
    ("fault", "status"), [("fail", "failed"), ("terminate", "terminated"), ("timeout", "timed_out")]
)
def test_a_run_ends_as_it_was_asked_to(fault: str, status: str, sim: SkyvernSimulator, hook: ScriptedServer) -> None:
    task(sim, f"p [{fault}]", hook)

    said = body_of(hook.wait_for_calls(1)[0])
    assert (said["status"], said["output"]) == (status, None)
    assert said["failure_reason"]


def test_a_run_can_be_cancelled_twice_by_itself(sim: SkyvernSimulator, hook: ScriptedServer) -> None:
    task(sim, "p [cancel] [twice]", hook)

    said = [body_of(call) for call in hook.wait_for_calls(3)]
    assert {each["status"] for each in said} == {"canceled"}
    assert said[0]["output"] is None
    assert any(each["output"] for each in said)


@pytest.mark.parametrize(("fault", "status"), [("429", 429), ("503", 503), ("500", 500)])
def test_a_marked_submit_is_refused_once(fault: str, status: int, sim: SkyvernSimulator) -> None:
    body = {"prompt": f"p [{fault}]"}

    first, second = sim.client.post(TASK, json=body), sim.client.post(TASK, json=body)

    assert (first.status_code, second.status_code) == (status, 200)
    assert ("retry-after" in first.headers) is (status == 503)
    assert len(sim.world.runs) == 1


def test_a_dropped_answer_leaves_a_run_behind(sim: SkyvernSimulator, hook: ScriptedServer) -> None:
    with pytest.raises(httpx2.TransportError):
        sim.client.post(TASK, json={"prompt": "p [drop]", "title": "lost one", "webhook_url": hook.url})

    said = body_of(hook.wait_for_calls(1)[0])
    assert [each["run_id"] for each in sim.get("/v1/runs", search_key="lost one")] == [said["run_id"]]


def test_a_big_output_is_larger_than_16_mib(sim: SkyvernSimulator, hook: ScriptedServer) -> None:
    task(sim, "p [big]", hook)

    (call,) = hook.wait_for_calls(1)
    assert len(call.body) > 16 << 20


def test_faults_can_be_changed_while_it_runs(sim: SkyvernSimulator) -> None:
    changed = sim.client.post("/_sim/faults", json={"429": 1})
    refused = sim.client.get("/v1/runs")
    wrong = sim.client.post("/_sim/faults", json={"loose": 1})

    assert changed.json() == {"429": 1.0}
    assert refused.status_code == 429
    assert wrong.status_code == 400


def test_a_pass_through_can_be_checked_and_tells_no_key(sim: SkyvernSimulator) -> None:
    answer = sim.client.post("/v1/_sim/echo?a=1&a=2", content=b"hello")

    assert answer.json()["query"] == "a=1&a=2"
    assert (answer.json()["body"], answer.json()["key"]) == ("hello", 0)
    assert KEY not in answer.text


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
