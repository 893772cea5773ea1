"""The submit API in front of a simulated Skyvern: written down first, never twice, answered as Skyvern answers."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx2
import pytest
import sqlalchemy as sa

from receiver.ledger import polls
from receiver.submit.limits import SubmitLimits
from simulator.faults import Fault
from tests.servers.scripted import Reply, ScriptedServer
from tests.servers.skyvern import KEY, Simulate, SkyvernSimulator
from tests.servers.submitting import Make, Submitting
from tests.support import queries
from tests.support.waiting import eventually


@pytest.fixture
def rig(submitting: Make, skyvern_simulator: SkyvernSimulator) -> Submitting:
    return submitting(skyvern_simulator.url)


def test_submit_is_recorded_and_sent_with_our_callback(rig: Submitting, skyvern_simulator: SkyvernSimulator) -> None:
    text = (
        b'{"prompt": "p", "n": 12345678901234567890, "webhook_url": "https://app.example/hook", "labels": {"a": "b"}}'
    )

    answer = rig.client.post("/v1/run/tasks", content=text, headers={"x-runhook-labels": "team=billing"})

    assert answer.status_code == 200, answer.text
    (row,) = rig.rows()
    run = skyvern_simulator.run(answer.json()["run_id"])
    assert run.callback == f"{rig.url}/webhooks/skyvern/{row['id']}"
    assert (row["state"], row["run_id"], row["callback_url"]) == ("accepted", run.id, "https://app.example/hook")
    assert json.loads(row["labels"]) == {"a": "b", "team": "billing"}
    assert answer.headers["x-runhook-submission-id"] == row["id"]
    assert run.request["n"] == 12345678901234567890
    assert "labels" not in run.request
    assert row["id"].encode() not in answer.content
    assert rig.url not in answer.text


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/run/agents", {"agent_id": "wpid_1", "webhook_url": "https://app.example/h"}),
        ("/v1/run/workflows/", {"workflow_id": "wpid_1", "parameters": {"a": 1}}),
        ("/v1/run/tasks/login", {"credential_type": "skyvern", "credential_id": "c", "webhook_url": "https://a.b/c"}),
        ("/v1/run/tasks/download_files/", {"navigation_goal": "g"}),
        ("/api/v1/workflows/wpid_1/run?version=2", {"data": {"a": 1}, "webhook_callback_url": "https://a.b/c"}),
        (
            "/api/v1/tasks",
            {"url": "https://x.example", "navigation_goal": "g", "webhook_callback_url": "https://a.b/c"},
        ),
    ],
)
def test_every_way_to_submit_has_our_callback(
    rig: Submitting, skyvern_simulator: SkyvernSimulator, path: str, body: dict[str, Any]
) -> None:
    answer = rig.client.post(path, json=body)

    assert answer.status_code == 200, answer.text
    (row,) = rig.rows()
    told = answer.json()
    run_id = told.get("run_id") or told.get("task_id") or told["workflow_run_id"]
    assert row["run_id"] == run_id
    assert row["callback_url"] == body.get("webhook_url", body.get("webhook_callback_url", ""))
    assert rig.url not in answer.text
    assert skyvern_simulator.run(run_id).callback == f"{rig.url}/webhooks/skyvern/{row['id']}"


@pytest.mark.parametrize(
    "spelt",
    [
        " {}/webhooks/skyvern",
        "{}/webhooks/skyvern/",
        "{}/webhooks/skyvern/sub_" + 32 * "0",
        "{}/webhooks/skyvern?x=1",
        "{}/webhooks/skyvern#x",
        "HTTP://user:pw@{host}.:{port}/webhooks/skyvern",
    ],
)
def test_webhook_url_of_this_receiver_is_dropped(
    submitting: Make, skyvern_simulator: SkyvernSimulator, spelt: str
) -> None:
    rig = submitting(skyvern_simulator.url, allowed_addresses=["127.0.0.1"])
    own = urlsplit(rig.url)
    rig.task(webhook_url=spelt.format(rig.url, host=own.hostname, port=own.port))
    rig.task(webhook_url=f"{rig.url}/webhooks/skyverns")

    ours, other = rig.rows()
    assert ours["callback_url"] == ""
    assert other["callback_url"].endswith("/webhooks/skyverns")


def test_submit_without_public_url_has_no_callback(submitting: Make, skyvern_simulator: SkyvernSimulator) -> None:
    rig = submitting(skyvern_simulator.url, public_url="")

    answer = rig.task(webhook_url="https://app.example/hook")

    assert skyvern_simulator.run(answer.json()["run_id"]).callback is None
    assert rig.rows()[0]["callback_url"] == "https://app.example/hook"


def test_concurrent_requests_with_one_key_make_one_run(submitting: Make, simulate_skyvern: Simulate) -> None:
    sim = simulate_skyvern(ratios={Fault.SLOW: 1.0}, slow_seconds=4.0)
    rig = submitting(sim.url)

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: rig.task("p", {"idempotency-key": "k"}), range(50)))

    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert len(sim.world.runs) == len(rig.rows()) == 1
    assert sum("idempotent-replayed" in answer.headers for answer in answers) == 49


def test_concurrent_identical_requests_make_one_run(
    submitting: Make, simulate_skyvern: Simulate, ledger_url: str
) -> None:
    sim = simulate_skyvern(ratios={Fault.SLOW: 1.0}, slow_seconds=100.0)  # 5 s, in which all are there
    rig = submitting(sim.url, database_url=ledger_url)
    ready = threading.Barrier(50)

    def submit(_: int) -> httpx2.Response:
        ready.wait()
        return rig.task("p")

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(submit, range(50)))

    assert {answer.json()["run_id"] for answer in answers} == set(sim.world.runs)
    assert len(sim.world.runs) == 1
    assert rig.task("p").json()["run_id"] != answers[0].json()["run_id"]


def test_key_with_another_body_is_refused(rig: Submitting, skyvern_simulator: SkyvernSimulator) -> None:
    first = rig.task("one", {"idempotency-key": "k"})

    other = rig.task("two", {"idempotency-key": "k"})
    elses = rig.task("two", {"idempotency-key": "k", "x-api-key": rig.key("submit")})

    assert other.status_code == 422
    assert other.json()["submission_id"] == first.headers["x-runhook-submission-id"]
    assert elses.status_code == 200
    assert len(skyvern_simulator.world.runs) == 2


def test_refusal_is_replayed_but_later_is_retried(submitting: Make, simulate_skyvern: Simulate) -> None:
    sim = simulate_skyvern()
    rig = submitting(sim.url)
    headers = {"idempotency-key": "k"}

    first = rig.client.post("/v1/run/agents", json={}, headers=headers)
    again = rig.client.post("/v1/run/agents", json={}, headers=headers)
    throttled = rig.task("p [429]", {"idempotency-key": "other"})
    made = rig.task("p [429]", {"idempotency-key": "other"})

    assert (first.status_code, again.status_code) == (422, 422)
    assert first.content == again.content
    assert (throttled.status_code, made.status_code) == (429, 200)
    assert [row["state"] for row in rig.rows()] == ["rejected", "rejected", "accepted"]


def test_lost_response_is_resolved_by_the_webhook(submitting: Make, simulate_skyvern: Simulate) -> None:
    sim = simulate_skyvern(run_seconds=20.0)
    rig = submitting(sim.url, limits=SubmitLimits(searching=0.0))
    headers = {"idempotency-key": "k"}

    lost = rig.task("p [drop]", headers)
    (row,) = rig.rows()

    assert lost.status_code == 502
    assert lost.headers["x-runhook-submission-id"] == row["id"]
    (run_id,) = sim.world.runs
    eventually(lambda: rig.rows()[0]["run_id"] == run_id)
    again = rig.task("p [drop]", headers)
    assert (again.status_code, again.json()["run_id"]) == (200, run_id)
    assert len(sim.world.runs) == 1
    assert rig.rows()[0]["state"] == "accepted"


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("/v1/run/tasks", {"run_id": ...}),
        ("/api/v1/workflows/wpid_9/run", {"workflow_id": "wpid_9", "workflow_run_id": ...}),
    ],
)
def test_lost_response_is_found_while_the_caller_waits(
    submitting: Make, simulate_skyvern: Simulate, path: str, shape: dict[str, Any]
) -> None:
    sim = simulate_skyvern(run_seconds=1000.0)
    rig = submitting(sim.url, dispatching=False, polling=True)

    answer = rig.client.post(path, json={"prompt": "p [drop]", "title": "p [drop]"})

    (run_id,) = sim.world.runs
    assert answer.status_code == 200
    assert answer.json().items() >= {name: run_id if value is ... else value for name, value in shape.items()}.items()
    assert rig.rows()[0]["state"] == "accepted"
    assert "/webhooks/" not in answer.text


def test_a_busy_skyvern_is_tried_again_for_no_run_was_created(rig: Submitting) -> None:
    assert rig.task("p [503]").status_code == 200


def test_a_skyvern_that_is_away_is_503_with_retry_after(submitting: Make) -> None:
    rig = submitting("http://127.0.0.1:9")

    answer = rig.task()

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert rig.client.get("/v1/runs/tsk_1").status_code == 503
    assert [row["state"] for row in rig.rows()] == ["rejected"]


def test_chain_labels_need_the_resubmit_scope(submitting: Make, skyvern_simulator: SkyvernSimulator) -> None:
    rig = submitting(skyvern_simulator.url)
    asked = {"prompt": "x", "labels": {"runhook-chain": "tsk_of_another"}}

    refused = rig.client.post("/v1/run/tasks", json=asked)
    assert refused.status_code == 422
    assert "takes a key with the scope resubmit" in refused.text
    assert not skyvern_simulator.world.runs

    headers = {"x-api-key": rig.key("submit", "resubmit")}
    assert rig.client.post("/v1/run/tasks", json=asked, headers=headers).status_code == 200


def test_a_ledger_that_is_away_sends_nothing(submitting: Make, skyvern_simulator: SkyvernSimulator) -> None:
    rig = submitting(skyvern_simulator.url, dispatching=False)
    assert rig.task("p").status_code == 200
    rig.ledger.write(lambda connection: connection.exec_driver_sql("ALTER TABLE submissions RENAME TO gone") and None)

    answer = rig.task("q")

    assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
    assert len(skyvern_simulator.world.runs) == 1


@pytest.mark.parametrize(
    ("scopes", "statuses"),
    [
        (("submit",), (200, 403, 403)),
        (("read",), (403, 200, 403)),
        (("operate",), (403, 403, 200)),
        ((), (403, 403, 403)),
    ],
)
def test_a_key_opens_what_its_scopes_say(rig: Submitting, scopes: tuple[str, ...], statuses: tuple[int, ...]) -> None:
    run_id = rig.task().json()["run_id"]
    headers = {"x-api-key": rig.key(*scopes)}

    answers = (
        rig.task(headers=headers),
        rig.client.get(f"/v1/runs/{run_id}", headers=headers),
        rig.client.post(f"/v1/runs/{run_id}/cancel", headers=headers),
    )

    assert tuple(answer.status_code for answer in answers) == statuses


@pytest.mark.parametrize("key", ["", "rhk_1_x", KEY, "other", "ü".encode().decode("latin-1")])
def test_no_other_key_opens_anything(rig: Submitting, skyvern_simulator: SkyvernSimulator, key: str) -> None:
    answer = rig.client.get("/v1/runs", headers=[(b"x-api-key", key.encode("latin-1"))])

    assert (answer.status_code, answer.json()) == (403, {"detail": "Invalid credentials"})


def test_a_key_may_come_as_a_bearer_token(rig: Submitting) -> None:
    with httpx2.Client(base_url=rig.url, trust_env=False) as client:
        headers = {"authorization": f"Bearer {rig.whole_key}"}
        assert client.get("/v1/runs", headers=headers).status_code == 200


@pytest.mark.parametrize("redis", ["", "redis://127.0.0.1:9/0"])
def test_key_rate_holds_with_redis_or_without(
    submitting: Make, skyvern_simulator: SkyvernSimulator, redis: str
) -> None:
    rig = submitting(skyvern_simulator.url, redis=redis, dispatching=False)
    headers = {"x-api-key": rig.key("read", rate="3/h")}

    statuses = [rig.client.get("/v1/runs", headers=headers).status_code for _ in range(5)]

    assert statuses == [200, 200, 200, 429, 429]
    assert rig.client.get("/v1/runs").status_code == 200


def test_skyverns_key_is_never_shown(submitting: Make, scripted_server: ScriptedServer) -> None:
    rig = submitting(scripted_server.url, dispatching=False)
    leaks = {
        "/v1/a": Reply(200, f'{{"token": "{KEY}"}}'.encode(), {"content-type": "application/json"}),
        "/v1/b": Reply(200, b"{}", {"content-type": "application/json", "etag": KEY}),
        "/v1/c": Reply(307, b"{}", {"location": "http://127.0.0.1:9/"}),
        "/v1/d": Reply(500, f"<p>{KEY}".encode(), {"content-type": "text/html"}),
    }
    for path, reply in leaks.items():
        scripted_server.script = [reply]
        answer = rig.client.get(path)
        assert answer.status_code == 502, path
        assert KEY not in answer.text + str(answer.headers)


def test_final_run_is_read_from_the_ledger(rig: Submitting, skyvern_simulator: SkyvernSimulator) -> None:
    run_id = rig.task(webhook_url="https://app.example/hook").json()["run_id"]

    answer = rig.client.get(f"/v1/runs/{run_id}", params={"wait": 10})

    polls = skyvern_simulator.run(run_id).polls
    again = rig.client.get(f"/v1/runs/{run_id}")
    assert answer.json()["status"] == "completed"
    assert (again.json(), again.headers["x-runhook-from"]) == (answer.json(), "ledger")
    assert polls == skyvern_simulator.run(run_id).polls <= 1
    assert again.headers["x-runhook-submission-id"] == rig.rows()[0]["id"]
    assert rig.url not in again.text


def test_lapsed_urls_are_renewed_from_skyvern(submitting: Make, simulate_skyvern: Simulate) -> None:
    sim = simulate_skyvern()
    rig = submitting(sim.url)
    run_id = rig.task("p [lapsed]").json()["run_id"]

    answer = rig.client.get(f"/v1/runs/{run_id}?wait=10")

    assert answer.headers["x-runhook-from"] == "skyvern"
    recording = answer.json()["recording_url"]
    assert httpx2.get(recording, trust_env=False).status_code == 200


def noted(rig: Submitting, run_id: str) -> tuple[bool, float | None]:
    """Whether the run's end is noted, and when it is polled next."""
    poll = rig.ledger.read(lambda connection: polls.of_runs(connection, [("skyvern", run_id)])).get(("skyvern", run_id))
    return (False, None) if poll is None else (poll.noted_at is not None, poll.due_at)


