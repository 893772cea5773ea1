"""A webhook becomes what Skyvern answers to a poll: checked on the simulator's bodies, which are compared with a real
server's."""

import json
from typing import Any

import pytest

from receiver.domain import members, shape
from receiver.submit.polling_body import polled
from simulator import bodies, run_request
from simulator.runs import RUN_TYPES, SimRun, now

CALLBACK = "https://hooks.example/webhooks/skyvern/sub_1"
TASK: dict[str, Any] = {
    "prompt": "Get the invoice", "url": "https://suppliers.example/", "title": "Invoices", "max_steps": 12,
    "max_screenshot_scrolls": 2, "totp_identifier": "me@example.com", "totp_url": "https://totp.example/",
    "proxy_location": "RESIDENTIAL_DE", "data_extraction_schema": {"type": "object"},
    "error_code_mapping": {"OUT": "sold out"}, "extra_http_headers": {"a": "b"}, "file_ids": ["file_1"],
    "run_with": "code",
}  # fmt: skip
AGENT: dict[str, Any] = {
    "agent_id": "wpid_1", "title": "asked for", "parameters": {"order": 7}, "proxy_location": "NONE",
    "totp_identifier": "me@example.com", "max_screenshot_scrolls": 3, "browser_session_id": "pbs_1",
    "browser_type": "chrome", "ai_fallback": False, "run_metadata": {"a": "b"}, "max_elapsed_time_minutes": 5,
}  # fmt: skip


def run_of(run_type: str, request: dict[str, Any]) -> SimRun:
    moment = now()
    run = SimRun(
        number=2, id="wr_1" if run_type == "workflow_run" else "tsk_1", type=run_type, request=request, key="k",
        callback=CALLBACK, base="https://sky.example", faults=frozenset(), created_at=moment, modified_at=moment,
        title="The workflow's own" if run_type == "workflow_run" else request.get("title"),
        workflow_id=request.get("agent_id"), max_steps=request.get("max_steps"),
    )  # fmt: skip
    if run_type == "task_v2":
        run.workflow_run_id = "wr_9"
    run.move("running")
    run.end("completed", {"n": 1})
    return run


def plain(body: dict[str, Any]) -> dict[str, Any]:
    return dict(json.loads(json.dumps(body, default=str)))


@pytest.mark.parametrize("request_kept", [True, False])
@pytest.mark.parametrize("run_type", sorted({*RUN_TYPES.values(), "workflow_run"}))
def test_a_webhook_becomes_the_answer_to_a_poll_member_by_member(run_type: str, request_kept: bool) -> None:
    asked = AGENT if run_type == "workflow_run" else TASK
    run = run_of(run_type, asked)
    sent, direct = (plain(each) for each in (bodies.webhook(run, str), bodies.answer(run, str)))
    kept = {"run_request": run_request.submitted(run)} if request_kept else {}
    completion = shape.completion_of(shape.completed(sent), request=asked) if request_kept else {}

    found = polled(sent, shape.completed(sent, completion), kept.get("run_request"), CALLBACK)

    assert list(found) == list(members.POLL[members.family(run_type)])
    if request_kept:
        expected = direct
        # Skyvern's answer has the session of the request; of a task's it has none, and the simulator plays none at all.
        if run_type == "workflow_run":
            expected |= {name: asked[name] for name in ("browser_session_id", "max_screenshot_scrolls")}
        assert found == expected
    elif run_type == "workflow_run":
        assert found["run_request"]["parameters"] == {"order": 7}
        assert found["ai_fallback"] is None  # nobody says
    else:
        assert found["run_request"] is None
        assert {**found, "run_request": 0} == {**direct, "run_request": 0}


@pytest.mark.parametrize("run_type", ["task_v1", "task_v2", "workflow_run"])
def test_an_answer_to_a_poll_stays_as_it_is(run_type: str) -> None:
    run = run_of(run_type, AGENT if run_type == "workflow_run" else TASK)
    direct = plain(bodies.answer(run, str))
    completion = shape.completion_of(shape.completed(direct), request=run.request)

    found = polled(direct, shape.completed(direct, completion), run_request.submitted(run), "")

    expected = direct
    if run_type == "workflow_run":
        expected |= {name: AGENT[name] for name in ("browser_session_id", "max_screenshot_scrolls")}
    assert found == expected
    assert found["output"] is direct["output"]


