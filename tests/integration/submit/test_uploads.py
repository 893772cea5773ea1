"""Files of up to 30 MB go to Skyvern while they are received; their bytes are never held here."""

from __future__ import annotations

import contextlib
import hashlib
import random
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from receiver.submit.limits import SubmitLimits
from tests.servers.scripted import Reply, ScriptedServer
from tests.servers.skyvern import KEY
from tests.servers.submitting import Make, Submitting
from tests.support.waiting import PATIENCE

STORED = Reply(200, b'{"file_id": "file_1", "s3_uri": "s3://b/1"}', {"content-type": "application/json"})
LARGEST = 30 << 20


@pytest.mark.parametrize("path", ["/v1/upload_file", "/v1/upload_file/", "/api/v1/upload_file"])
def test_largest_upload_passes_complete(submitting: Make, scripted_server: ScriptedServer, path: str) -> None:
    """It is larger than submit.max_body, which bounds what is kept."""
    scripted_server.default = STORED
    rig = submitting(scripted_server.url, dispatching=False)
    file = random.Random(1).randbytes(LARGEST)

    answer = rig.client.post(path, files={"file": ("invoice.pdf", file, "application/pdf")}, data={"retention_days": 7})

    assert (answer.status_code, answer.json()["file_id"]) == (200, "file_1")
    (call,) = scripted_server.calls
    assert (call.method, call.path, call.headers["x-api-key"]) == ("POST", path, KEY)
    boundary = call.headers["content-type"].partition("boundary=")[2].encode()
    parts = call.body.split(b"--" + boundary)
    (sent,) = [part for part in parts if b'filename="invoice.pdf"' in part]
    assert (
        hashlib.sha256(sent.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")).digest() == hashlib.sha256(file).digest()
    )
    assert any(b'name="retention_days"' in part for part in parts)


class _Skyvern:
    """A server whose side of each connection is in the test's hand."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(PATIENCE)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def accept(self) -> socket.socket:
        connection, _ = self._listener.accept()
        connection.settimeout(PATIENCE)
        return connection

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def skyvern() -> Iterator[_Skyvern]:
    server = _Skyvern()
    yield server
    server.close()


def _begin(rig: Submitting, length: int) -> socket.socket:
    """Begin an upload as a caller, and leave its body to be sent."""
    caller = socket.create_connection(("127.0.0.1", urlsplit(rig.url).port or 0), timeout=PATIENCE)
    head = (
        f"POST /v1/upload_file HTTP/1.1\r\nhost: x\r\nx-api-key: {rig.whole_key}\r\ncontent-length: {length}\r\n"
        "content-type: multipart/form-data; boundary=x\r\nconnection: close\r\n\r\n"
    )
    caller.sendall(head.encode())
    return caller


def _read_until(connection: socket.socket, end: bytes) -> bytes:
    received = b""
    while end not in received:
        piece = connection.recv(65536)
        assert piece, "closed"
        received += piece
    return received


def test_each_piece_is_passed_on_before_the_next_one_comes(submitting: Make, skyvern: _Skyvern) -> None:
    rig = submitting(skyvern.url, dispatching=False)
    with _begin(rig, 9) as caller:
        caller.sendall(b"one")
        with skyvern.accept() as upstream:
            received = _read_until(upstream, b"one")
            assert b"\r\ncontent-length: 9\r\n" in received.lower()
            caller.sendall(b"two")
            assert _read_until(upstream, b"two") == b"two"
            caller.sendall(b"end")
            _read_until(upstream, b"end")
            upstream.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")
            assert _read_until(caller, b"{}").startswith(b"HTTP/1.1 200 ")


def test_broken_upload_is_not_completed_upstream(submitting: Make, skyvern: _Skyvern) -> None:
    rig = submitting(skyvern.url, dispatching=False)
    with _begin(rig, 9) as caller:
        caller.sendall(b"one")
        upstream = skyvern.accept()
        _read_until(upstream, b"one")
    with upstream:
        assert upstream.recv(100) == b""


def test_upload_limit_and_upstream_refusal(submitting: Make, scripted_server: ScriptedServer) -> None:
    limits = SubmitLimits(upload=5000)
    scripted_server.default = Reply(413, b'{"detail": "too large"}', {"content-type": "application/json"})
    rig = submitting(scripted_server.url, dispatching=False, submit={"max_body": 1024}, limits=limits)

    def pieces(length: int) -> Iterator[bytes]:
        yield from (b"x" * min(1000, length - start) for start in range(0, length, 1000))

    over = rig.client.post("/v1/upload_file", content=pieces(5001))
    assert (over.status_code, over.json()) == (413, {"detail": "The body is over 5000 bytes"})
    refused = rig.client.post("/v1/upload_file", content=b"x" * 5000)
    assert (refused.status_code, refused.json()) == (413, {"detail": "too large"})
    assert [len(call.body) for call in scripted_server.calls if call.headers.get("content-length")] == [5000]


def test_only_keys_that_may_operate_upload(submitting: Make, scripted_server: ScriptedServer) -> None:
    rig = submitting(scripted_server.url, dispatching=False)
    answer = rig.client.post("/v1/upload_file", content=b"x", headers={"x-api-key": rig.key("submit", "read")})
    assert answer.status_code == 403
    assert scripted_server.calls == []


def _sent_until_stopped(connection: socket.socket, most: int) -> int:
    """Send until nothing is taken for a second, or `most` bytes are sent. Returns how many were."""
    connection.settimeout(1)
    sent = 0
    with contextlib.suppress(TimeoutError):
        while sent < most:
            sent += connection.send(b"x" * 65536)
    return sent


def test_slow_upstream_slows_the_uploader(submitting: Make, skyvern: _Skyvern) -> None:
    rig = submitting(skyvern.url, dispatching=False)
    with _begin(rig, LARGEST) as caller:
        caller.sendall(b"x")
        with skyvern.accept():
            assert _sent_until_stopped(caller, LARGEST) < LARGEST // 2, "only what the sockets' buffers hold"
