"""The resubmit sink: a failed run is asked for again once, as it was first asked for, and never past the budget."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from handlers.contract import Delivery, Receipt, Refused, Unavailable
from handlers.resubmit import ResubmitOptions, ResubmitSink
from handlers.resubmit.request import MASKS
from handlers.testing.conformance import (
    NoServices,
    SinkConformance,
    SinkUnderTest,
    closed_port,
    make_delivery,
    sample_run,
    silent_port,
)
from receiver.domain.redaction import MASK
from simulator.faults import Fault
from tests.servers.http import Reply, ScriptedServer
from tests.servers.skyvern import SkyvernSimulator
from tests.servers.submit_api import ASKED, FakeSubmitApi
from tests.servers.submitting import Submitting

KEY = "rhk_5e1f_key-of-the-sink"
LASTING = {"timeout": 60, "max_age": 1e9}  # the sample came long ago
REFUSED = json.dumps({"detail": [{"type": "x", "loc": ["body", "max_steps"], "msg": "not a number", "input": "MARK"}]})


@pytest.fixture
def api() -> Iterator[FakeSubmitApi]:
    with FakeSubmitApi() as standin:
        yield standin


@pytest.fixture
def sink_at() -> Iterator[Callable[..., ResubmitSink]]:
    made: list[ResubmitSink] = []

    def make(url: str, **options: Any) -> ResubmitSink:
        validated = ResubmitOptions.model_validate({**LASTING, "base_url": url, "key": KEY, **options})
        made.append(ResubmitSink("again", validated, NoServices()))
        return made[-1]

    yield make
    for each in made:
        each.close()


MakeSink = Callable[..., ResubmitSink]


class TestResubmitConforms(SinkConformance):
    @pytest.fixture
    def target(self, api: FakeSubmitApi) -> Iterator[SinkUnderTest]:
        options = {**LASTING, "base_url": api.url, "key": KEY}
        with silent_port() as silent, ScriptedServer() as busy, ScriptedServer() as rude:
            busy.script += [Reply(503)] * 2
            rude.script += [Reply(drop=True)] * 2
            yield SinkUnderTest(
                ResubmitSink,
                options,
                lambda: [*api.made, *["a test"] * api.tests],
                idempotent=True,
                is_marked=lambda item: item == "a test",
                secrets=[KEY],
                away={
                    "nothing listens": {**options, "base_url": f"http://127.0.0.1:{closed_port()}"},
                    "never answers": {**options, "base_url": f"http://127.0.0.1:{silent}", "timeout": 0.5},
                    "is busy": {**options, "base_url": busy.url},
                    "hangs up": {**options, "base_url": rude.url},
                },
            )


# --- The request


def test_the_request_is_the_first_one_without_what_was_not_given(api: FakeSubmitApi, sink_at: MakeSink) -> None:
    receipt = sink_at(api.url).send(make_delivery(sample_run("tsk_1"), labels={"team": "billing"}))

    assert api.submitted == {
        "prompt": "Get the invoice",
        "engine": "skyvern-1.0",
        "max_steps": 25,
        "labels": {"team": "billing", "runhook-chain": "tsk_1", "runhook-try": "2"},
    }
    assert receipt.id == "tsk_again_0"
    assert receipt.keys[0].startswith("sub_again-")
    assert receipt.urls == {"next try": "https://app.example/1"}
    assert receipt.note == "try 2 of 3 since tsk_1"
    asked, _, sent = api.requests
    assert asked.path == "/v1/runs/tsk_1?from=skyvern"
    assert (sent.path, sent.headers["x-api-key"]) == ("/v1/run/tasks", KEY)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"max_steps": 50}, {"max_steps": 50}),
        ({"max_steps": "{{ request.max_steps * try }}"}, {"max_steps": 50}),
        ({"title": "{{ labels.team }}: {{ run.step_count }}"}, {"title": "billing: 3"}),
        ({"title": "{{ 17 | string | tojson }}"}, {"title": "17"}),
        ({"engine": None, "prompt": "Try {{ try }}"}, {"engine": None, "prompt": "Try 2"}),
        ({"model": {"name": "other", "old": None}}, {"model": {"name": "other"}}),
        ({"tags": ["{{ try }}", {"a": "{{ 'NaN' }}"}]}, {"tags": [2, {"a": "NaN"}]}),
    ],
)
def test_changes_are_a_merge_patch_whose_texts_may_be_templates(
    api: FakeSubmitApi, sink_at: MakeSink, changes: dict[str, Any], expected: dict[str, Any]
) -> None:
    sink_at(api.url, changes=changes).send(make_delivery(labels={"team": "billing"}))
    assert {name: api.submitted.get(name) for name in expected} == expected


def test_workflow_keeps_parameters_and_sends_steps_in_header(api: FakeSubmitApi, sink_at: MakeSink) -> None:
    api.asked = {"workflow_id": "wpid_1", "parameters": {"a": 1, "b": [2]}, "webhook_url": "https://app.example/h"}
    api.beside = {"run_with": "agent", "ai_fallback": None}
    run = sample_run("wr_1", run_type="workflow_run", ai_fallback=True, extra_http_headers={"x": "y"})

    sink_at(api.url, changes={"max_steps": 50, "parameters": {"a": 3}}).send(make_delivery(run))

    sent = api.requests[-1]
    assert (sent.path, sent.headers["x-max-steps-override"]) == ("/v1/run/workflows", "50")
    told = {name: value for name, value in api.submitted.items() if name != "labels"}
    assert told == {
        "workflow_id": "wpid_1",
        "parameters": {"a": 3, "b": [2]},
        "webhook_url": "https://app.example/h",
        "run_with": "agent",
        "ai_fallback": True,
        "extra_http_headers": {"x": "y"},
    }


@pytest.mark.parametrize("mask", MASKS)
def test_what_is_masked_where_it_is_told_is_never_sent(api: FakeSubmitApi, sink_at: MakeSink, mask: str) -> None:
    api.asked = {**ASKED, "cdp_connect_headers": {"x-key": mask}}
    delivery = make_delivery()

    with pytest.raises(
        Refused, match="cdp_connect_headers: masked, here and in Skyvern's response; set it in changes, or null"
    ):
        sink_at(api.url).send(delivery)
    assert api.made == {}

    sink_at(api.url, changes={"cdp_connect_headers": {"x-key": "real"}}).send(delivery)
    assert api.submitted["cdp_connect_headers"] == {"x-key": "real"}
    sink_at(api.url, changes={"cdp_connect_headers": None}).send(delivery)
    assert "cdp_connect_headers" not in api.submitted


TASK = {"prompt": "Get the invoice", "engine": "skyvern-1.0", "max_steps": 25, "file_ids": ["file_1"], "title": "T"}
AGENT = {"agent_id": "wpid_1", "parameters": {"a": 1}, "run_metadata": {"k": "v"}}
OLDER = {"navigation_goal": "g", "navigation_payload": {"a": 1}}
HOOK, STEPS = "https://app.example/h", {"x-max-steps-override": "7"}
# What was kept of a request; the changes; what is sent; and its steps in a header.
KEPT: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], str | None]] = {
    "a task": ({"path": "/v1/run/tasks", "request": {**ASKED, **TASK, "url": None}}, {}, TASK, None),
    "an agent": (
        {"path": "/v1/run/agents", "query": "template=true", "headers": STEPS, "request": AGENT, "webhook_url": HOOK},
        {}, {**AGENT, "webhook_url": HOOK}, "7",
    ),
    "steps that change": (
        {"path": "/v1/run/workflows", "headers": STEPS, "request": {"workflow_id": "wpid_1"}},
        {"max_steps": "{{ request.max_steps * try }}"}, {"workflow_id": "wpid_1"}, "14",
    ),
    "the older call": (
        {"path": "/api/v1/tasks", "request": {**OLDER, "totp_verification_url": MASK}, "webhook_url": HOOK},
        {}, {**OLDER, "totp_verification_url": "https://totp.example", "webhook_callback_url": HOOK}, None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", KEPT)
def test_the_request_that_was_kept_is_sent_again_as_it_was(api: FakeSubmitApi, sink_at: MakeSink, case: str) -> None:
    kept, changes, expected, steps = KEPT[case]
    api.asked = {"prompt": "an echo, which has less", "totp_url": "https://totp.example"}
    api.kept = kept

    sink_at(api.url, changes=changes).send(make_delivery(sample_run("tsk_1")))

    sent = api.requests[-1]
    assert sent.path == kept["path"] + ("?template=true" if "query" in kept else "")
    assert {name: value for name, value in api.submitted.items() if name != "labels"} == expected
    assert sent.headers.get("x-max-steps-override") == steps


def test_masked_fields_come_from_skyvern_or_are_refused(api: FakeSubmitApi, sink_at: MakeSink) -> None:
    api.asked = {"prompt": "p", "parameters": {"user": "me", "password": "real"}}
    request = {"workflow_id": "wpid_1", "parameters": {"user": "me", "password": MASK}}
    api.kept = {"path": "/v1/run/agents", "request": request}
    delivery = make_delivery(sample_run("tsk_1"))

    sink_at(api.url).send(delivery)
    assert api.submitted["parameters"] == {"user": "me", "password": "real"}

    api.kept = {"path": "/v1/run/agents", "request": {**request, "extra_http_headers": {"authorization": MASK}}}
    with pytest.raises(Refused, match="extra_http_headers: masked, here and in Skyvern's response"):
        sink_at(api.url).send(delivery)


def test_run_restarted_by_skyvern_counts_as_the_submitted_run(api: FakeSubmitApi, sink_at: MakeSink) -> None:
    api.beside_headers = {"x-runhook-submitted-run": "wr_first"}

    receipt = sink_at(api.url).send(make_delivery(sample_run("wr_second")))
    again = sink_at(api.url).send(make_delivery(sample_run("wr_third")))

    assert receipt.note == "try 2 of 3 since wr_first"
    assert (again.id, again.note) == (receipt.id, "try 2 of 3 since wr_first, submitted before")
    assert len(api.made) == 1


@pytest.mark.parametrize("told", ["in the body", "by Runhook"])
def test_run_restarted_by_skyvern_is_not_submitted_again(api: FakeSubmitApi, sink_at: MakeSink, told: str) -> None:
    run = sample_run("wr_1")
    if told == "in the body":
        run = {**run, "retried_by_workflow_run_id": "wr_2"}
    else:
        api.beside_headers = {"x-runhook-retried-by": "wr_2"}

    receipt = sink_at(api.url).send(make_delivery(run))

    assert "not submitted again" in receipt.note
    assert receipt.id == "wr_1"
    assert api.made == {}


def test_the_first_mask_is_that_of_the_receiver() -> None:
    assert MASKS[0] == MASK


@pytest.mark.parametrize("asked", [None, {}, {"prompt": None}, ["prompt"]])
def test_a_run_whose_request_is_not_told_is_refused(api: FakeSubmitApi, sink_at: MakeSink, asked: Any) -> None:
    api.asked = asked
    with pytest.raises(Refused, match="the request is unknown"):
        sink_at(api.url).send(make_delivery())
    assert api.made == {}


# --- Whether the run is submitted again


def old(delivery: Delivery, hours: float) -> Delivery:
    return replace(delivery, received_at=datetime.now(UTC) - timedelta(hours=hours))


@pytest.mark.parametrize(
    ("delivery", "note"),
    [
        (make_delivery(sample_run(status="completed")), "the run is completed"),
        (make_delivery(sample_run(status="canceled")), "the run is canceled"),
        (make_delivery(sample_run(status="running")), "not known to have ended"),
        (make_delivery(sample_run(retry_pending=True)), "Skyvern itself will try"),
        (make_delivery(labels={"runhook-try": "3", "runhook-chain": "tsk_1"}), "budget is spent: 3 tries since tsk_1"),
        (make_delivery(labels={"runhook-try": "9999"}), "budget is spent"),
        (old(make_delivery(), 25), "its result came 25 h ago"),
    ],
)
def test_run_that_needs_no_retry_gets_a_note_without_a_request(
    api: FakeSubmitApi, sink_at: MakeSink, delivery: Delivery, note: str
) -> None:
    receipt = sink_at(api.url, max_age=86_400 if "h ago" in note else 1e9).send(delivery)

    assert receipt.id == delivery.run_id
    assert note in receipt.note
    assert receipt.note.endswith("not submitted again")
    assert api.requests == []


@pytest.mark.parametrize("text", ["two", "", "0", "-1", "1e3", "12345", "²"])
def test_a_count_that_nobody_can_read_ends_the_chain(api: FakeSubmitApi, sink_at: MakeSink, text: str) -> None:
    with pytest.raises(Refused, match="runhook-try"):
        sink_at(api.url).send(make_delivery(labels={"runhook-try": text}))
    assert api.requests == []


@pytest.mark.parametrize("beside", [{"status": "completed"}, {"status": "running"}, {"retry_pending": True}])
def test_run_that_no_longer_failed_is_not_submitted_again(
    api: FakeSubmitApi, sink_at: MakeSink, beside: dict[str, Any]
) -> None:
    api.beside = beside
    assert "did not fail" in sink_at(api.url).send(make_delivery()).note
    assert api.made == {}


def test_two_events_of_one_run_make_one_new_run(api: FakeSubmitApi, sink_at: MakeSink) -> None:
    sink = sink_at(api.url)
    first = sink.send(make_delivery(sample_run("tsk_1")))
    again = sink.send(make_delivery(sample_run("tsk_1", failure_reason="another")))
    assert first.id == again.id
    assert again.note.endswith("submitted before")
    assert len(api.made) == 1


def test_server_other_than_runhook_gets_no_submission(api: FakeSubmitApi, sink_at: MakeSink) -> None:
    api.script = [Reply(200, body=json.dumps({"status": "failed", "run_request": ASKED}).encode())]
    with pytest.raises(Refused, match="not Runhook's submit API"):
        sink_at(api.url).send(make_delivery())
    assert api.made == {}


# --- Answers of the API


@pytest.mark.parametrize(
    ("reply", "kind", "words"),
    [
        (Reply(400, body=b'{"detail": "Invalid engine"}'), Refused, "127.0.0.1 answered 400: Invalid engine$"),
        (Reply(404, body=b'{"detail": "Task run not found"}'), Refused, "404: Task run not found"),
        (Reply(422, {"x-runhook-submission-id": "sub_1"}, REFUSED.encode()), Refused, r"steps: not a number \(sub_1\)"),
        (Reply(422, body=b"<html>" + KEY.encode()), Refused, "answered 422$"),
        (Reply(400, body=json.dumps({"detail": f"bad\n key {KEY}"}).encode()), Refused, "bad key …$"),
        (Reply(302, {"location": "https://elsewhere.example/"}), Refused, "redirects are not followed"),
        (Reply(403, body=b'{"detail": "Invalid credentials"}'), Unavailable, "credentials; the key needs the scopes"),
        (Reply(409, {"retry-after": "5"}), Unavailable, "409"),
        (Reply(429, {"retry-after": "5"}), Unavailable, "429"),
        (Reply(503, {"retry-after": "5"}), Unavailable, "503"),
        (Reply(502, body=b'{"detail": "what became of the call is not known"}'), Unavailable, "not known"),
        (Reply(200, {"x-runhook-from": "skyvern"}, b"<html>"), Unavailable, "not a JSON object"),
        (Reply(200, {"x-runhook-from": "skyvern"}, b"[]"), Unavailable, "not a JSON object"),
    ],
)
@pytest.mark.parametrize("call", ["the look", "the submit"])
def test_an_answer_means_one_of_three_things(
    api: FakeSubmitApi, sink_at: MakeSink, reply: Reply, kind: type[Exception], words: str, call: str
) -> None:
    look = Reply(200, {"x-runhook-from": "skyvern"}, json.dumps({"status": "failed", "run_request": ASKED}).encode())
    api.script = [reply] if call == "the look" else [look, reply]

    with pytest.raises(kind) as caught:
        sink_at(api.url).send(make_delivery())

    assert re.search(words, str(caught.value))
    assert "MARK" not in str(caught.value)
    if isinstance(caught.value, Unavailable):
        assert caught.value.retry_after == (5.0 if "retry-after" in reply.headers else None)


def test_an_answer_without_a_run_id_is_tried_again(api: FakeSubmitApi, sink_at: MakeSink) -> None:
    look = Reply(200, {"x-runhook-from": "skyvern"}, json.dumps({"status": "failed", "run_request": ASKED}).encode())
    api.script = [look, Reply(200, body=b"{}")]
    with pytest.raises(Unavailable, match="lacks the new run's id"):
        sink_at(api.url).send(make_delivery())


@pytest.mark.parametrize("status", [403, 503])
def test_a_test_tells_of_a_key_that_may_not_submit(api: FakeSubmitApi, sink_at: MakeSink, status: int) -> None:
    api.script = [Reply(200, body=b"[]"), Reply(status)]
    with pytest.raises(Unavailable):
        sink_at(api.url).send(make_delivery(test=True))


# --- In front of the real submit API


@pytest.mark.parametrize("kind", ["task", "workflow", "task_v2"])
def test_the_real_submit_api_gives_a_request_that_it_takes_again(
    submitting: Callable[..., Submitting],
    simulate_skyvern: Callable[..., SkyvernSimulator],
    sink_at: MakeSink,
    kind: str,
) -> None:
    sim = simulate_skyvern(ratios={Fault.FAIL: 1.0})
    rig = submitting(sim.url)
    path = "/v1/run/workflows" if kind == "workflow" else "/v1/run/tasks"
    fields: dict[str, Any] = {
        "task": {"prompt": "p", "max_steps": 7, "engine": "skyvern-1.0"},
        "task_v2": {"prompt": "p", "url": "https://a.example", "engine": "skyvern-2.0"},
        "workflow": {"workflow_id": "wpid_1", "parameters": {"a": "[redacted] is fine inside of a text"}},
    }[kind]
    answer = rig.client.post(path, json={**fields, "webhook_url": "https://app.example/h", "labels": {"team": "b"}})
    run_id = answer.json()["run_id"]
    rig.client.get(f"/v1/runs/{run_id}?wait=100")

    sink = sink_at(rig.url, key=rig.key("submit", "read", "resubmit"))
    first = sink.send(make_delivery(sample_run(run_id), labels={"team": "b"}))
    again = sink.send(make_delivery(sample_run(run_id), labels={"team": "b"}))

    assert (first.id, again.id) == (again.id, first.id)
    assert len(sim.world.runs) == 2
    asked = sim.run(first.id).request
    assert {name: asked.get(name) for name in fields} == fields
    old_row, new_row = rig.rows()
    assert new_row["callback_url"] == old_row["callback_url"] == "https://app.example/h"
    assert json.loads(new_row["labels"]) == {"team": "b", "runhook-chain": run_id, "runhook-try": "2"}
    assert first.keys == (new_row["id"],)
    assert sim.run(first.id).callback == f"{rig.url}/webhooks/skyvern/{new_row['id']}"


def test_refused_request_can_be_fixed_and_replayed(
    submitting: Callable[..., Submitting], simulate_skyvern: Callable[..., SkyvernSimulator], sink_at: MakeSink
) -> None:
    sim = simulate_skyvern(ratios={Fault.FAIL: 1.0})
    rig = submitting(sim.url)
    run_id = rig.task("p").json()["run_id"]
    rig.client.get(f"/v1/runs/{run_id}?wait=100")
    key, delivery = rig.key("submit", "read", "resubmit"), make_delivery(sample_run(run_id))

    with pytest.raises(Refused, match=r"max_steps: .*integer"):
        sink_at(rig.url, key=key, changes={"max_steps": "many"}).send(delivery)
    right = sink_at(rig.url, key=key, changes={"max_steps": 50})
    receipt = right.send(delivery)

    assert isinstance(receipt, Receipt)
    assert sim.run(receipt.id).max_steps == 50
    with pytest.raises(Refused, match="used before for another request"):
        sink_at(rig.url, key=key, changes={"max_steps": 60}).send(delivery)
    assert len(sim.world.runs) == 2


def test_a_test_reaches_the_real_submit_api_and_makes_no_run(
    submitting: Callable[..., Submitting], skyvern_simulator: SkyvernSimulator, sink_at: MakeSink
) -> None:
    rig = submitting(skyvern_simulator.url)

    receipt = sink_at(rig.url, key=rig.key("submit", "read", "resubmit")).send(make_delivery(test=True))

    assert "only tested" in receipt.note
    assert rig.rows() == []
    assert skyvern_simulator.world.runs == {}
    for scopes in (["read"], ["submit"]):
        with pytest.raises(Unavailable, match="scopes submit, read and resubmit"):
            sink_at(rig.url, key=rig.key(*scopes)).send(make_delivery(test=True))