GEO = {"country": "US", "subdivision": "CA", "city": None, "isISP": False}
# A request, and Skyvern 1.0.56's `proxy_location` in GET: its SDK sends a null, other callers omit the member.
PROXIES: list[tuple[dict[str, Any], Any]] = [
    ({}, "RESIDENTIAL"),
    ({"proxy_location": None}, None),
    ({"proxy_location": "RESIDENTIAL_DE"}, "RESIDENTIAL_DE"),
    ({"proxy_location": GEO}, GEO),
]


@pytest.mark.parametrize(("asked", "expected"), PROXIES)
@pytest.mark.parametrize("known", ["request", "answer", "both"])
@pytest.mark.parametrize("run_type", sorted(RUN_TYPES.values()))
def test_proxy_of_a_submitted_task_is_skyverns(run_type: str, known: str, asked: dict[str, Any], expected: Any) -> None:
    run = run_of(run_type, {"prompt": "Get the invoice", **asked})
    sent, direct = (plain(each) for each in (bodies.webhook(run, str), bodies.answer(run, str)))
    request = run.request if known != "answer" else {"prompt": "Get the invoice"}
    completion = shape.completion_of(shape.completed(sent), request=request)
    answered = run_request.submitted(run) if known != "request" else None

    found = polled(sent, shape.completed(sent, completion), answered)

    assert found["run_request"]["proxy_location"] == direct["run_request"]["proxy_location"] == expected


@pytest.mark.parametrize(("asked", "expected"), PROXIES)
def test_proxy_of_an_agents_run_is_its_webhooks(asked: dict[str, Any], expected: Any) -> None:
    run = run_of("workflow_run", {"agent_id": "wpid_1", **asked})
    sent = plain(bodies.webhook(run, str))

    for request in (run.request, None):  # None: Runhook did not submit the run
        completion = shape.completion_of(shape.completed(sent), request=request)
        completed = shape.completed(sent, completion)
        assert completed["run_request"]["proxy_location"] == expected
        assert polled(sent, completed)["run_request"]["proxy_location"] == expected


@pytest.mark.parametrize("run_type", sorted({*RUN_TYPES.values(), "workflow_run"}))
@pytest.mark.parametrize(("asked", "expected"), PROXIES)
def test_proxy_of_an_imported_run_is_the_polls(run_type: str, asked: dict[str, Any], expected: Any) -> None:
    direct = plain(bodies.answer(run_of(run_type, {"agent_id": "wpid_1", "prompt": "p", **asked}), str))

    assert polled(direct, shape.completed(direct))["run_request"]["proxy_location"] == expected


@pytest.mark.parametrize("run_type", sorted(RUN_TYPES.values()))
def test_request_of_a_task_not_submitted_here_is_null(run_type: str) -> None:
    sent = plain(bodies.webhook(run_of(run_type, TASK), str))

    assert polled(sent, shape.completed(sent))["run_request"] is None


def test_older_call_has_no_default_proxy() -> None:
    run = run_of("task_v1", {"navigation_goal": "Get the invoice"})
    sent, direct = (plain(each) for each in (bodies.webhook(run, str), bodies.answer(run, str)))
    completion = shape.completion_of(shape.completed(sent), request=run.request, older=True)

    found = polled(sent, shape.completed(sent, completion))

    assert found["run_request"]["proxy_location"] is direct["run_request"]["proxy_location"] is None


def test_what_is_new_in_a_later_version_is_not_lost() -> None:
    sent = plain(bodies.webhook(run_of("task_v1", TASK), str)) | {"carbon": 1}

    found = polled(sent, shape.completed(sent))

    assert found["carbon"] == 1
    assert "task_id" not in found
