"""The API client against real sockets: what it sends, and how it ends when the other side misbehaves."""

from __future__ import annotations

import gc
import gzip
import logging
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import orjson
import pytest

from receiver.skyvern.client import SkyvernAPI, SkyvernReader
from receiver.skyvern.responses import (
    Answer,
    Answered,
    Created,
    Lost,
    Patience,
    Rejected,
    Unreachable,
    listed_artifacts,
    listed_runs,
    submitted,
)
from tests.servers.scripted import Reply, ScriptedServer
from tests.servers.skyvern import SkyvernSimulator
from tests.support.waiting import PATIENCE, eventually

KEY = "sk-very-secret"
HASTY = Patience(tries=3, first=0.01, budget=2.0)


@pytest.fixture
async def api(scripted_server: ScriptedServer):  # type: ignore[no-untyped-def]
    client = SkyvernAPI(scripted_server.url + "/", KEY, patience=HASTY, answer_cap=100_000)
    yield client
    await client.aclose()


@pytest.fixture
def reader(scripted_server: ScriptedServer) -> Iterator[SkyvernReader]:
    client = SkyvernReader(scripted_server.url, KEY, patience=HASTY, answer_cap=100_000)
    yield client
    client.close()


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that stays taken, and where nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


async def test_each_call_goes_where_skyvern_expects_it(
    api: SkyvernAPI, reader: SkyvernReader, scripted_server: ScriptedServer
) -> None:
    await api.submit("/v1/run/tasks", b'{"prompt":"p"}')
    await api.submit("/v1/run/agents", b"{}", {"X-Max-Steps-Override": "7"})
    await api.submit("/v1/run/workflows", b"{}")
    await api.submit("/api/v1/tasks", b"{}")
    await api.get_run("wr_1")
    reader.get_run("wr_1")
    reader.list_runs(2, 50, ["failed", "completed"])
    reader.artifacts("wr_1")

    assert [(call.method, call.path) for call in scripted_server.calls] == [
        ("POST", "/v1/run/tasks"),
        ("POST", "/v1/run/agents"),
        ("POST", "/v1/run/workflows"),
        ("POST", "/api/v1/tasks"),
        ("GET", "/v1/runs/wr_1"),
        ("GET", "/v1/runs/wr_1"),
        ("GET", "/v1/runs?page=2&page_size=50&status=failed&status=completed"),
        ("GET", "/v1/runs/wr_1/artifacts"),
    ]
    assert all(call.headers["x-api-key"] == KEY for call in scripted_server.calls)
    assert scripted_server.calls[0].body == b'{"prompt":"p"}'
    assert scripted_server.calls[1].headers["x-max-steps-override"] == "7"


async def test_credentials_of_callers_are_not_forwarded(api: SkyvernAPI, scripted_server: ScriptedServer) -> None:
    headers = {
        "X-API-Key": "the caller's",
        "Authorization": "Bearer the caller's",
        "Cookie": "session=1",
        "Host": "elsewhere",
        "Content-Length": "99",
        "Accept-Encoding": "gzip",
        "Idempotency-Key": "k",
        "X-Runhook-Labels": "a=b",
        "X-Forwarded-For": "10.0.0.1",
        "X-User-Agent": "skyvern-ui",
        "Content-Type": "text/plain",
    }

    await api.forward("POST", "/v1/anything", "a=1&a=%20x", headers, b"body")

    (call,) = scripted_server.calls
    assert (call.method, call.path, call.body) == ("POST", "/v1/anything?a=1&a=%20x", b"body")
    assert call.headers["x-api-key"] == KEY
    assert (call.headers["x-user-agent"], call.headers["content-type"]) == ("skyvern-ui", "text/plain")
    gone = {"authorization", "cookie", "idempotency-key", "x-runhook-labels", "x-forwarded-for"}
    assert not gone & call.headers.keys()
    assert call.headers["host"] == scripted_server.url.removeprefix("http://")
    assert call.headers["accept-encoding"] == "identity"


async def test_the_key_stays_behind_when_the_api_redirects(
    api: SkyvernAPI, scripted_server: ScriptedServer, other_server: ScriptedServer
) -> None:
    scripted_server.default = Reply(307, b"", {"location": other_server.url + "/v1/run/tasks"})

    answer = await api.submit("/v1/run/tasks", b"{}")
    read = await api.get_run("x")

    assert submitted(answer) == Rejected(307)
    assert isinstance(read, Answered)
    assert read.status == 307
    assert other_server.calls == []


@pytest.mark.parametrize(
    "path", ["/v1/../../admin", "/v1/%2e%2e/admin", "/v1/%252e%252e/x", "/v1/..\\x", "//evil/x/..", "v1"]
)
async def test_no_path_leads_out_of_the_base(path: str, scripted_server: ScriptedServer) -> None:
    api = SkyvernAPI(scripted_server.url + "/below", KEY)

    answer = await api.forward("GET", path)

    assert isinstance(answer, Unreachable)
    assert not answer.ambiguous
    assert scripted_server.calls == []
    await api.aclose()


