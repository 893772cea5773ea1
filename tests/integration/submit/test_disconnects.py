"""Callers that hang up, and a process that stops: nothing is held for nobody, and nobody who waits is cut off."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
import sqlalchemy as sa

from receiver.ledger.schema import submissions
from receiver.submit.limits import SubmitLimits
from tests.servers.skyvern import Simulate
from tests.servers.submitting import Make, Submitting
from tests.support.waiting import PATIENCE, eventually


class Upstream:
    """Stands for Skyvern: answers with a body of which `first` bytes come, and the rest never does."""

    def __init__(self, first: int, length: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._first, self._length, self._over = first, length, False
        self.connections: list[socket.socket] = []
        self.closed: list[float] = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections.append(connection)
            if self._over:  # closed while this one was accepted
                connection.close()
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        head = f"HTTP/1.1 200 OK\r\ncontent-type: video/webm\r\ncontent-length: {self._length}\r\n\r\n"
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(head.encode() + b"x" * self._first)
            while connection.recv(65536):
                pass
        self.closed.append(time.monotonic())

    def close(self) -> None:
        self._over = True
        self._listener.close()
        for each in self.connections:
            each.close()


@pytest.fixture
def upstream() -> Iterator[Callable[[int, int], Upstream]]:
    made: list[Upstream] = []

    def make(first: int, length: int) -> Upstream:
        made.append(Upstream(first, length))
        return made[-1]

    yield make
    for each in made:
        each.close()


def hold(rig: Submitting, path: str, read: int = 1) -> socket.socket:
    """A connection on which `path` is asked for, and of whose answer `read` bytes have come."""
    host, port = rig.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=PATIENCE)
    connection.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\nx-api-key: {rig.whole_key}\r\n\r\n".encode())
    while read > 0:
        piece = connection.recv(65536)
        assert piece, "the answer ended"
        read -= len(piece)
    return connection


@pytest.mark.parametrize(
    ("first", "read"),
    [(8 << 20, 5 << 20), (8 << 20, 0), (1000, 0), (0, 0)],
    ids=["in the middle", "before its first piece", "while we read the beginning", "before anything came"],
)
def test_upstream_body_is_closed_when_the_client_hangs_up(
    submitting: Make, upstream: Callable[[int, int], Upstream], first: int, read: int
) -> None:
    skyvern = upstream(first, 1 << 30)
    rig = submitting(skyvern.url, dispatching=False)
    connection = hold(rig, "/v1/artifacts/a_1/content", read)
    eventually(lambda: skyvern.connections)

    connection.close()

    eventually(lambda: len(skyvern.closed) == 1)


def test_stopping_process_answers_all_waits(submitting: Make, simulate_skyvern: Simulate) -> None:
    limits = SubmitLimits(after_stop=PATIENCE)
    rig = submitting(simulate_skyvern(run_seconds=1000.0).url, dispatching=False, limits=limits)
    run_ids = [rig.task(f"p{number}").json()["run_id"] for number in range(4)]
    with ThreadPoolExecutor(20) as pool:
        asked = [pool.submit(rig.client.get, f"/v1/runs/{run_ids[n % 4]}?wait=300") for n in range(20)]
        eventually(lambda: rig.held() == 20)

        rig.serving.stop()

        answers = [each.result(timeout=PATIENCE) for each in asked]
        assert {answer.status_code for answer in answers} == {200}
        assert {answer.json()["status"] for answer in answers} <= {"created", "queued", "running"}
    rig.serving.join()


async def test_silent_skyvern_does_not_delay_the_stop(
    submitting: Make, upstream: Callable[[int, int], Upstream]
) -> None:
    skyvern = upstream(0, 10)
    rig = submitting(skyvern.url, dispatching=False, limits=SubmitLimits(after_stop=0.3))
    _known(rig, "tsk_1")
    asked = asyncio.create_task(asyncio.to_thread(rig.client.get, "/v1/runs/tsk_1?wait=300"))
    await asyncio.to_thread(eventually, lambda: rig.held() == 1)

    rig.serving.stop()

    answer: httpx2.Response = await asyncio.wait_for(asked, PATIENCE)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")


def _known(rig: Submitting, run_id: str) -> None:
    row = {"id": "sub_1", "source": "skyvern", "key_id": "k", "call": "tasks", "state": "accepted"}
    row |= {"run_id": run_id, "request_hash": "h", "created_at": 1.0, "updated_at": 1.0}
    rig.ledger.write(lambda connection: connection.execute(sa.insert(submissions).values(**row)) and None)


def test_wait_ends_when_its_client_hangs_up(submitting: Make, simulate_skyvern: Simulate) -> None:
    rig = submitting(simulate_skyvern(run_seconds=1000.0).url, dispatching=False)
    run_id = rig.task().json()["run_id"]
    connection = hold(rig, f"/v1/runs/{run_id}?wait=300", read=0)
    eventually(lambda: rig.held() == 1)

    connection.close()

    eventually(lambda: rig.held() == 0, 40)  # it would end by itself after 60


def test_hang_ups_return_connections_to_the_pool(submitting: Make, upstream: Callable[[int, int], Upstream]) -> None:
    skyvern = upstream(5 << 20, 1 << 30)
    rig = submitting(skyvern.url, dispatching=False)

    for _ in range(110):  # more than may be open at once
        hold(rig, "/v1/artifacts/a_1/content", 0).close()

    eventually(lambda: len(skyvern.connections) > 0 and len(skyvern.closed) == len(skyvern.connections))
    hold(rig, "/v1/artifacts/a_1/content").close()


def test_silent_skyvern_does_not_extend_a_wait(submitting: Make, upstream: Callable[[int, int], Upstream]) -> None:
    rig = submitting(upstream(0, 60).url, dispatching=False, limits=SubmitLimits(after_wait=0.3))
    _known(rig, "tsk_1")

    answer = rig.client.get("/v1/runs/tsk_1?wait=0.2")

    assert (answer.status_code, answer.headers["retry-after"]) == (504, "5")
