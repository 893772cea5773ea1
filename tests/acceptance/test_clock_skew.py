"""Hosts whose clocks differ by twenty minutes, and a ledger on PostgreSQL: nothing is late for that, nor early."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from tests.servers.deployment import Deployment
from tests.servers.http import Reply, ScriptedServer
from tests.servers.receiver import body
from tests.servers.warm_python import Process
from tests.support import queries
from tests.support.waiting import PATIENCE, eventually

pytestmark = pytest.mark.long

SKEW = 600.0
PAUSE = 4.0
"""Seconds that the sink asks to be left alone."""
# Much less than the clocks differ by, and much more than a busy machine needs.
SOON = PATIENCE


def set_clock(seconds: float) -> str:
    """Python that a process runs first: from then on its clock is that much ahead of this machine's."""
    return f"import time\ntrue_time = time.time\ntime.time = lambda: true_time() + {seconds}"


@pytest.fixture
def hosts() -> Iterator[list[Process]]:
    """Processes that are ended with the test."""
    started: list[Process] = []
    yield started
    for process in started:
        process.terminate()
    for process in started:
        process.wait(60)


def test_hosts_with_skewed_clocks_send_on_time(
    deployment: Callable[..., Deployment], redis_url: str, postgres_url: str, hosts: list[Process]
) -> None:
    with ScriptedServer() as consumer:
        it = deployment(
            redis_url,
            postgres_url,
            sinks={"hook": {"type": "http", "url": consumer.url, "retry": {"first": "100ms"}}},
            routes=[{"name": "all", "to": ["hook"]}],
            allowed_addresses=["127.0.0.1"],
        )
        # Given a dispatcher and a clock on a host that is ahead, and a deliverer on one that is behind
        hosts += [
            it.run("worker", "--only", "dispatch", first=set_clock(SKEW)),
            it.run("clock", first=set_clock(SKEW)),
            it.run("worker", "--only", "hook", first=set_clock(-SKEW)),
        ]
        it.start()
        consumer.script += [Reply(503, {"retry-after": str(PAUSE)})]
        # When an event comes
        it.acked(body(1))
        # Then it is sent at once, though it was made due by a clock that is twenty minutes ahead
        eventually(lambda: len(consumer.requests) == 1, SOON)
        # And once more when the sink asked for it, though the clock that is ahead tells when that is
        eventually(lambda: len(consumer.requests) == 2, PAUSE + SOON)
        assert consumer.requests[1].at - consumer.requests[0].at >= PAUSE - 0.1
        it.all_delivered(1)

        # And its attempts tell the true time, and how long they took
        tried = it.ledger.read(lambda it: queries.list_attempts(it, run_id="tsk_000001"))
        assert [attempt["outcome"] for attempt in tried] == ["unavailable", "accepted"]
        for attempt in tried:
            assert abs(attempt["ended_at"] - time.time()) < SOON + PAUSE
            assert 0 <= attempt["ended_at"] - attempt["started_at"] < SOON