async def test_no_path_leads_to_another_host(api: SkyvernAPI, scripted_server: ScriptedServer) -> None:
    for path in ("//evil.example/x", "/@evil.example/x", "/http://evil.example/x"):
        await api.forward("GET", path)

    assert [call.path.lstrip("/@") for call in scripted_server.calls] == [
        "evil.example/x",
        "evil.example/x",
        "http://evil.example/x",
    ]


@pytest.mark.parametrize("run_id", ["..", ".", "a/b?c#d", "ü \n", ""])
async def test_a_strange_run_id_stays_one_part_of_the_path(
    run_id: str, api: SkyvernAPI, scripted_server: ScriptedServer
) -> None:
    answer = await api.get_run(run_id)

    if run_id in ("..", ".", "a/b?c#d"):
        assert isinstance(answer, Unreachable) or scripted_server.calls[0].path == "/v1/runs/a%2Fb%3Fc%23d"
    else:
        assert scripted_server.calls[0].path in ("/v1/runs/%C3%BC%20%0A", "/v1/runs/")


async def test_a_refused_connection_created_nothing_and_is_tried_again(closed_port: int) -> None:
    api = SkyvernAPI(f"http://user:hidden@127.0.0.1:{closed_port}", KEY, patience=HASTY)

    answer = await api.submit("/v1/run/tasks", b"{}")

    assert isinstance(answer, Unreachable)
    assert not answer.ambiguous
    assert f"can't connect to 127.0.0.1:{closed_port}" in answer.reason
    assert "hidden" not in answer.reason
    assert submitted(answer) == Rejected(503)
    await api.aclose()


async def test_lost_response_of_a_submit_is_ambiguous(api: SkyvernAPI, scripted_server: ScriptedServer) -> None:
    scripted_server.default = Reply(hang_up=True)

    answer = await api.submit("/v1/run/tasks", b"{}")

    assert isinstance(answer, Unreachable)
    assert answer.ambiguous
    assert isinstance(submitted(answer), Lost)
    assert len(scripted_server.calls) == 1


async def test_a_read_is_retried_after_a_lost_answer(
    api: SkyvernAPI, reader: SkyvernReader, scripted_server: ScriptedServer
) -> None:
    failures = [Reply(hang_up=True), Reply(502, b"<html>")]
    scripted_server.script = [*failures, Reply(200, b'{"run_id": "x"}'), *failures, Reply(200, b'{"run_id": "y"}')]

    first, second = await api.get_run("x"), reader.get_run("y")

    assert isinstance(first, Answered)
    assert isinstance(second, Answered)
    assert (first.json(), second.json()) == ({"run_id": "x"}, {"run_id": "y"})
    assert len(scripted_server.calls) == 6


async def test_a_submit_is_made_again_after_503_with_retry_after(
    api: SkyvernAPI, scripted_server: ScriptedServer
) -> None:
    busy = Reply(503, b'{"detail": "no capacity"}', {"retry-after": "0.01"})
    scripted_server.script = [busy, busy, Reply(200, b'{"run_id": "tsk_1"}')]

    assert submitted(await api.submit("/v1/run/tasks", b"{}")) == Created("tsk_1")
    assert len(scripted_server.calls) == 3


async def test_a_refusal_comes_back_as_it_was_said(api: SkyvernAPI, scripted_server: ScriptedServer) -> None:
    body = b'{"detail": [{"type": "missing", "loc": ["body", "prompt"], "msg": "Field required"}]}'
    scripted_server.default = Reply(422, body, {"x-skyvern-api-version": "development", "set-cookie": "a=b"})

    answer = await api.submit("/v1/run/tasks", b"{}")

    assert isinstance(answer, Answered)
    assert (answer.status, answer.body) == (422, body)
    assert answer.headers["x-skyvern-api-version"] == "development"
    assert not {"set-cookie", "content-length", "connection", "server"} & answer.headers.keys()


async def test_cookies_are_not_kept(api: SkyvernAPI, scripted_server: ScriptedServer) -> None:
    scripted_server.default = Reply(200, b"{}", {"set-cookie": "session=one; Path=/"})

    await api.get_run("x")
    await api.get_run("x")

    assert "cookie" not in scripted_server.calls[1].headers


async def test_a_hanging_api_ends_in_time(scripted_server: ScriptedServer) -> None:
    scripted_server.script = [Reply(delay=2.0), Reply(body=b"x" * 200, drip=0.05)]
    api = SkyvernAPI(scripted_server.url, KEY, patience=Patience(tries=1, limit=0.1))

    silent = await api.submit("/v1/run/tasks", b"{}")

    assert isinstance(silent, Unreachable)
    assert silent.ambiguous
    assert "did not respond in time" in silent.reason
    await api.aclose()


def test_a_trickling_answer_ends_in_time(scripted_server: ScriptedServer) -> None:
    scripted_server.default = Reply(body=b"x" * 500, drip=0.01)
    reader = SkyvernReader(scripted_server.url, KEY, patience=Patience(tries=1, limit=0.2))

    answer = reader.get_run("x")

    assert isinstance(answer, Unreachable)
    assert "did not respond in time" in answer.reason
    reader.close()


