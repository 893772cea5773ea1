"""Clients of Redis: all are made in one place, each with its own time-outs and number of retries."""

import ast
import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import uvloop

import receiver
from receiver.runtime.redis_client import connect, connect_async
from tests.support.waiting import PATIENCE

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


@pytest.fixture
def resetting() -> Iterator[str]:
    """The URL of a server that agrees to all commands, and resets the connection at a PING."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            peer, _ = server.accept()
            with peer:
                while b"PING" not in (asked := peer.recv(1 << 16)):
                    peer.sendall(b"+OK\r\n" * asked.count(b"*"))
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"redis://127.0.0.1:{server.getsockname()[1]}/0"
        thread.join(5)


@pytest.mark.parametrize("use", ["send_packed_command", "read_response"])
def test_reset_under_uvloop_is_a_lost_connection(resetting: str, use: str) -> None:
    async def until_lost(connection: Any) -> None:
        while True:  # on a busy machine it sees the reset later
            await getattr(connection, use)(*([[b"PING"]] if use == "send_packed_command" else []))
            await asyncio.sleep(0.01)

    async def after_a_reset() -> None:
        client = connect_async(resetting, timeout=PATIENCE, connect_timeout=PATIENCE, retries=0)
        connection: Any = client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        await connection.connect()
        await connection.send_packed_command([b"PING"])
        await asyncio.sleep(0.1)  # uvloop sees the reset, and closes the transport
        with pytest.raises(redis.ConnectionError):
            await asyncio.wait_for(until_lost(connection), PATIENCE)
        assert not connection.is_connected
        await client.aclose()

    uvloop.run(after_a_reset())
