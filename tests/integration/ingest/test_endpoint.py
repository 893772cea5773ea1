"""POST /webhooks/…: what each request is answered, by a real receiver in front of a real Valkey."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
import redis

from receiver.domain.event import Event, event_id
from receiver.domain.signature import HEADER, sign
from receiver.inbox import STREAM
from receiver.inbox.reader import InboxReader
from receiver.ingest.poll_hints import pop_hints
from receiver.web.health import READY_FOR
from tests.servers.receiver import OLD_SECRET, SECRET, ReceiverProcess, body
from tests.servers.valkey import ValkeyProcess
from tests.support.waiting import PATIENCE, eventually

MAX_BODY = 1 << 20


@pytest.fixture(scope="module")
def shared(valkey: ValkeyProcess, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One receiver for all tests here that break nothing."""
    url = f"redis://127.0.0.1:{valkey.port}/8001"
    receiver = ReceiverProcess(tmp_path_factory.mktemp("shared"), url, {"server": {"max_body": MAX_BODY}})
    yield receiver.start()
    receiver.kill()
    assert "Traceback" not in receiver.log, receiver.log[-3000:]
    valkey.connect(8001).flushdb()


def inbox(receiver: ReceiverProcess, *wanted: str) -> dict[str, Event]:
    """The events that are in the inbox, by id, once these are: on a busy machine they come by the spool."""
    with redis.Redis.from_url(receiver.redis_url) as client:

        def events() -> dict[str, Event]:
            stored: Any = client.xrange(STREAM)
            entries = InboxReader(client, "test").entries(stored)
            found = {entry.event.id: entry.event for entry in entries if entry.event}
            assert found.keys() >= set(wanted)
            return found

        return dict(eventually(events))


def kept(receiver: ReceiverProcess, event: str) -> Event:
    return inbox(receiver, event)[event]


def refused(answer: httpx2.Response, status: int, code: str) -> None:
    """`answer` is this refusal, in the one shape."""
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    assert set(answer.json()) == {"error"}
    assert set(answer.json()["error"]) == {"code", "message"}
    assert answer.headers["content-type"] == "application/json"


def raw(receiver: ReceiverProcess, request: bytes, wait: float = PATIENCE) -> bytes:
    """What the receiver answers to these bytes."""
    with socket.create_connection(("127.0.0.1", receiver.port), wait) as connection:
        connection.sendall(request)
        answer = b""
        while not answer.endswith(b"}"):
            piece = connection.recv(65536)
            if not piece:
                break
            answer += piece
        return answer


def head(receiver: ReceiverProcess, content: bytes, *lines: str, path: str = "/webhooks/skyvern") -> bytes:
    """A request's head, signed, with these lines beside it."""
    signed = f"{HEADER}: {sign(content, SECRET)}"
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: localhost", signed, *lines, "", ""]).encode()


# --- Accepted


def test_signed_body_is_in_the_inbox_byte_for_byte(shared: ReceiverProcess) -> None:
    content = body(1, text="\u2028 </script> ü 12345678901234567890")
    before = time.time()
    answer = shared.post(content)
    assert answer.status_code == 202
    assert answer.json() == {"event_id": event_id("skyvern", content)}
    event = kept(shared, answer.json()["event_id"])
    assert (event.body, event.source, event.via, event.submission_id) == (content, "skyvern", "webhook", "")
    assert before <= event.received_at <= time.time()


def test_every_secret_of_the_source_is_good_and_no_other_sources(shared: ReceiverProcess) -> None:
    assert shared.post(body(2), OLD_SECRET).status_code == 202
    assert shared.post(body(2), "else", "/webhooks/other").status_code == 202
    refused(shared.post(body(2), "else"), 401, "bad_signature")


def test_the_same_body_again_gets_the_same_answer(shared: ReceiverProcess) -> None:
    assert shared.post(body(3)).json() == shared.post(body(3), OLD_SECRET).json()


@pytest.mark.parametrize("path", ["/webhooks/skyvern/sub_42-A", "/webhooks/skyvern/sub_42-A/"])
def test_the_submission_of_the_callback_url_comes_along(shared: ReceiverProcess, path: str) -> None:
    answer = shared.post(body(4, path=path), path=path)
    assert kept(shared, answer.json()["event_id"]).submission_id == "sub_42-A"