@pytest.mark.parametrize(
    "reply",
    [
        Reply(200, b"x" * 100_001),
        Reply(200, b"short", {"content-length": "99"}),
        Reply(200, b"", {"bad name": "x"}),
    ],
)
async def test_an_answer_that_is_too_large_or_broken_is_no_answer(
    reply: Reply, api: SkyvernAPI, reader: SkyvernReader, scripted_server: ScriptedServer
) -> None:
    scripted_server.default = reply
    if reply.body == b"short":
        scripted_server.default = Reply(200, b"short", {"content-length": "99", "connection": "close"})

    answer = await api.submit("/v1/run/tasks", b"{}")

    assert isinstance(answer, Unreachable)
    assert answer.ambiguous
    assert isinstance(reader.get_run("x"), Unreachable)


async def test_a_compressed_bomb_is_not_unpacked(api: SkyvernAPI, scripted_server: ScriptedServer) -> None:
    scripted_server.default = Reply(200, gzip.compress(b"0" * 5_000_000), {"content-encoding": "gzip"})

    answer = await api.get_run("x")

    assert isinstance(answer, Answered)
    assert len(answer.body) < 10_000
    assert answer.json() is None


async def test_the_key_is_in_no_log_and_no_reason(
    api: SkyvernAPI, scripted_server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    scripted_server.script = [Reply(), Reply(hang_up=True), Reply(hang_up=True), Reply(hang_up=True)]

    await api.submit("/v1/run/tasks", b"{}")
    answer = await api.get_run("x")

    assert isinstance(answer, Unreachable)
    assert KEY not in answer.reason + caplog.text


async def test_proxies_of_the_environment_see_nothing(
    scripted_server: ScriptedServer, other_server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, other_server.url)
    monkeypatch.delenv("NO_PROXY", raising=False)
    api = SkyvernAPI(scripted_server.url, KEY)

    await api.get_run("x")

    assert (len(scripted_server.calls), len(other_server.calls)) == (1, 0)
    await api.aclose()


async def test_client_works_with_the_simulated_skyvern(skyvern_simulator: SkyvernSimulator) -> None:
    api = SkyvernAPI(skyvern_simulator.url, skyvern_simulator.key, patience=HASTY)
    reader = SkyvernReader(skyvern_simulator.url, skyvern_simulator.key, patience=HASTY)

    created = submitted(
        await api.submit("/v1/run/tasks", orjson.dumps({"prompt": "p", "title": "Find me", "engine": "skyvern-2.0"}))
    )
    legacy = submitted(await api.submit("/api/v1/tasks", orjson.dumps({"url": "http://x", "navigation_goal": "g"})))
    assert isinstance(created, Created)
    assert isinstance(legacy, Created)
    skyvern_simulator.wait_final(created.run_id, legacy.run_id)

    assert created.run_type == "task_v2"
    run = await api.get_run(created.run_id)
    assert isinstance(run, Answered)
    assert run.json()["status"] == "completed"
    listed = reader.list_runs(status=["completed"])
    assert isinstance(listed, Answered)
    assert [each.run_id for each in listed_runs(listed) or []] == [legacy.run_id, created.run_id]
    workflow_run_id = run.json()["app_url"].rpartition("/")[2]
    own, artifacts = reader.artifacts(created.run_id), reader.artifacts(workflow_run_id)
    assert isinstance(own, Answered)
    assert isinstance(artifacts, Answered)
    assert listed_artifacts(own) == []  # those of a task_v2 are listed under its workflow run
    kinds = {each.kind for each in listed_artifacts(artifacts) or []}
    assert kinds > {"recording", "screenshot", "screenshot_action", "download", "har", "skyvern_log"}
    missing = reader.get_run("tsk_0")
    assert isinstance(missing, Answered)
    assert missing.status == 404
    await api.aclose()
    reader.close()


def test_reader_without_a_thread_does_not_hang_and_recovers(
    scripted_server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    scripted_server.default = Reply(200, b"{}")
    reader = SkyvernReader(scripted_server.url, KEY, patience=HASTY)
    with monkeypatch.context() as at_the_limit:
        at_the_limit.setattr(threading.Thread, "start", refuse)
        assert isinstance(reader.get_run("x"), Unreachable)
    answers: list[Answer] = []
    caller = threading.Thread(target=lambda: answers.append(reader.get_run("x")), daemon=True)
    caller.start()
    caller.join(PATIENCE)
    assert isinstance(answers[0], Answered)
    reader.close()


def test_closed_reader_opens_no_connection(scripted_server: ScriptedServer) -> None:
    # Given a call that is under way when its reader is closed
    answered = threading.Event()
    scripted_server.default = Reply(200, b"{}", until=answered)
    reader = SkyvernReader(scripted_server.url, KEY, patience=HASTY)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(reader.get_run, "x")
        eventually(lambda: len(scripted_server.calls) == 1)

        # When it is closed, then the call gets its answer, and no other is made
        reader.close()
        answered.set()
        assert isinstance(call.result(PATIENCE), Answered)
    assert isinstance(reader.get_run("y"), Unreachable)
    assert len(scripted_server.calls) == 1
    # and no connection stays open, which would be a warning
    del reader, call
    gc.collect()
