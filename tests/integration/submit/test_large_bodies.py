"""Bodies that cost a lot to read hold up nobody else, whatever is many in them."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import pytest

from receiver.domain import run
from receiver.skyvern import responses
from receiver.web import app
from tests.servers.scripted import Reply, ScriptedServer
from tests.servers.submitting import Make
from tests.support.hostile import hostile_requests

RUN = Reply(200, b'{"run_id": "tsk_1"}', {"content-type": "application/json"})
# The largest body that is taken by default.
LARGEST = 4 << 20
# Seconds of CPU for which the loop may work without a break.
SECONDS = 0.2


@pytest.fixture
def longest_callback(monkeypatch: pytest.MonkeyPatch) -> Callable[[], float]:
    """The most CPU time that an event loop of this process has spent on one callback: on a busy machine time alone
    would tell of others."""
    longest = 0.0
    real = asyncio.Handle._run

    def measured(handle: asyncio.Handle) -> None:
        nonlocal longest
        before = time.thread_time()
        real(handle)
        longest = max(longest, time.thread_time() - before)

    monkeypatch.setattr(asyncio.Handle, "_run", measured)
    return lambda: longest


def test_large_body_holds_up_no_other_request(
    submitting: Make, scripted_server: ScriptedServer, longest_callback: Callable[[], float]
) -> None:
    scripted_server.default = RUN
    rig = submitting(scripted_server.url, dispatching=False)

    answers = {
        what: rig.client.post("/v1/run/tasks", content=body).status_code
        for what, body in hostile_requests(LARGEST).items()
    }

    assert longest_callback() < SECONDS
    assert {what for what, status in answers.items() if status != 200} == {"quotes", "depth", "address"}


def test_the_values_of_a_large_answer_are_not_built(
    submitting: Make, scripted_server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Millions of them take seconds, in which the loop stands still whatever thread builds them."""
    built: list[int] = []

    def noted(module: ModuleType, name: str) -> None:
        real = getattr(module, name)

        def work(text: bytes, *args: object, **kwargs: object) -> object:
            built.append(len(text))
            return real(text, *args, **kwargs)

        monkeypatch.setattr(module, name, work)

    noted(run, "from_json")
    noted(responses, "_json")
    answer = b'{"run_id":"tsk_1","run_type":"task_v2","status":"completed","created_at":"2026-11-25T10:00:00",'
    answer += b'"modified_at":"2026-11-25T10:00:00","output":[' + b"[]," * 500_000 + b"[]]}"
    scripted_server.default = Reply(200, answer, {"content-type": "application/json"})
    rig = submitting(scripted_server.url, dispatching=False)

    for query in ("", "?wait=1", "?from=skyvern"):
        got = rig.client.get(f"/v1/runs/tsk_1{query}")
        assert (got.status_code, got.content == answer) == (200, True)
    assert built
    assert max(built) < 10_000
    scripted_server.default = Reply(200, answer[:-1], {"content-type": "application/json"})
    assert rig.client.get("/v1/runs/tsk_1").status_code == 502


def test_text_may_have_any_number_of_commas(submitting: Make, scripted_server: ScriptedServer) -> None:
    scripted_server.default = RUN
    rig = submitting(scripted_server.url, dispatching=False)
    body = {"prompt": 'a,[]{}\\",' * 200_000, "big": 12345678901234567890123, "one": 1.0}
    assert rig.client.post("/v1/run/tasks", json=body).status_code == 200
    assert json.loads(scripted_server.calls[-1].body).items() >= body.items()


def test_body_bytes_are_shared_among_keys_and_webhooks(
    submitting: Make, scripted_server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "HELD_BYTES", 100_000)
    answering = threading.Event()
    scripted_server.default = Reply(200, b'{"run_id": "tsk_1"}', {"content-type": "application/json"}, until=answering)
    rig = submitting(scripted_server.url, dispatching=False, server={"max_body": 1024})
    bodies = {name: json.dumps({"prompt": name * size}) for name, size in (("a", 30_000), ("b", 30_000), ("c", 30_000))}

    with ThreadPoolExecutor(2) as pool:
        held = pool.submit(rig.client.post, "/v1/run/tasks", content=bodies["a"])
        scripted_server.wait_for_calls(1)
        over = rig.client.post("/v1/run/tasks", content=bodies["b"])
        other_key = {"x-api-key": rig.key("submit")}
        others = pool.submit(rig.client.post, "/v1/run/tasks", content=bodies["c"], headers=other_key)
        scripted_server.wait_for_calls(2)
        answering.set()

    assert (over.status_code, over.headers["retry-after"]) == (429, "2")
    assert (held.result().status_code, others.result().status_code) == (200, 200)
    assert rig.client.post("/v1/run/tasks", content=bodies["b"]).status_code == 200