def test_unknown_run_is_read_upstream_and_its_end_noted(submitting: Make, simulate_skyvern: Simulate) -> None:
    skyvern_simulator = simulate_skyvern(run_seconds=1000.0)
    rig = submitting(skyvern_simulator.url)
    run_id = skyvern_simulator.submit("elsewhere")["run_id"]
    assert rig.client.get(f"/v1/runs/{run_id}").json()["status"] in ("created", "queued", "running")
    unended = noted(rig, run_id)
    skyvern_simulator.client.post(f"/v1/runs/{run_id}/cancel")
    skyvern_simulator.wait_final(run_id)
    began = time.time()

    first = rig.client.get(f"/v1/runs/{run_id}")
    missing = rig.client.get("/v1/runs/tsk_nowhere?wait=5")

    assert unended == (False, None)  # never before the end: it would be taken for one
    assert (first.status_code, first.headers["x-runhook-from"]) == (200, "skyvern")
    assert (missing.status_code, list(missing.json())) == (404, ["detail"])
    is_noted, due_at = noted(rig, run_id)
    assert is_noted
    assert due_at is not None
    assert began + 120 <= due_at <= time.time() + 120
    assert rig.client.get(f"/v1/runs/{run_id}").headers["x-runhook-from"] == "skyvern"
    assert rig.ledger.read(lambda connection: queries.list_events(connection, queries.Filter())) == []


