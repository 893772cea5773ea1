"""`runhook serve --admin-port` as a process: two ports, what is on each, and that neither can starve the other."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator

import httpx2
import pytest

from tests.servers.receiver import ReceiverProcess, body
from tests.servers.valkey import free_port
from tests.support.waiting import Stopwatch, eventually

Receivers = Callable[..., ReceiverProcess]

# Files that the receiver may open: 144 connections to the public port, 48 to the other.
FILES = 256


def status(url: str, path: str) -> int:
    return httpx2.get(url + path, timeout=30).status_code


def refuses(url: str) -> bool:
    try:
        httpx2.get(f"{url}/healthz", timeout=5)
    except httpx2.ConnectError:
        return True
    return False


def test_operator_paths_are_on_the_admin_port_only(receiver_factory: Receivers) -> None:
    # Given a receiver with a port for operators, on IPv6
    receiver = receiver_factory(f"redis://127.0.0.1:{free_port()}/0", start=False)
    port = free_port()
    admin = f"http://[::1]:{port}"
    receiver.configure({"server": {"admin": f"[::1]:{port}"}})
    receiver.start()
    assert f"runhook: admin port: {admin} " in receiver.log
    # Then each port has what is for its own users
    receiver.acked(body(1))
    assert [status(receiver.url, path) for path in ("/healthz", "/readyz", "/metrics", "/readyz?all")] == [
        *(200, 200),
        *(404, 404),
    ]
    assert [status(admin, path) for path in ("/healthz", "/readyz", "/metrics", "/readyz?all")] == [
        *(200, 200, 200),
        503,  # as Redis is away
    ]
    assert httpx2.get(f"{admin}/readyz?all", timeout=30).json()["wrong"]["redis"]
    assert httpx2.post(f"{admin}/webhooks/skyvern", content=body(2), timeout=30).status_code == 404
    assert status(admin, "/v1/runs/tsk_1") == 404
    # And /api/v1 is ours there, and Skyvern's here, both for callers with a key
    ours, skyverns = (httpx2.get(f"{url}/api/v1/runs/tsk_1", timeout=30) for url in (admin, receiver.url))
    assert (ours.status_code, ours.headers["content-type"]) == (401, "application/problem+json")
    assert (skyverns.status_code, skyverns.json()) == (403, {"detail": "Invalid credentials"})
    # When it is stopped while a connection to the admin port is open
    with httpx2.Client(base_url=admin) as client:
        assert client.get("/healthz").status_code == 200
        watch = Stopwatch()
        assert receiver.stop() == 0
        watch.at_most(10)
    # Then both are closed
    assert refuses(receiver.url)
    assert refuses(admin)


@pytest.fixture
def crowd() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def test_strangers_and_operators_have_separate_places(
    receiver_factory: Receivers, redis_url: str, crowd: contextlib.ExitStack
) -> None:
    # Given a receiver with few files, and an operator's connection that is idle
    receiver = receiver_factory(redis_url, start=False, admin=True)
    receiver.first = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({FILES}, {FILES}))"
    receiver.start()
    operator = crowd.enter_context(httpx2.Client(base_url=receiver.admin_url, timeout=30))
    first = operator.get("/healthz")
    assert first.status_code == 200
    # When strangers open more connections to the public port than it takes, a third of them with half a request, and
    # most idle after a whole one
    strangers = crowd.enter_context(contextlib.ExitStack())
    for number in range(FILES):
        stranger = strangers.enter_context(socket.create_connection(("127.0.0.1", receiver.port), 10))
        if number % 3:
            with contextlib.suppress(ConnectionError):  # what is over the limit is refused
                stranger.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                stranger.recv(15)
            continue
        with contextlib.suppress(ConnectionError):
            stranger.sendall(b"POST /webhooks/skyvern HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    # Then the operator's connection is still open, and answered at once
    watch = Stopwatch()
    again = operator.get("/healthz")
    assert again.status_code == 200
    assert again.extensions["network_stream"] is first.extensions["network_stream"]
    watch.at_most(5)
    # When these leave, and as many come to the admin port
    strangers.close()
    for _ in range(FILES):
        with contextlib.suppress(ConnectionError):
            crowd.enter_context(socket.create_connection(("127.0.0.1", receiver.admin_port), 10))
    # Then a webhook is acknowledged all the same
    eventually(lambda: receiver.post(body(1)).status_code == 202)

    # And an operator gets a place again when the silent ones have had their time
    def operator_is_answered() -> bool:
        with contextlib.suppress(httpx2.HTTPError):
            return status(receiver.admin_url, "/healthz") == 200
        return False

    eventually(operator_is_answered)


def test_a_busy_admin_port_and_one_that_is_none_are_one_line(receiver_factory: Receivers) -> None:
    receiver = receiver_factory("redis://127.0.0.1:1/0", start=False)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        busy = receiver.command("serve", "--port", str(receiver.port), "--admin-port", str(port))
    said = f"can't listen on 127.0.0.1:{port}: the port is in use; choose another with --admin-port or server.admin"
    assert (busy.returncode, busy.stderr) == (3, f"runhook: {said}\n")
    wrong = receiver.command("serve", "--port", str(receiver.port), "--admin-port", "http://127.0.0.1:1")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("runhook: --admin-port http://127.0.0.1:1: must be a port such as 9000, or ")
    assert len(wrong.stderr.splitlines()) == 1
