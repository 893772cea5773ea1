"""Requests that no SDK would send: none makes a 5xx of ours, and none reaches more than its key's scope says."""

from __future__ import annotations

import json
import random
import re
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.servers.scripted import Reply, ScriptedServer
from tests.servers.submitting import Make, Submitting
from tests.support.waiting import PATIENCE

ODD_PATHS = [
    "/v1/runs/..",
    "/v1/runs/../x",
    "/v1/runs/%2e%2e/x",
    "/v1/runs/..%2f..%2fapi/v1/organizations/o/apikeys",
    "/v1/runs/%252e%252e/x",
    "/v1/runs/x\\..\\y",
    "//v1/runs",
    "/v1//runs",
    "/v1/./runs",
    "/v1/",
    "/V1/runs",
    "/api//v1/tasks",
    "/api/v2/tasks",
    "/v1/organizations/o/api%6beys",
    "/v1/ui%2dsession",
    "/v1/credentials/onepassword/%67et",
    "/v1/internal/auth/repair",
    "/v1/runs/\xff",
]
ODD_REQUESTS = 300
GARBAGE = [
    b"",
    b"null",
    b"NaN",
    b"[]",
    b"{",
    b'{"a":1,}',
    b'{"a":1}x',
    b'{"prompt":"\xff"}',
    b'{"a":' + b"1" * 5000 + b"}",
    b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    '{"prompt":"p"}'.encode("utf-16"),
    b'{"labels":{"\\ud800":1}}',
    b'{"labels":1}',
]
# Which of several members Skyvern takes is its own affair: all of them are ours.
WEBHOOKS = [
    b'{"webhook_url":"https://a.example/h","webhook_url":"http://10.0.0.1/"}',
    b'{"webhook\\u005furl":"http://10.0.0.1/"}',
]


def ask(rig: Submitting, method: str, path: str, key: str, body: bytes = b"", headers: str = "") -> tuple[int, bytes]:
    """The status and body of the answer to a request with these very bytes. `headers`: more lines."""
    head = f"{method} {path} HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\nconnection: close\r\n{headers}"
    head += f"content-length: {len(body)}\r\n\r\n" if body or method == "POST" else "\r\n"
    with socket.create_connection(("127.0.0.1", urlsplit(rig.url).port or 0), timeout=PATIENCE) as connection:
        connection.sendall(head.encode("latin-1") + body)
        said = b"".join(iter(lambda: connection.recv(65536), b""))
    found = re.match(rb"HTTP/1\.1 (\d{3}) ", said)
    assert found, said
    return int(found[1]), said.partition(b"\r\n\r\n")[2]


@pytest.fixture
def rig(submitting: Make, scripted_server: ScriptedServer) -> Submitting:
    scripted_server.default = Reply(200, b'{"run_id": "tsk_1"}', {"content-type": "application/json"})
    return submitting(scripted_server.url, dispatching=False)


def test_no_spelling_of_a_path_gets_around_the_gate(rig: Submitting, scripted_server: ScriptedServer) -> None:
    answers = {path: ask(rig, "GET", path, rig.whole_key)[0] for path in ODD_PATHS}

    assert {path: status for path, status in answers.items() if status not in (307, 400, 403, 404)} == {}
    assert scripted_server.calls == []


def test_an_odd_method_does_nothing(rig: Submitting, scripted_server: ScriptedServer) -> None:
    for method in ("OPTIONS", "TRACE", "PROPFIND", "CONNECT", "get", "FOO"):
        found = {ask(rig, method, path, rig.whole_key)[0] for path in ("/v1/runs", "/v1/run/tasks")}
        assert found <= {400, 405}, method
    assert scripted_server.calls == []


