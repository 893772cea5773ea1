"""One key's calls and large bodies leave room for those of others."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from receiver.submit.limits import SubmitLimits
from receiver.web.component import Context, WebComponent
from tests.servers.receiver import SECRET, ReceiverProcess
from tests.servers.scripted import Reply, ScriptedServer
from tests.servers.submitting import Make
from tests.support.hostile import hostile_requests
from tests.support.waiting import eventually

JSON = {"content-type": "application/json"}
RUN = Reply(200, b'{"run_id": "tsk_1"}', JSON)


def test_one_key_has_a_share_of_running_calls(submitting: Make, scripted_server: ScriptedServer) -> None:
    # Given a Skyvern that answers nobody yet, and a key with as many calls as it may have
    answering = threading.Event()
    scripted_server.default = Reply(200, RUN.body, JSON, until=answering)
    rig = submitting(scripted_server.url, dispatching=False, limits=SubmitLimits(calls=4))
    with ThreadPoolExecutor(4) as pool:
        first = [pool.submit(rig.task, "a"), pool.submit(rig.client.get, "/v1/agents")]
        scripted_server.wait_for_calls(2)

        # When it makes one more, and so does another key
        over = [rig.task("b"), rig.client.get("/v1/agents")]
        other = pool.submit(rig.task, "c", {"x-api-key": rig.key("submit")})
        scripted_server.wait_for_calls(3)
        answering.set()

    # Then only the other one's goes on
    assert [(each.status_code, each.headers["retry-after"]) for each in over] == [(429, "2")] * 2
    assert {each.result().status_code for each in (*first, other)} == {200}
    assert rig.task("b").status_code == 200


def test_response_with_a_secret_is_cut_and_logged_once(
    receiver_factory: Callable[..., ReceiverProcess], redis_url: str, scripted_server: ScriptedServer
) -> None:
    # Given an answer too large to be held, with a secret of another source near its end
    start = b"[" + b'"x",' * (2 << 20)
    scripted_server.default = Reply(200, start + b'"' + SECRET.encode() + b'"]', JSON)
    sources = {
        "skyvern": {"secrets": ["a-key-of-skyvern"], "api_base": scripted_server.url, "api_key": "a-key-of-skyvern"},
        "other": {"secrets": [SECRET]},
    }
    receiver = receiver_factory(redis_url, sources=sources, spool={"reserve_bytes": 0})
    key = receiver.call("keys", "create", "app", "--source", "skyvern").stdout.split()
    whole = next(word for word in key if word.startswith("rhk_"))

    # When a caller asks for it
    with socket.create_connection(("127.0.0.1", receiver.port), 60) as connection:
        connection.sendall(f"GET /v1/list HTTP/1.1\r\nhost: x\r\nx-api-key: {whole}\r\n\r\n".encode())
        received = b""
        try:
            while piece := connection.recv(1 << 16):
                received += piece
        except ConnectionResetError:
            pass

    # Then the answer does not look whole, holds nothing of the secret, and the log has one line for it
    assert received.startswith(b"HTTP/1.1 200 ")
    assert not received.endswith(b"0\r\n\r\n")
    assert b"secret" not in received
    eventually(lambda: "web.cut_off status=200 reason=" in receiver.log)
    assert receiver.log.count("cut_off") == 1
    assert "Exception" not in receiver.log


# The largest body that is taken by default.
LARGEST = 4 << 20
# Seconds of CPU for which the loop may work without a break.
SECONDS = 0.2


class Turns:
    """A web component that waits for its turn in the event loop, time and again. `longest`: CPU seconds of the
    loop until it came. On a busy machine time alone would tell of others."""

    longest = 0.0

    def __call__(self, _: Context) -> WebComponent:
        return WebComponent(lifespan=self._lifespan)

    @asynccontextmanager
    async def _lifespan(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._take())
        yield
        task.cancel()

    async def _take(self) -> None:
        while True:
            before = time.thread_time()
            await asyncio.sleep(0.005)
            self.longest = max(self.longest, time.thread_time() - before)


def test_large_body_holds_up_no_other_request(submitting: Make, scripted_server: ScriptedServer) -> None:
    scripted_server.default = RUN
    turns = Turns()
    rig = submitting(scripted_server.url, dispatching=False, components=[turns])

    answers = {
        what: rig.client.post("/v1/run/tasks", content=body).status_code
        for what, body in hostile_requests(LARGEST).items()
    }

    assert 0 < turns.longest < SECONDS
    assert {what for what, status in answers.items() if status != 200} == {"quotes", "depth", "address"}


def test_body_bytes_are_shared_among_keys_and_webhooks(submitting: Make, scripted_server: ScriptedServer) -> None:
    answering = threading.Event()
    scripted_server.default = Reply(200, b'{"run_id": "tsk_1"}', {"content-type": "application/json"}, until=answering)
    rig = submitting(scripted_server.url, dispatching=False, held_bytes=100_000, server={"max_body": 1024})
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


def test_joined_requests_share_retry_after(submitting: Make, scripted_server: ScriptedServer) -> None:
    answering = threading.Event()
    busy = Reply(429, b'{"detail": "busy"}', {**JSON, "retry-after": "17"}, until=answering)
    scripted_server.default = busy
    rig = submitting(scripted_server.url, dispatching=False)

    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(rig.task, "p")
        scripted_server.wait_for_calls(1)
        joined = [pool.submit(rig.task, "p") for _ in range(2)]
        eventually(lambda: len(rig.rows()) == 1)
        threading.Timer(2.0, answering.set).start()

    answers = [each.result() for each in (first, *joined)]
    assert {(each.status_code, each.headers["retry-after"]) for each in answers} == {(429, "17")}
    assert [each.headers.get("idempotent-replayed") for each in answers] == [None, "true", "true"]


def test_text_may_have_any_number_of_commas(submitting: Make, scripted_server: ScriptedServer) -> None:
    scripted_server.default = RUN
    rig = submitting(scripted_server.url, dispatching=False)
    body = {"prompt": 'a,[]{}\\",' * 200_000, "big": 12345678901234567890123, "one": 1.0}
    assert rig.client.post("/v1/run/tasks", json=body).status_code == 200
    assert json.loads(scripted_server.calls[-1].body).items() >= body.items()
