"""Hosts that sleep, and a clock that is set forward: nothing is sent twice for that, and no claim lapses too early.

A process that stands still, and whose time.monotonic() leaves that time out, is one of a host that sleeps.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from threading import Event

import pytest
import sqlalchemy as sa

from receiver.ledger.schema import attempts, deliveries
from tests.servers.deployment import Deployment
from tests.servers.http import Reply, ScriptedServer
from tests.servers.receiver import body
from tests.support.processes import descendants, state_and_parent
from tests.support.waiting import eventually

pytestmark = pytest.mark.long

HELD = 4
"""Deliveries that the worker has claimed: one is under way, and the others wait for its place."""
FAST = 12
"""Deliveries before them, for which the worker finds the sink fast: only then it claims ahead."""
ALL = FAST + HELD
DUE_IN = 12
"""Seconds after which a retry is due, by which a tick of the clock shows: fewer than a claim holds."""


class Host:
    """A worker and a clock, of which `shifted` have a clock of Python's module time that a test sets.

    `shift`: sets that clock, to as many seconds before or after the true one.
    """

    def __init__(self, it: Deployment, consumer: ScriptedServer, name: str, *shifted: str) -> None:
        self.it, self.consumer, self.release = it, consumer, Event()
        self._shift = it.directory / "shift"
        self.shift(0.0)
        first = (
            f"import time\ntrue = time.{name}\ntime.{name} = lambda: true() + float(open({str(self._shift)!r}).read())"
        )
        for part in ("worker", "clock"):
            it.run(part, first=first if part in shifted else "")
        it.start()

    def shift(self, seconds: float) -> None:
        new = self._shift.with_suffix(".new")
        new.write_text(str(seconds))
        new.replace(self._shift)

    def hold(self) -> None:
        """Let the worker claim as many as it holds, and one more wait for its retry."""
        self.it.acked(*map(body, range(FAST)))
        self.it.all_delivered(FAST)
        retry = {"state": "waiting", "due_at": self.it.ledger.now() + DUE_IN}
        of_first = sa.update(deliveries).where(deliveries.c.run_id == "tsk_000000").values(retry)
        self.it.ledger.write(lambda connection: connection.execute(of_first))
        self.consumer.script.append(Reply(until=self.release))
        self.it.acked(*map(body, range(FAST, ALL)))
        held = {"delivered": FAST - 1, "waiting": 1, "sending": HELD}
        eventually(lambda: self.it.states() == held, what=self.it.states)

    def sleep(self, *parts: str, until: Callable[[], bool]) -> None:
        """Let these parts sleep; they do not hold the ledger's lock meanwhile."""
        pids = [pid for part in parts for pid in self.pids(part)]

        def stop() -> None:
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            eventually(lambda: {(state_and_parent(pid) or "?")[0] for pid in pids} == {"T"})

        self.it.ledger.write(lambda _: stop())
        began = time.monotonic()
        eventually(until)
        self.shift(began - time.monotonic())

    def wake(self, part: str) -> None:
        for pid in self.pids(part):
            os.kill(pid, signal.SIGCONT)

    def pids(self, part: str) -> list[int]:
        return [(top := self.it.parts[part].pid), *sorted(descendants(top))]

    def lapsed(self) -> bool:
        """Whether all claims have run out, as far as time goes."""
        held = sa.select(sa.func.max(deliveries.c.claim_until))
        return bool(self.it.ledger.read(lambda it: it.execute(held).scalar()) < self.it.ledger.now())

    def all_sent_once(self) -> None:
        """Let the send under way end, and see that all is delivered by one request each, except for the retry."""
        self.release.set()
        self.it.all_delivered(ALL)
        sent = Counter(request.body for request in self.consumer.requests)
        assert sent == {body(number): 1 + (number == 0) for number in range(ALL)}

    def outcomes(self) -> Counter[str]:
        query = sa.select(attempts.c.outcome)
        return Counter(self.it.ledger.read(lambda connection: connection.scalars(query).all()))


Make = Callable[..., Host]


@pytest.fixture
def host(deployment: Callable[..., Deployment], redis_url: str) -> Iterator[Make]:
    with ScriptedServer() as consumer:

        def make(database_url: str, name: str, *shifted: str) -> Host:
            hook = {"type": "http", "url": consumer.url, "concurrency": 1, "timeout": 600}
            routes = [{"name": "all", "to": ["hook"]}]
            it = deployment(
                redis_url, database_url, sinks={"hook": hook}, routes=routes, allowed_addresses=["127.0.0.1"]
            )
            return Host(it, consumer, name, *shifted)

        yield make


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_sleep_of_a_host_lapses_no_claim(database: str, host: Make, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue("postgres_url") if database == "postgresql" else ""
    it = host(url, "monotonic", "worker", "clock")
    it.hold()
    # When the host sleeps for longer than a claim holds, and the clock wakes first
    it.sleep("worker", "clock", until=it.lapsed)
    it.wake("clock")
    eventually(lambda: it.it.states().get("queued") == 1)
    # Then what came due is queued, and no claim has lapsed
    assert it.it.states()["sending"] == HELD
    it.wake("worker")
    it.all_sent_once()
    assert it.outcomes() == {"accepted": ALL + 1}


def test_worker_that_slept_sends_nothing_twice(host: Make, postgres_url: str) -> None:
    it = host(postgres_url, "monotonic", "worker")
    it.hold()
    # When its host sleeps until the clock on another one has queued what it held
    it.sleep("worker", until=lambda: it.it.states() == {"delivered": FAST - 1, "queued": 1 + HELD})
    it.wake("worker")
    # Then it starts nothing by its earlier claims
    it.all_sent_once()
    assert it.outcomes() == {"accepted": ALL + 1, "lapsed": HELD - 1}


def test_clock_set_forward_lapses_no_claim(host: Make) -> None:
    it = host("", "time", "worker", "clock")
    it.hold()
    # When the time is set forward by more than a claim holds, and the clock has queued what is due
    it.shift(60.0)
    eventually(lambda: it.it.states().get("queued") == 1)
    # Then no claim has lapsed
    assert it.it.states()["sending"] == HELD
    it.all_sent_once()
    assert it.outcomes() == {"accepted": ALL + 1}