def test_a_key_that_may_submit_reaches_nothing_else(rig: Submitting, scripted_server: ScriptedServer) -> None:
    key = rig.key("submit")
    for path in ("/v1/runs/x/cancel", "/v1/runs%2fx%2fcancel", "/v1/runs/cancel", "/v1/browser_sessions", "/v1/x/runs"):
        assert ask(rig, "POST", path, key, b"{}")[0] == 403, path
    for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE"):
        assert ask(rig, method, "/v1/run/tasks", key)[0] == 403, method
    assert scripted_server.calls == []

    assert ask(rig, "POST", "/v1/run%2ftasks", key, b'{"prompt": "p"}')[0] == 200
    assert [row["call"] for row in rig.rows()] == ["tasks"]  # however it is spelt, it is a submission


def test_body_over_the_limit_is_413(submitting: Make, scripted_server: ScriptedServer) -> None:
    scripted_server.default = Reply(200, b'{"run_id": "tsk_1"}', {"content-type": "application/json"})
    rig = submitting(scripted_server.url, dispatching=False, submit={"max_body": 4096})
    largest = b'{"prompt": "p"}'.ljust(4096)

    def pieces(content: bytes) -> Iterator[bytes]:
        yield from (content[:1000], content[1000:4096], content[4096:])

    for path in ("/v1/run/tasks", "/v1/runs/tsk_1/cancel"):
        assert ask(rig, "POST", path, rig.whole_key, largest + b" ") == (
            413,
            b'{"detail": "The body is over 4096 bytes"}',
        )
        assert rig.client.post(path, content=pieces(largest + b" ")).status_code == 413
    assert (scripted_server.calls, rig.rows()) == ([], [])

    assert ask(rig, "POST", "/v1/run/tasks", rig.whole_key, largest)[0] == 200
    assert rig.client.post("/v1/run/tasks", content=pieces(largest)).status_code == 200


def test_garbage_is_a_422_and_goes_nowhere(rig: Submitting, scripted_server: ScriptedServer) -> None:
    for body in GARBAGE:
        status, said = ask(rig, "POST", "/v1/run/tasks", rig.whole_key, body)
        assert (status, said.startswith(b'{"detail"')) == (422, True), body[:12]
    assert (scripted_server.calls, rig.rows()) == ([], [])


def test_no_spelling_smuggles_a_webhook_url(rig: Submitting, scripted_server: ScriptedServer) -> None:
    for body in WEBHOOKS:
        assert ask(rig, "POST", "/v1/run/tasks", rig.whole_key, body)[0] == 400
        assert ask(rig, "POST", "/v1/run/tasks", rig.whole_key, body.replace(b"10.0.0.1", b"b.example"))[0] == 200

    assert len(scripted_server.calls) == len(WEBHOOKS)
    for call in scripted_server.calls:
        assert b"example" not in call.body
        assert call.body.count(f'"{rig.url}/webhooks/skyvern/sub_'.encode()) == 1


def test_only_headers_that_skyvern_reads_pass(rig: Submitting, scripted_server: ScriptedServer) -> None:
    odd = "caf\xe9 \xff\x80 \xa0x"
    passed = {"x-user-agent": odd, "accept-language": odd, "x-max-steps-override": "7", "x-request-id": "r-1"}
    held_back = ("x-forwarded-for", "x-original-url", "x-custom", "cookie", "authorization", "via", "forwarded")
    lines = "".join(f"{name}: {value}\r\n" for name, value in {**passed, **dict.fromkeys(held_back, odd)}.items())

    for method, path in (("POST", "/v1/run/tasks"), ("POST", "/v1/runs/tsk_1/cancel"), ("GET", "/v1/runs")):
        body = b'{"prompt": "p"}' if method == "POST" else b""
        assert ask(rig, method, path, rig.whole_key, body, lines)[0] == 200
        sent = scripted_server.calls[-1].headers
        assert sent.items() >= passed.items()
        assert not sent.keys() & {*held_back, "x-runhook-labels"}