@pytest.mark.parametrize("path", ["/webhooks/skyvern/%00%ff", "/webhooks/skyvern/" + "a" * 500, "/webhooks/skyvern/"])
def test_a_token_that_is_none_of_ours_is_no_reason_to_refuse(shared: ReceiverProcess, path: str) -> None:
    answer = shared.post(body(5, path=path), path=path)
    assert kept(shared, answer.json()["event_id"]).submission_id == ""


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not json",
        b"\xff\xfe\x00",
        b"[]",
        b"null",
        b'{"run_id": "\\ud800\\u0000", "n": NaN, "m": 1e400}',
        b"[" * 5000,
        b'{"n": ' + b"9" * 5000 + b"}",
    ],
)
def test_an_authentic_body_is_kept_whatever_its_shape(shared: ReceiverProcess, content: bytes) -> None:
    (event,) = shared.acked(content)
    assert kept(shared, event).body == content


def test_query_timestamp_and_upper_case_hex_change_nothing(shared: ReceiverProcess) -> None:
    content = body(6)
    headers = {HEADER: sign(content, SECRET).upper(), "x-skyvern-timestamp": "1"}
    assert shared.post(content, path="/webhooks/skyvern?x=%ff&y", headers=headers).status_code == 202


def test_large_and_chunked_bodies_up_to_the_limit_are_kept(shared: ReceiverProcess) -> None:
    content = body(7).ljust(MAX_BODY)
    (event,) = shared.acked(content)
    pieces = (content[at : at + 50_000] for at in range(0, len(content), 50_000))
    answer = httpx2.post(
        f"{shared.url}/webhooks/skyvern", content=pieces, headers={HEADER: sign(content, SECRET)}, timeout=PATIENCE
    )
    assert (answer.status_code, answer.json()["event_id"]) == (202, event)
    assert kept(shared, event).body == content


def test_many_at_once_are_all_kept(shared: ReceiverProcess) -> None:
    wanted = [body(number) for number in range(1000, 1400)]
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(shared.post, wanted))
    assert {answer.status_code for answer in answers} == {202}
    inbox(shared, *(event_id("skyvern", each) for each in wanted))


def test_an_ack_wakes_the_dispatcher_once(shared: ReceiverProcess) -> None:
    client = redis.Redis.from_url(shared.redis_url)
    client.delete("rq:queue:dispatch", "runhook:wake:dispatch")
    shared.acked(*(body(number) for number in range(30, 40)))
    eventually(lambda: client.llen("rq:queue:dispatch") == 1)
    client.close()


# --- Refused


@pytest.mark.parametrize(
    "signature",
    [None, "", "deadbeef", "0" * 64, "é" * 64, "sha256=" + "0" * 64, "0 " * 31 + "00", "0" * 1000],
)
def test_a_wrong_signature_is_refused(shared: ReceiverProcess, signature: str | None) -> None:
    headers = {} if signature is None else {HEADER: signature.encode()}
    answer = httpx2.post(f"{shared.url}/webhooks/skyvern", content=body(50), headers=headers)
    refused(answer, 401, "bad_signature")


def test_one_byte_changed_is_refused(shared: ReceiverProcess) -> None:
    content = body(52)
    refused(shared.post(content + b" ", headers={HEADER: sign(content, SECRET)}), 401, "bad_signature")


@pytest.mark.parametrize(
    "path",
    ["/webhooks/nobody", "/webhooks/", "/webhooks/skyvern/a/b", "/webhooks//", "/webhooks/%ff/x", "/webhooks", "/x"],
)
def test_what_is_not_there_is_404(shared: ReceiverProcess, path: str) -> None:
    refused(shared.post(body(53), path=path), 404, "not_found")


@pytest.mark.parametrize("path", ["/webhooks/skyvern", "/webhooks/skyvern/sub_1", "/healthz"])
@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH"])
def test_other_methods_are_405(shared: ReceiverProcess, method: str, path: str) -> None:
    answer = httpx2.request(method, shared.url + path)
    refused(answer, 405, "method_not_allowed")
    assert answer.headers["allow"]


def test_announced_length_over_the_limit_is_refused_at_once(shared: ReceiverProcess) -> None:
    answer = raw(shared, head(shared, b"", f"Content-Length: {MAX_BODY + 1}"))
    assert answer.startswith(b"HTTP/1.1 413")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "too_large"
    assert raw(shared, head(shared, b"", f"Content-Length: {'9' * 200}")).startswith((b"HTTP/1.1 413", b"HTTP/1.1 400"))


