"""Clients of Redis: all are made in one place, each with its own time-outs and number of retries."""

from __future__ import annotations

import ast
import asyncio
import functools
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

import receiver
from receiver.runtime.redis_client import connect, connect_async

ROOT = Path(receiver.__file__).parent
MAKERS = {"from_url", "Redis", "StrictRedis", "ConnectionPool", "BlockingConnectionPool"}


def makers(source: str) -> list[str]:
    """The calls in `source` that make a client of Redis, or a pool for one."""
    if not any(name in source for name in MAKERS):
        return []  # parsing all of Runhook takes a second
    calls = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    names = [func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "") for func in calls]
    return [name for name in names if name in MAKERS]


def test_one_module_makes_clients() -> None:
    found = {str(path.relative_to(ROOT)): makers(path.read_text()) for path in ROOT.rglob("*.py")}

    assert {path for path, calls in found.items() if calls} == {"runtime/redis_client.py"}


@pytest.fixture
def refusing() -> Iterator[tuple[str, list[int]]]:
    """The URL of a server that closes each connection at its first byte, and a list that grows with each one."""
    connections: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def serve() -> None:
            while True:
                try:
                    peer, _ = server.accept()
                except OSError:
                    return
                connections.append(peer.fileno())
                with peer:
                    peer.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"redis://127.0.0.1:{port}/0", connections
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)


@pytest.mark.parametrize("retries", [0, 1])
@pytest.mark.parametrize("make", [connect, connect_async])
async def test_broken_connection_is_retried_as_often_as_asked(
    refusing: tuple[str, list[int]], make: Callable[..., Any], retries: int
) -> None:
    url, connections = refusing
    client = make(url, timeout=2.0, connect_timeout=2.0, retries=retries)
    with pytest.raises(redis.ConnectionError):
        await client.ping()
    await client.aclose() if make is connect_async else client.close()
    assert len(connections) == 1 + retries


class _Closed:
    """A transport's writer and reader after a reset, as uvloop has them."""

    def __getattr__(self, name: str) -> Any:
        def use(*_: object, **__: object) -> None:
            raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")

        return use


@pytest.mark.parametrize("use", ["send_packed_command", "read_response", "can_read", "connect"])
async def test_reset_under_uvloop_is_a_lost_connection(monkeypatch: pytest.MonkeyPatch, use: str) -> None:
    client = connect_async("redis://127.0.0.1:1/0", timeout=2.0, connect_timeout=2.0, retries=0)
    connection: Any = client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
    if use == "connect":
        monkeypatch.setattr(connection, "_connect", functools.partial(asyncio.sleep, 0))
        monkeypatch.setattr(connection, "on_connect_check_health", _Closed().on_connect)
    else:
        connection._reader = connection._writer = connection._parser._stream = _Closed()
        monkeypatch.setattr(connection._parser, "can_read", _Closed().can_read)
        monkeypatch.setattr(connection._parser, "read_response", _Closed().read_response)

    with pytest.raises(redis.ConnectionError):
        await getattr(connection, use)(*([b"PING"] if use == "send_packed_command" else []))

    assert not connection.is_connected
    await client.aclose()