def test_query_passes_unchanged_or_is_400(rig: Submitting, scripted_server: ScriptedServer) -> None:
    assert ask(rig, "GET", "/v1/runs?search_key=%ff%00+%2F'&&=", rig.whole_key)[0] == 200
    assert scripted_server.calls[-1].path == "/v1/runs?search_key=%ff%00+%2F'&&="
    assert ask(rig, "GET", "/v1/runs?search_key=\xff", rig.whole_key)[0] == 400
    assert ask(rig, "GET", "/v1/runs/" + "%ff" * 20_000, rig.whole_key)[0] < 500
    assert ask(rig, "GET", "/v1/runs?a=" + "x" * 65_400, rig.whole_key)[0] < 500


def test_text_response_hides_callback_tokens(rig: Submitting, scripted_server: ScriptedServer) -> None:
    said = b"could not post to https://us.example/webhooks/skyvern/sub_0123456789abcdef0123456789abcdef, sorry"
    scripted_server.default = Reply(200, said, {"content-type": "text/plain"})
    status, body = ask(rig, "GET", "/v1/artifacts/a_1/content", rig.whole_key)
    assert (status, body) == (200, said.replace(b"0123456789abcdef" * 2, b"*" * 32))


def _odd_request(random: random.Random) -> tuple[str, str, bytes, str]:
    """Return (method, path, body, header lines), each of which may be odd."""

    def text(most: int) -> str:
        letters = [chr(each) for each in range(1, 256) if chr(each) not in "\r\n"]
        return "".join(random.choices(letters, k=random.randrange(most)))

    places = ["/v1/run/tasks", "/v1/run/agents", "/v1/runs/tsk_1", "/v1/runs/tsk_1/cancel", "/v1/runs", "/api/v1/tasks"]
    places += ["/v1/runs/tsk_1/retry_webhook", "/v1/runs/tsk_1/artifacts", "/v1/upload_file", "/api/v1/workflows/w/run"]
    path = random.choice(places)
    if random.random() < 0.3:
        at = random.randrange(4, len(path) + 1)
        path = (
            path[:at]
            + random.choice(["%00", "%ff", "%2e", "%2f", "\\", "'", '"', "<", "%d8%00", "*", "\x7f", "x" * 300])
            + path[at:]
        )
    if random.random() < 0.4:
        names = ["wait", "from", "page", "search_key", "status", text(3)]
        values = ["", "nan", "1e9", "-1", "skyvern", "submission", "%00", text(9)]
        path += f"?{random.choice(names)}={random.choice(values)}"
    names = ["x-user-agent", "content-type", "accept", "range", "idempotency-key", "x-runhook-labels", "x-request-id"]
    names += ["if-none-match", "x-max-steps-override", "accept-language", "authorization", "x-odd"]
    lines = "".join(f"{random.choice(names)}: {text(12)}\r\n" for _ in range(random.randrange(4)))
    bodies = [b"", b"{}", b'{"prompt":"p"}', b'{"prompt":"p","labels":{"a":"b"}}', *GARBAGE[:-4], *WEBHOOKS]
    bodies += [b'{"prompt":"p","webhook_url":%s}' % json.dumps(text(30)).encode(), text(40).encode("latin-1")]
    return random.choice(["GET", "POST", "POST", "PUT", "DELETE", "HEAD", "PATCH"]), path, random.choice(bodies), lines


def test_lone_surrogate_beside_a_masked_field_is_no_5xx(rig: Submitting) -> None:
    body = b'{"prompt":"\\ud800","extra_http_headers":{"a":"b"}}'
    assert ask(rig, "POST", "/v1/run/tasks", rig.whole_key, body)[0] in (200, 422)


def test_no_odd_request_is_our_trouble(rig: Submitting) -> None:
    """503 says that something can't be kept or reached, and any other 5xx that somebody has made a mistake: we."""
    numbers = random.Random(5)
    for number in range(ODD_REQUESTS):
        method, path, body, lines = _odd_request(numbers)
        status, said = ask(rig, method, path.replace(" ", "+"), rig.whole_key, body, lines)
        assert status < 500, (number, method, path, body, lines, said)