def test_a_chunked_body_is_cut_off_at_the_limit(shared: ReceiverProcess) -> None:
    pieces = (b"x" * 65536 for _ in range(64))
    answer = httpx2.post(f"{shared.url}/webhooks/skyvern", content=pieces, headers={HEADER: "0" * 64})
    refused(answer, 413, "too_large")


def test_oversized_results_leave_bounded_hints_to_poll(shared: ReceiverProcess) -> None:
    client = redis.Redis.from_url(shared.redis_url)
    for number in range(60):
        beginning = f'{{"task_id": "tsk_{number}", '.encode()
        path = f"/webhooks/skyvern{'/sub_large' * (number % 2)}"
        raw(shared, head(shared, b"", f"Content-Length: {MAX_BODY + 1}", path=path) + beginning)
    found = pop_hints(client, 1000)
    assert {("skyvern", "tsk_0"), ("skyvern", "tsk_1")} <= {*found}
    assert len(found) < 40
    client.close()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"POST /webhooks/skyvern HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /webhooks/skyvern HTTP/1.1\r\nHost: x\r\nContent-Length: abc\r\n\r\n",
        b"POST /webhooks/skyvern HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /webhooks/\xff\xfe HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
        b"POST /webhooks/skyvern HTTP/9.9\r\n\r\n",
        b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n",
        b"POST http:// HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
        b"POST /webhooks/skyvern HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_what_is_no_http_is_refused_in_the_one_shape(shared: ReceiverProcess, request_bytes: bytes) -> None:
    answer = raw(shared, request_bytes)
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 404")), answer
    assert "error" in json.loads(answer.partition(b"\r\n\r\n")[2])


def test_clients_that_hang_up_do_no_harm(shared: ReceiverProcess) -> None:
    content = body(60)
    whole = head(shared, content, f"Content-Length: {len(content)}") + content
    for cut in (10, 60, len(whole) - len(content), len(whole) - 5, len(whole)):
        with socket.create_connection(("127.0.0.1", shared.port), PATIENCE) as connection:
            connection.sendall(whole[:cut])
    assert shared.post(body(61)).status_code == 202


# --- Health


def test_health_says_alive_and_ready_and_which_promise_holds(shared: ReceiverProcess) -> None:
    assert httpx2.get(f"{shared.url}/healthz").json() == {"status": "alive"}
    ready = eventually(
        lambda: it if (it := httpx2.get(f"{shared.url}/readyz")).json().get("store") == "redis" else None, every=0.3
    )
    assert ready.status_code == 200
    assert ready.json()["on_disk_before_202"] is True
    assert ready.json()["redis"] == "on disk before 202: yes"


def test_readyz_cannot_be_used_to_make_many_writes(shared: ReceiverProcess) -> None:
    client = redis.Redis.from_url(shared.redis_url)
    writes = lambda: client.info("commandstats").get("cmdstat_set", {"calls": 0})["calls"]  # noqa: E731
    before, began = writes(), time.monotonic()
    threads = [threading.Thread(target=httpx2.get, args=(f"{shared.url}/readyz",)) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert writes() - before <= 3 + (time.monotonic() - began) / READY_FOR
    client.close()


def test_the_log_holds_no_body_and_no_secret(receiver_factory: Callable[..., ReceiverProcess], redis_url: str) -> None:
    receiver = receiver_factory(redis_url)
    receiver.acked(b"a-private-thing is not json")
    refused(receiver.post(b"a-private-thing", "wrong"), 401, "bad_signature")
    for private in ("a-private-thing", SECRET, OLD_SECRET):
        assert private not in receiver.log


@pytest.mark.parametrize(
    "fields",
    [
        b"Content-Length: %d \t\r\nX-Skyvern-Signature: %s\r\n",
        b"Content-Length:%d\r\nx-skyvern-signature:\t %s \t\r\n",
    ],
)
def test_white_space_around_a_field_loses_no_webhook(shared: ReceiverProcess, fields: bytes) -> None:
    content = body(4711)
    head = b"POST /webhooks/skyvern HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + fields % (
        len(content),
        sign(content, SECRET).encode(),
    )
    assert raw(shared, head + b"\r\n" + content).startswith(b"HTTP/1.1 202 ")


def test_a_client_that_sends_first_sees_its_413(shared: ReceiverProcess) -> None:
    head = b"POST /webhooks/skyvern HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (20 * MAX_BODY)
    assert raw(shared, head + bytes(20 * MAX_BODY)).startswith(b"HTTP/1.1 413 ")
