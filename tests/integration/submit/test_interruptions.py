"""How calls of the submit API end when something changes: a hang-up, a revoked key, a late answer."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from receiver.dispatch.dispatcher import Dispatcher
from receiver.domain.api_key import digest
from receiver.ledger import Ledger
from receiver.ledger.access import api_keys
from receiver.submit.limits import SubmitLimits
from tests.servers.scripted import Reply, ScriptedServer
from tests.servers.skyvern import Simulate, SkyvernSimulator
from tests.servers.submitting import Make, Submitting
from tests.support.dispatching import LABEL_ROUTES, dispatch, make_labelled_dispatcher
from tests.support.events import body, event
from tests.support.ledger import states
from tests.support.waiting import PATIENCE, Stopwatch, eventually

RUN = {
    "run_type": "task_v1",
    "status": "queued",
    "created_at": "2026-01-01T00:00:00",
    "modified_at": "2026-01-01T00:00",
}


def run(run_id: str, **when: Any) -> Reply:
    return Reply(200, json.dumps({"run_id": run_id, **RUN}).encode(), {"content-type": "application/json"}, **when)


def revoke(rig: Submitting, key: str) -> None:
    def work(connection: Any) -> None:
        found = api_keys.by_hashes(connection).get(digest(key))
        assert found is not None
        assert api_keys.revoke(connection, found.id, time.time())

    rig.ledger.write(work)


PROMPT = b'{"prompt": "p"}'


def submit_and_hang_up(rig: Submitting, condition: Callable[[], Any], headers: str = "") -> None:
    """Submit a task, and close the connection without waiting for more than `condition`."""
    head = f"POST /v1/run/tasks HTTP/1.1\r\nhost: x\r\nx-api-key: {rig.whole_key}\r\ncontent-length: {len(PROMPT)}\r\n"
    with socket.create_connection(("127.0.0.1", urlsplit(rig.url).port or 0), timeout=PATIENCE) as connection:
        connection.sendall(f"{head}{headers}\r\n".encode() + PROMPT)
        eventually(condition)


def test_retry_after_hang_up_returns_the_existing_run(submitting: Make, scripted_server: ScriptedServer) -> None:
    rig = submitting(scripted_server.url, dispatching=False)
    late = threading.Event()
    scripted_server.script = [run("tsk_1", until=late)]
    scripted_server.default = run("tsk_1")

    submit_and_hang_up(rig, lambda: scripted_server.calls)
    rig.client.get("/healthz")  # that it hung up is known before there is an answer: what came later is answered
    late.set()
    eventually(lambda: rig.rows()[0]["state"] == "accepted")
    again = rig.client.post("/v1/run/tasks", content=PROMPT)

    assert (again.status_code, again.json()["run_id"]) == (200, "tsk_1")
    assert again.headers["x-runhook-submission-id"] == rig.rows()[0]["id"]
    assert [call.method for call in scripted_server.calls] == ["POST", "GET"]
    rig.client.post("/v1/run/tasks", content=PROMPT)
    assert [call.method for call in scripted_server.calls] == ["POST", "GET", "POST"]  # this caller knew of it


def test_hanging_skyvern_delays_submits_briefly(submitting: Make, scripted_server: ScriptedServer) -> None:
    limits = SubmitLimits(searching=0.5)
    rig = submitting(scripted_server.url, dispatching=False, limits=limits)
    all_there, ended = threading.Event(), threading.Event()
    scripted_server.script = [Reply(500, b'{"error": "x"}', until=all_there)] * 12
    scripted_server.default = Reply(200, b"[]", until=ended)

    with ThreadPoolExecutor(12) as pool:
        asked = pool.map(lambda n: rig.client.post("/v1/run/tasks", json={"prompt": f"p{n}"}), range(12))
        eventually(lambda: len(scripted_server.calls) == 12)
        watch = Stopwatch()
        all_there.set()
        answers = list(asked)
        watch.at_most(5)
        ended.set()

    assert {answer.status_code for answer in answers} == {500}
    assert {row["state"] for row in rig.rows()} == {"unknown"}


def test_a_body_that_trickles_is_not_waited_for(submitting: Make, skyvern_simulator: SkyvernSimulator) -> None:
    rig = submitting(skyvern_simulator.url, dispatching=False, limits=SubmitLimits(body=0.5))
    head = f"POST /v1/run/tasks HTTP/1.1\r\nhost: x\r\nx-api-key: {rig.whole_key}\r\ncontent-length: 100\r\n\r\n"

    with socket.create_connection(("127.0.0.1", urlsplit(rig.url).port or 0), timeout=PATIENCE) as connection:
        connection.sendall(head.encode() + b'{"prompt": ')
        said = b"".join(iter(lambda: connection.recv(4096), b""))

    assert said.startswith(b"HTTP/1.1 408 ")
    assert b'{"detail": "The body did not come in time"}' in said
    assert rig.rows() == []


def test_revoked_key_gets_nothing_while_waiting(submitting: Make, simulate_skyvern: Simulate) -> None:
    rig = submitting(simulate_skyvern(run_seconds=1000.0).url)
    run_id = rig.task().json()["run_id"]
    key = rig.key("read")

    def ask() -> httpx2.Response:
        with httpx2.Client(base_url=rig.url, headers={"x-api-key": key}, trust_env=False, timeout=30) as client:
            return client.get(f"/v1/runs/{run_id}?wait=8")

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask)
        eventually(lambda: rig.held() == 1)
        revoke(rig, key)
        assert rig.task(headers={"x-api-key": "rhk_unknown_x"}).status_code == 403  # for which the keys are read again
        reply = waiting.result(PATIENCE)

    assert (reply.status_code, reply.json()) == (403, {"detail": "Invalid credentials"})


JSON = {"content-type": "application/json"}
TIMES = {"created_at": "2026-11-25T10:00:00", "modified_at": "2026-11-25T10:00:01"}
WEBHOOK = event(body("tsk_1", **TIMES))


@pytest.fixture
def rig(submitting: Callable[..., Submitting], scripted_server: ScriptedServer) -> Submitting:
    """A receiver without workers, with the routes of the dispatcher."""
    sinks = {name: {"type": "http", "url": "https://app.example"} for name in ("results", "billing")}
    routes = [each.model_dump(exclude_unset=True) for each in LABEL_ROUTES]
    limits = SubmitLimits(searching=0.0)
    return submitting(scripted_server.url, dispatching=False, sinks=sinks, routes=routes, limits=limits)


@pytest.fixture
def dispatcher(rig: Submitting, redis_url: str) -> Iterator[Dispatcher]:
    it = make_labelled_dispatcher(Ledger(rig.settings.database_url), redis_url)
    yield it
    it.close()


def test_answer_after_the_webhook_queues_the_callback(
    rig: Submitting, scripted_server: ScriptedServer, dispatcher: Dispatcher
) -> None:
    # Given a submit that Skyvern has not answered, and the webhook of its run
    answered = threading.Event()
    scripted_server.script = [Reply(200, body("tsk_1", "queued", **TIMES), JSON, until=answered)]
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(rig.task, webhook_url="https://app.example/done")
        eventually(lambda: scripted_server.calls)
        dispatch(dispatcher, [WEBHOOK])
        assert states(rig.ledger) == {"tsk_1:results": "queued"}

        # When it is answered
        answered.set()
        assert reply.result().status_code == 200

    # Then the caller's webhook is queued; the other sink was told before
    assert states(rig.ledger) == {"tsk_1:results": "queued", "tsk_1:callback": "queued"}


def test_keyed_retry_after_hang_up_replays_the_response(submitting: Make, scripted_server: ScriptedServer) -> None:
    rig = submitting(scripted_server.url, dispatching=False)
    late = threading.Event()
    scripted_server.script = [run("tsk_1", until=late)]

    submit_and_hang_up(rig, lambda: scripted_server.calls, "idempotency-key: k\r\n")
    threading.Timer(0.3, late.set).start()
    again = rig.client.post("/v1/run/tasks", content=PROMPT, headers={"idempotency-key": "k"})

    assert (again.status_code, again.json()["run_id"]) == (200, "tsk_1")
    assert [call.method for call in scripted_server.calls] == ["POST"]


def test_same_request_after_a_response_makes_a_new_run(submitting: Make, scripted_server: ScriptedServer) -> None:
    rig = submitting(scripted_server.url, dispatching=False)
    scripted_server.default = run("tsk_1", delay=0.3)

    for _ in range(2):
        assert rig.client.post("/v1/run/tasks", json={"prompt": "p"}).status_code == 200

    assert [call.method for call in scripted_server.calls] == ["POST", "POST"]