def test_from_skyvern_reads_upstream_without_an_event(rig: Submitting, skyvern_simulator: SkyvernSimulator) -> None:
    hook = "https://ä:pw@app.example/h?a=%20b&c=d#é"
    run_id = rig.task("p", max_steps=7, webhook_url=hook, engine="skyvern-1.0").json()["run_id"]
    eventually(lambda: rig.client.get(f"/v1/runs/{run_id}?wait=5").headers["x-runhook-from"] == "ledger")
    events = rig.ledger.read(lambda connection: queries.list_events(connection, queries.Filter()))

    answer = rig.client.get(f"/v1/runs/{run_id}?from=skyvern")

    assert answer.headers["x-runhook-from"] == "skyvern"
    assert answer.json()["run_request"]["max_steps"] == 7
    assert answer.json()["run_request"]["webhook_url"] == hook == unquote(answer.headers["x-runhook-webhook-url"])
    assert rig.client.get(f"/v1/runs/{run_id}").json()["run_request"] == answer.json()["run_request"]
    for wrong in ("from=ledger", "from=skyvern&wait=5"):
        assert rig.client.get(f"/v1/runs/{run_id}?{wrong}").status_code == 422
    assert rig.ledger.read(lambda connection: queries.list_events(connection, queries.Filter())) == events


