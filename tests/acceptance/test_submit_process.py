"""`runhook serve` with the submit API as a process: killed in the middle of a submit, and stopped while many wait."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from receiver.domain import api_key
from receiver.ledger.access import api_keys
from receiver.ledger.access.api_keys import Key
from tests.servers.deployment import Deployment
from tests.servers.gate import Gate
from tests.servers.postgres import PostgresProcess
from tests.servers.scripted import Reply, ScriptedServer
from tests.servers.skyvern import KEY, SkyvernSimulator
from tests.support.ledger import with_tables
from tests.support.waiting import PATIENCE, Stopwatch, eventually

MASTER = "a-master-secret-of-the-tests"
Deployments = Callable[..., Deployment]
Simulate = Callable[..., SkyvernSimulator]
Start = Callable[..., tuple[Deployment, httpx2.Client]]


@pytest.fixture
def submitting_to(deployment: Deployments, redis_url: str) -> Iterator[Start]:
    """A receiver in front of the Skyvern at this URL, and a client with a key of it. `ledger`: its URL."""
    clients: list[httpx2.Client] = []

    def start(base: str, ledger: str = "") -> tuple[Deployment, httpx2.Client]:
        it = deployment(
            redis_url, ledger, admin=True, sources={"skyvern": {"secrets": ["other"], "api_base": base, "api_key": KEY}}
        )
        it.more = {"RUNHOOK_SECRET": MASTER, "PUBLIC_URL": it.url}
        with_tables(it.ledger)
        key_id = os.urandom(6).hex()
        whole = api_key.derive(MASTER, key_id)
        row = Key(key_id, "app", api_key.digest(whole), "rhk_", frozenset(api_key.SCOPES), "skyvern", None, time.time())
        it.ledger.write(lambda connection: api_keys.create(connection, row))
        it.start()
        clients.append(httpx2.Client(base_url=it.url, headers={"x-api-key": whole}, trust_env=False, timeout=PATIENCE))
        return it, clients[-1]

    yield start
    for client in clients:
        client.close()


def test_receiver_killed_during_a_submit_makes_one_run(submitting_to: Start, simulate_skyvern: Simulate) -> None:
    # Given a Skyvern that has made the run, and whose answer is on its way
    sim = simulate_skyvern(run_seconds=1000.0)
    with Gate(urlsplit(sim.url).port or 0) as gate:
        it, client = submitting_to(f"http://127.0.0.1:{gate.port}")
        it.run("worker")
        it.run("clock")
        submit: dict[str, Any] = {"json": {"prompt": "p"}, "headers": {"idempotency-key": "order-42"}}
        cut: list[BaseException] = []

        def first() -> None:
            try:
                client.post("/v1/run/tasks", **submit)
            except httpx2.HTTPError as error:
                cut.append(error)

        caught = gate.catch(b"POST /v1/run/tasks", "after")
        caller = threading.Thread(target=first)
        caller.start()
        caught.wait()
        eventually(lambda: sim.world.runs)

        # When the receiver is killed, started again, and its caller tries once more
        it.kill()
        caller.join(60)
        gate.forget()
        it.start()
        again = client.post("/v1/run/tasks", **submit)

        # Then it hears of the same run, there is no other, and the result arrives
        assert len(cut) == 1
        assert (again.status_code, again.json()["run_id"]) == (200, *sim.world.runs), again.text
        client.post(f"/v1/runs/{again.json()['run_id']}/cancel")  # an end that comes while the receiver is up
        result = f"/v1/runs/{again.json()['run_id']}"
        assert client.get(f"{result}?wait=100").json()["status"] == "canceled"
        eventually(lambda: client.get(result).headers["x-runhook-from"] == "ledger")
        assert client.post("/v1/run/tasks", **submit).json()["run_id"] == again.json()["run_id"]
    assert len(sim.world.runs) == 1


def test_retry_after_a_stop_returns_the_run_of_a_slow_skyvern(
    submitting_to: Start, scripted_server: ScriptedServer
) -> None:
    # Given a Skyvern that takes longer to answer than a stop waits for callers, and less than it waits for submits
    run = {"run_id": "tsk_1", "run_type": "task_v1", "status": "queued", "created_at": "", "modified_at": ""}
    answer = Reply(200, json.dumps(run).encode(), {"content-type": "application/json"})
    late = threading.Event()
    scripted_server.script = [replace(answer, until=late)]
    scripted_server.default = answer
    it, client = submitting_to(scripted_server.url)

    # When the receiver is stopped meanwhile
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(client.post, "/v1/run/tasks", json={"prompt": "p"})
        eventually(lambda: scripted_server.calls)
        stopping = pool.submit(it.stop)
        assert first.result().status_code == 502
        assert first.result().json()["detail"].startswith("The receiver is being stopped")
        late.set()
        assert stopping.result() == 0
    it.start()
    again = client.post("/v1/run/tasks", json={"prompt": "p"})

    # Then the caller, who was answered 502 and asks again without an Idempotency-Key, hears of that run
    assert (again.status_code, again.json()["run_id"]) == (200, "tsk_1")
    assert [call.method for call in scripted_server.calls] == ["POST", "GET"]


def test_sigterm_while_the_ledger_hangs_answers_all_within_10_s(
    submitting_to: Start, simulate_skyvern: Simulate, postgres_factory: Callable[..., PostgresProcess]
) -> None:
    postgres = postgres_factory()
    it, client = submitting_to(simulate_skyvern(run_seconds=1000.0).url, postgres.url())
    run_id = client.post("/v1/run/tasks", json={"prompt": "p"}).json()["run_id"]
    with ThreadPoolExecutor(5) as pool:
        asked = [pool.submit(client.get, f"/v1/runs/{run_id}?wait=300") for _ in range(5)]
        assert _held(it, 5)
        postgres.hang()
        watch = Stopwatch()
        try:
            assert it.stop() == 0
            watch.at_most(10)
        finally:
            postgres.resume()
        answers = [each.result(PATIENCE) for each in asked]

    assert {answer.status_code for answer in answers} <= {200, 503}


def _held(it: Deployment, count: int) -> bool:
    """Until the receiver holds so many requests."""
    held = re.compile(r"^runhook_held_requests ([0-9]+)", re.MULTILINE)

    def enough() -> bool:
        found = held.search(httpx2.get(f"{it.admin_url}/metrics", timeout=PATIENCE).text)
        return found is not None and int(found[1]) == count

    return bool(eventually(enough, every=0.1))
