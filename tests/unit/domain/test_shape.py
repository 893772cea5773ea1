"""One run, one shape: whichever road a body came by, the completed run has the same members with the same values."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.domain import shape
from receiver.domain.members import run_request
from tests.support import roads

NOW = time.time()
# What only the webhook knows: nothing in Skyvern's API tells it.
ONLY_THE_WEBHOOK = {
    *("failure_category", "webhook_failure_reason", "webhook_callback_url", "modified_at"),
    *("credits_used", "cached_credits_used", "total_cost", "browser_console_log_url", "extracted_information_schema"),
    *("summary", "organization_id", "workflow_id", "workflow_permanent_id", "totp_verification_url"),
}
ONLY_OF_A_DELIVERY = {"webhook_failure_reason", "webhook_callback_url"}
OF_TASK_V2_ONLY = {"summary", "organization_id", "workflow_id", "workflow_permanent_id"}


def known(run: dict[str, Any]) -> dict[str, Any]:
    hidden = ONLY_THE_WEBHOOK - (set() if run["run_type"] == "task_v2" else OF_TASK_V2_ONLY)
    request = {name: value for name, value in (run["run_request"] or {}).items() if not shape.is_empty(value)}
    return {name: value for name, value in run.items() if name not in hidden} | {
        "run_request": {name: request.get(name) for name in ("prompt", "url", "workflow_id", "parameters")}
    }


def of_road(body: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    run = shape.completed(body)
    return shape.completed(run, shape.completion_of(run, request=request))


@pytest.mark.parametrize("name", roads.FINISHED)
def test_a_run_has_one_shape_by_every_road(name: str) -> None:
    webhook = roads.webhook(name, NOW)
    request = roads.request_of(webhook)

    by_road = {road.__name__: of_road(road(webhook), request) for road in (dict, roads.poll, roads.sent_again)}

    wanted = by_road.pop("dict")
    for road, run in by_road.items():
        assert run.keys() == wanted.keys(), road
        assert known(run) == known(wanted), road
    assert wanted["workflow_title" if "workflow" in name else "prompt"]


@pytest.mark.parametrize("name", roads.FINISHED)
def test_a_completed_body_has_the_members_of_a_webhook(name: str) -> None:
    webhook = roads.webhook(name, NOW)
    for road in (roads.poll, roads.sent_again):
        body = road(webhook)
        sent = json.loads(shape.webhook_body(json.dumps(body).encode(), body, shape.completed(body)))
        assert webhook.keys() <= sent.keys(), road.__name__
        assert {name: value for name, value in body.items() if value is not None}.items() <= sent.items()
        # And what it has itself stays in its place: bytes that are compared are the same as ever
        assert list(shape.completed(body))[: len(body)] == list(body)
    whole = json.dumps(webhook).encode()
    assert shape.webhook_body(whole, webhook, shape.completed(webhook)) is whole


@pytest.mark.parametrize("path", sorted(Path("tests").glob("support/data/captures/*.json")), ids=lambda path: path.stem)
@given(data=st.data())
def test_what_earlier_events_had_is_not_lost(path: Path, data: st.DataObject) -> None:
    # Given a body as a real server sent it, and the same with members missing
    whole = shape.completed(json.loads(path.read_bytes()))
    optional = sorted(whole.keys() & {*shape.DESCRIPTIVE, *shape.OF_RESULT})
    missing = data.draw(st.sets(st.sampled_from(optional)))
    less = {name: value for name, value in whole.items() if name not in missing}

    # When it is completed from the other
    completion = shape.completion_of(shape.completed(less), same_result=whole)

    # Then nothing is missing that the other had, and nothing is changed that it has itself
    completed = shape.completed(less, completion)
    assert {name: value for name, value in whole.items() if not shape.is_empty(value)}.items() <= completed.items()
    assert shape.completed(completed, completion) == completed


def test_other_results_give_only_descriptive_members() -> None:
    run = shape.completed({"run_id": "wr_1", "run_type": "workflow_run", "attempt": 2})
    earlier = {"workflow_title": "Invoices", "parameters": {"id": 7}, "recording_url": "https://x/1", "step_count": 4}
    assert shape.completion_of(run, earlier=earlier) == {"workflow_title": "Invoices", "parameters": {"id": 7}}


def test_workflow_run_of_a_task_v2_comes_from_its_page() -> None:
    run = {"run_id": "tsk_v2_1", "run_type": "task_v2", "app_url": "https://app.skyvern.com/runs/wr_9"}
    assert shape.completed(run)["workflow_run_id"] == "wr_9"
    assert shape.completed(run | {"app_url": "https://app.skyvern.com/tasks/tsk_9"})["workflow_run_id"] is None
    assert shape.completed(run | {"workflow_run_id": "wr_7"})["workflow_run_id"] == "wr_7"


def test_one_more_call_tells_what_a_poll_lacks() -> None:
    webhook = roads.webhook("task_v2.completed", NOW)
    poll = roads.poll(webhook)
    details = {**webhook, "webhook_failure_reason": "it was away", "unknown": 1}
    run = shape.completed(poll)

    run = shape.completed(run, shape.completion_of(run, details=shape.of_details(run, details)))

    assert webhook["summary"]
    assert {name: run[name] for name in webhook.keys() - ONLY_OF_A_DELIVERY} == {
        name: webhook[name] for name in webhook.keys() - ONLY_OF_A_DELIVERY
    }
    assert run["webhook_failure_reason"] is None
    assert "unknown" not in run


def test_stored_request_fills_the_run_request() -> None:
    run = {"run_id": "t", "run_type": "task_v1", "run_request": {"prompt": "p", "extra_http_headers": None}}
    completion = shape.completion_of(run, request={"prompt": "other", "extra_http_headers": {"a": "b"}})
    request = shape.completed(run, completion)["run_request"]
    assert (request["prompt"], request["extra_http_headers"]) == ("p", {"a": "b"})


def test_request_takes_skyverns_form_without_callback() -> None:
    legacy = run_request("task_v1", {"navigation_goal": "g", "url": "u", "webhook_callback_url": "ours", "x": 1})
    assert (legacy["prompt"], legacy["url"], legacy["webhook_url"], legacy["engine"]) == ("g", "u", None, "skyvern-1.0")
    agents = run_request("workflow_run", {"agent_id": "wpid_1", "parameters": {"a": 1}, "webhook_url": "ours"})
    assert (agents["workflow_id"], agents["parameters"], agents["webhook_url"]) == ("wpid_1", {"a": 1}, None)


def test_a_body_without_a_type_is_left_as_it_is() -> None:
    assert shape.completed({"run_id": "x"}) == {"run_id": "x"}
    assert shape.webhook_body(b"not json", {}, {}) == b"not json"

    # Given the poll of a workflow's run with a large output, and details that have it under two further names
    output = {"rows": ["x" * 1000] * 100}
    body = {"run_id": "wr_1", "run_type": "workflow_run", "status": "completed", "output": output, "step_count": 3}
    body["run_request"] = {"workflow_id": "wpid_1", "parameters": {"sku": output}, "title": "Mine"}
    told = {"outputs": output, "parameters": {"sku": output}, "workflow_run_id": "wr_1", "total_steps": 4}
    details = {**told, "workflow_title": "Mine", "total_cost": 0.5, "step_count": 9}

    assert shape.of_details(body, details) == {"total_cost": 0.5, "total_steps": 4}