def test_corrected_status_keeps_skyverns_in_a_header(submitting: Make, simulate_skyvern: Simulate) -> None:
    sim = simulate_skyvern()
    rig = submitting(sim.url)
    run_id = rig.task("p [tangled]", engine="skyvern-2.0").json()["run_id"]

    eventually(lambda: rig.client.get(f"/v1/runs/{run_id}?wait=5").headers.get("x-runhook-skyvern-status") == "failed")

    assert rig.client.get(f"/v1/runs/{run_id}").json()["status"] == "completed"


def test_a_wait_that_ends_first_gives_the_run_as_it_is(submitting: Make, simulate_skyvern: Simulate) -> None:
    rig = submitting(simulate_skyvern(run_seconds=1000.0).url)
    run_id = rig.task().json()["run_id"]

    answer = rig.client.get(f"/v1/runs/{run_id}?wait=0.4s")

    assert answer.status_code == 200
    assert answer.json()["status"] in ("created", "queued", "running")
    assert rig.client.get(f"/v1/runs/{run_id}?wait=soon").status_code == 422


def test_workflow_path_and_query_are_part_of_the_request(scripted_server: ScriptedServer, submitting: Make) -> None:
    scripted = submitting(scripted_server.url, dispatching=False)
    told = b'{"workflow_id": "w:1", "workflow_run_id": "wr_1"}'
    scripted_server.script = [Reply(200, told, {"content-type": "application/json"})] * 3

    answers = [
        scripted.client.post(path, json={}, headers={"idempotency-key": "k"})
        for path in ("/api/v1/workflows/w%3A1/run?template=true", "/api/v1/workflows/w%3A1/run?template=true")
    ]
    other = scripted.client.post("/api/v1/workflows/w2/run?template=true", json={}, headers={"idempotency-key": "k"})

    assert [answer.json() for answer in answers] == [json.loads(told)] * 2
    assert (other.status_code, [call.path for call in scripted_server.calls]) == (
        422,
        ["/api/v1/workflows/w%3A1/run?template=true"],
    )
    assert [(row["call"], row["run_id"]) for row in scripted.rows()] == [("legacy_workflow", "wr_1")]


def test_unrecorded_key_use_refuses_no_request(rig: Submitting) -> None:
    def refuse(connection: sa.Connection) -> None:
        connection.exec_driver_sql("CREATE TRIGGER no_notes BEFORE UPDATE ON keys BEGIN SELECT RAISE(ABORT, 'no'); END")

    rig.ledger.write(refuse)

    assert rig.client.get("/v1/runs").status_code == 200


def test_other_calls_pass_with_skyverns_key(rig: Submitting) -> None:
    sent = {"x-user-agent": "sdk", "x-forwarded-for": "1.2.3.4", "cookie": "a=b", "authorization": "Bearer x"}
    sent |= {"x-http-method-override": "DELETE", "x-original-url": "/v1/x", "x-rewrite-url": "/v1/x", "x-host": "y"}

    answer = rig.client.post("/v1/_sim/echo?a=%2F&b=1", content=b'{"x": 1.0}', headers=sent)

    said = answer.json()
    assert (said["key"], said["query"], said["body"], said["method"]) == (0, "a=%2F&b=1", '{"x": 1.0}', "POST")
    assert said["headers"]["x-user-agent"] == "sdk"
    assert not sent.keys() - {"x-user-agent"} & said["headers"].keys()
    assert rig.whole_key not in answer.text
