"""More silent connections than a process may have files by default, on a real receiver."""

from __future__ import annotations

import contextlib
import re
import resource
import socket
from collections.abc import Callable, Iterator

import httpx2
import pytest

from tests.servers.receiver import ReceiverProcess, body
from tests.support.waiting import Stopwatch

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
