"""docs/how-to/n8n-zapier-make.md: Skyvern's n8n node works with Runhook as its Base URL, and its Wait node resumes.

The calls are those of nodes/Skyvern/Skyvern.node.ts.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from tests.servers.http import ScriptedServer
from tests.servers.skyvern import SkyvernSimulator
from tests.servers.submitting import Submitting


@pytest.fixture
def rig(submitting: Callable[..., Submitting], skyvern_simulator: SkyvernSimulator) -> Submitting:
    return submitting(skyvern_simulator.url, delivering=True, allowed_addresses=["127.0.0.1"])


def call(rig: Submitting, method: str, path: str, **json_body: Any) -> Any:
    """Call Runhook with the default scopes of a key, as the node does with its credential."""
    headers = {"x-api-key": rig.key("submit", "read", "operate"), "content-type": "application/json"}
    reply = httpx2.request(method, rig.url + path, headers=headers, json=json_body or None, timeout=60)
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_task_resumes_the_waiting_workflow(rig: Submitting, caller: ScriptedServer) -> None:
    resume_url = f"{caller.url}/webhook-waiting/77"

    run_id = call(rig, "POST", "/v1/run/tasks", prompt="Get the invoice", url=None, webhook_url=resume_url)["run_id"]

    caller.wait_for_requests(1)
    (resumed,) = caller.requests
    assert (resumed.method, resumed.path) == ("POST", "/webhook-waiting/77")
    assert json.loads(resumed.body)["run_id"] == run_id
    assert call(rig, "GET", f"/v1/runs/{run_id}")["status"] == "completed"


def test_workflow_is_listed_described_and_run(
    rig: Submitting, skyvern_simulator: SkyvernSimulator, caller: ScriptedServer
) -> None:
    agent = skyvern_simulator.world.add_agent("Download invoices").id

    assert agent in [each["workflow_permanent_id"] for each in call(rig, "GET", "/api/v1/workflows?page_size=100")]
    assert call(rig, "GET", f"/api/v1/workflows/{agent}")["workflow_definition"]["parameters"] == []
    started = call(
        rig,
        "POST",
        f"/api/v1/workflows/{agent}/run",
        data={"month": 5},
        webhook_callback_url=f"{caller.url}/webhook-waiting/78",
    )

    caller.wait_for_requests(1)
    run_id = started["workflow_run_id"]
    assert json.loads(caller.requests[0].body)["run_id"] == run_id
    assert call(rig, "GET", f"/api/v1/workflows/{agent}/runs/{run_id}")["workflow_run_id"] == run_id
