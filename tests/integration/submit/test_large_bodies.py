"""Bodies that cost a lot to read hold up nobody else, whatever is many in them."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

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
