"""GET of a run has Skyvern's own members before its webhook and after it, whichever road its result came by."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from receiver.domain import members
from receiver.submit import request_record
from simulator.faults import Fault
from tests.servers.skyvern import Simulate
from tests.servers.submitting import Make
from tests.support.waiting import eventually

HOOK = "https://app.example/hook?token=x"
TASK = {
    "prompt": "Get the invoice",
    "url": "https://suppliers.example/",
    "title": "Invoices",
    "max_steps": 12,
    "data_extraction_schema": {"type": "object"},
}
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "task_v1": ("/v1/run/tasks", {**TASK, "engine": "skyvern-1.0"}),
    "task_v2": ("/v1/run/tasks", {**TASK, "engine": "skyvern-2.0"}),
    "task_v3": ("/v1/run/tasks", {**TASK, "engine": "skyvern-3.0"}),
    "anthropic_cua": ("/v1/run/tasks", {**TASK, "engine": "anthropic-cua"}),
    "sdk": ("/v1/run/tasks", {**TASK, "engine": "skyvern-1.0", "proxy_location": None, "totp_url": None}),
    "sdk_task_v2": ("/v1/run/tasks", {**TASK, "engine": "skyvern-2.0", "proxy_location": None, "totp_url": None}),
    "legacy": ("/api/v1/tasks", {"url": "https://suppliers.example/", "navigation_goal": "Get the invoice"}),
    "workflow_run": (
        "/v1/run/agents",
        {
            "agent_id": "wpid_1",
            "parameters": {"order": 7},
            "title": "mine",
            "ai_fallback": True,
            "run_metadata": {"a": "b"},
        },
    ),
}
# Skyvern signs URLs anew for each answer, and a delivery moves the time; with another answer comes another zone.
MOVING = {"modified_at"}


def comparable(body: dict[str, Any]) -> dict[str, Any]:
    text = json.dumps({name: value for name, value in body.items() if name not in MOVING})

    def of(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: of(each) for name, each in value.items()}
        if isinstance(value, list):
            return [of(each) for each in value]
        if isinstance(value, str):
            return value.partition("?")[0].removesuffix("Z") if value.startswith(("http", "20")) else value
        return value

    return dict(of(json.loads(text)))


@pytest.mark.parametrize("road", ["webhook", "poll"])
@pytest.mark.parametrize("kind", REQUESTS)
def test_get_matches_skyvern_before_and_after_the_webhook(
    submitting: Make, simulate_skyvern: Simulate, kind: str, road: str
) -> None:
    lost = {Fault.LOSE: 1.0} if road == "poll" else {}
    # No gap between a run's end and its files: a poll in it would be taken for the result, since nothing waits for the
    # webhook here.
    sim = simulate_skyvern(ratios=lost, run_seconds=20.0, gap_seconds=0.0)
    rig = submitting(sim.url, polling=road == "poll", reconcile={"webhook_grace": 0})
    path, request = REQUESTS[kind]
    url_field = "webhook_callback_url" if kind == "legacy" else "webhook_url"

    def asked_for() -> tuple[str, httpx2.Response]:
        told = rig.client.post(path, json={**request, url_field: HOOK}).json()
        run_id = str(told.get("run_id") or told["task_id"])
        before = rig.client.get(f"/v1/runs/{run_id}")
        assert not sim.run(run_id).final
        return run_id, before

    run_id, before = eventually(asked_for)  # another run where a busy machine has asked after the end

    def direct() -> dict[str, Any]:
        answer = sim.get(f"/v1/runs/{run_id}")
        assert answer["run_request"]["webhook_url"].startswith(rig.url)
        answer["run_request"]["webhook_url"] = HOOK
        return dict(answer)

    sim.wait_final(run_id)
    rig.client.get(f"/v1/runs/{run_id}")
    after = eventually(
        lambda: (
            answer if (answer := rig.client.get(f"/v1/runs/{run_id}")).headers["x-runhook-from"] == "ledger" else None
        )
    )

    family = members.family(sim.run(run_id).type)
    assert before.headers["x-runhook-from"] == "skyvern"
    assert list(after.json()) == list(members.POLL[family])
    assert before.json().keys() == after.json().keys()
    assert comparable(after.json()) == comparable(direct())
    assert {name: type(value) for name, value in after.json().items()} == {
        name: type(value) for name, value in direct().items()
    }
    assert rig.url not in after.text
    other = rig.client.get(f"/v1/runs/{run_id}", headers={"x-api-key": rig.key("read")}).json()
    assert other["run_request"]["webhook_url"] is None


def test_request_record_is_masked_and_private(submitting: Make, simulate_skyvern: Simulate) -> None:
    rig = submitting(
        simulate_skyvern(run_seconds=1000.0).url,
        dispatching=False,
        redact=["**.totp_identifier", "**.password", "run_request.title", "prompt"],
    )
    path, request = REQUESTS["workflow_run"]
    secret = {"totp_identifier": "MARK", "title": "MARK", "prompt": "MARK"}
    body = {**request, "parameters": {"user": "me", "password": "MARK"}, **secret, "webhook_url": HOOK}
    headers = {"x-max-steps-override": "9", "x-runhook-labels": "a=b"}

    told = rig.client.post(f"{path}?template=false", json={**body, "labels": {"c": "d"}}, headers=headers)

    run_id, submission = told.json()["run_id"], told.headers["x-runhook-submission-id"]
    answer = rig.client.get(f"/v1/runs/{run_id}?from=submission")
    assert answer.headers["x-runhook-from"] == "submission"
    assert answer.json() == {
        "submission_id": submission,
        "run_id": run_id,
        "path": "/v1/run/agents",
        "query": "template=false",
        "headers": {"x-max-steps-override": "9"},
        "webhook_url": HOOK,
        "request": {
            **request,
            "parameters": {"user": "me", "password": "[redacted]"},
            **dict.fromkeys(secret, "[redacted]"),
        },
        "masked": ["parameters", "prompt", "title", "totp_identifier"],
    }
    (row,) = rig.rows()
    assert "MARK" not in str(row)
    assert (row["title"], row["prompt"]) == ("[redacted]", "[redacted]")
    other = rig.client.get(f"/v1/runs/{run_id}?from=submission", headers={"x-api-key": rig.key("read")})
    resubmitter = rig.client.get(
        f"/v1/runs/{run_id}?from=submission", headers={"x-api-key": rig.key("read", "resubmit")}
    )
    assert (other.status_code, resubmitter.status_code) == (403, 200)
    assert rig.client.get("/v1/runs/tsk_elsewhere?from=submission").status_code == 404


def test_too_large_request_is_sent_but_not_kept(submitting: Make, simulate_skyvern: Simulate) -> None:
    sim = simulate_skyvern(run_seconds=1000.0)
    rig = submitting(sim.url, dispatching=False)

    told = rig.task("p", data_extraction_schema={"x": "y" * request_record.LIMIT})

    assert told.status_code == 200
    assert rig.rows()[0]["request"] is None
    answer = rig.client.get(f"/v1/runs/{told.json()['run_id']}?from=submission")
    assert (answer.status_code, "too large" in answer.json()["detail"]) == (404, True)


def test_numbers_and_texts_of_a_result_stay_as_they_came(submitting: Make, simulate_skyvern: Simulate) -> None:
    sim = simulate_skyvern()
    rig = submitting(sim.url)
    run_id = rig.task("p").json()["run_id"]

    answer = rig.client.get(f"/v1/runs/{run_id}?wait=10")

    if answer.headers["x-runhook-from"] != "ledger":
        answer = eventually(
            lambda: (a := rig.client.get(f"/v1/runs/{run_id}")).headers["x-runhook-from"] == "ledger" and a
        )
    assert b'"reference":1234567890123456789' in answer.content
    assert "line one\u2028line two </script>" in answer.text
