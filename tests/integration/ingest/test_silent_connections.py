"""Connections that stop sending: more of them than a process may have files by default, and one within a request."""

from __future__ import annotations

import asyncio
import contextlib
import re
import resource
import socket
from collections.abc import Callable, Iterator
from typing import Any, cast

import httpx2
import pytest

from receiver.ingest.endpoint import Ingest
from receiver.ingest.held_bodies import HeldBodies
from receiver.telemetry.receiver import ReceiverMetrics
from receiver.web.protocol import Listening, Seconds, options
from tests.servers.receiver import ReceiverProcess, body
from tests.support.waiting import PATIENCE, Stopwatch
from tests.support.web_server import serve

SILENT = 1100


@pytest.fixture
def usual_file_limit() -> Iterator[None]:
    """What a process that is started now may open by default: 1,024 files, as most systems have it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_webhook_is_accepted_beside_1100_silent_connections(
    receiver_factory: Callable[..., ReceiverProcess], redis_url: str, usual_file_limit: None
) -> None:
    # Given a receiver that was started with the usual limit, and many connections that send nothing
    receiver = receiver_factory(redis_url, admin=True)
    httpx2.get(f"{receiver.admin_url}/metrics", timeout=60)  # built late, and silence ends after some seconds
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    with contextlib.ExitStack() as stack:
        for _ in range(SILENT):
            stack.enter_context(socket.create_connection(("127.0.0.1", receiver.port), 10))

        # When a webhook comes
        watch = Stopwatch()
        answer = receiver.post(body(1))

        # Then it is acked, and the connections show
        assert answer.status_code == 202
        watch.at_most(5)
        shown = httpx2.get(f"{receiver.admin_url}/metrics").text
        found = dict(re.findall(r'^runhook_connections\{state="(\w+)"\} ([0-9.]+)$', shown, re.MULTILINE))
        assert float(found["open"]) > 500
        assert 'runhook_connections_ended_total{reason="too_many"}' in shown


@pytest.mark.parametrize(
    ("piece", "why"),
    [(b"", b"the body of the request did not come in time"), (b"{", b"the body did not come in within 0.2 s")],
    ids=["nothing", "one piece"],
)
async def test_body_that_stops_ends_before_the_longest_limit(piece: bytes, why: bytes) -> None:
    # Given the webhook endpoint with a short limit for bodies, behind a protocol that is patient after the first piece
    seconds = Seconds(piece=0.2, body=60.0, sweep=0.05)
    unused, listener = cast("Any", None), Listening(10, seconds=seconds)
    app = Ingest({"skyvern": ["s"]}, 1 << 20, unused, unused, unused, ReceiverMetrics(), HeldBodies(1 << 20), 0.2)
    async with serve(app, options(listener, lifespan="off", timeout_graceful_shutdown=1)) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)

        # When a client announces a body, and stops before or after its first piece
        writer.write(b"POST /webhooks/skyvern HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n" + piece)
        response = await asyncio.wait_for(reader.readuntil(b"}}"), PATIENCE)

        # Then the limit of the first piece, or that of the endpoint, ends the request
        assert response.startswith(b"HTTP/1.1 408 ")
        assert why in response
        writer.close()
