"""kill -9 at each step of each process, on both databases: no event is lost or doubled, and work continues by itself.

A plan of random kills hits most moments once in a thousand. Here a process is killed at its first call of the disk, a
server or another process after an event has come, then at its second, and so on until it makes no more.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import httpx2
import pytest

from receiver.domain.event import delivery_id, event_id
from receiver.ledger import Ledger
from tests.servers.deployment import Deployment
from tests.servers.receiver import body
from tests.servers.scripted import Reply, ScriptedServer
from tests.servers.valkey import ValkeyProcess
from tests.support import steps
from tests.support.waiting import eventually

pytestmark = pytest.mark.long

SINKS = ("hook", "results")
_PROGRAM_OF = {"main": "worker"}


class Watched(Deployment):
    """One whose parts are killed at a step."""

    redis: ValkeyProcess
    consumer: ScriptedServer
    results: Ledger
    number = 0

    @property
    def plans(self) -> Path:
        return self.directory / "plans"

    def watching(self, program: str) -> str:
        self.plans.mkdir(exist_ok=True)
        return f"from tests.support.steps import watch\nwatch({program!r}, {str(self.plans)!r})"

    def begin(self, program: str) -> None:
        if program == "serve":
            self.first = self.watching(program)
            self.start()
        else:
            self.run(program, first=self.watching(program))

    def survives(self, part: str, done: Callable[[], bool]) -> bool:
        """Whether the part lives when it is `done`. If not, it is begun again."""
        self.wait_for(lambda: not steps.is_planned(self.plans, part) or done())
        if steps.give_up(self.plans, part):
            return True
        program = _PROGRAM_OF.get(part, part)
        process = self.process if program == "serve" else self.parts[program]
        assert process is not None
        process.wait(60)
        self.begin(program)
        return False

    def wait_for(self, condition: Callable[[], bool]) -> None:
        said = lambda: f"{steps.killed(self.plans)[-1:]}\n{self.log_of('worker')[-2000:]}\n{self.log[-1000:]}"  # noqa: E731
        eventually(condition, every=0.01, what=said)

    def content(self) -> bytes:
        """The body of a run that is new."""
        self.number += 1
        return body(self.number)

    def send(self, content: bytes) -> int:
        """Post a webhook once; the status, or 0 without an answer."""
        try:
            return self.post(content).status_code
        except httpx2.HTTPError:
            return 0

    def is_done(self, content: bytes) -> bool:
        """Whether all sinks have the event, the ledger says so, and the inbox is empty."""
        found = self.deliveries(event_id=event_id("skyvern", content))
        return [row["state"] for row in found] == ["delivered"] * len(SINKS) and not self.waiting()

    def waiting(self) -> int:
        with closing(self.redis.connect()) as client:
            return int(client.xlen("runhook:inbox"))

    def calls(self, content: bytes) -> Counter[str]:
        """How often the consumer got this body, by key."""
        return Counter(call.headers["webhook-id"] for call in self.consumer.calls if call.body == content)

    def column(self, database: Ledger, query: str) -> list[str]:
        return database.read(lambda connection: [value for (value,) in connection.exec_driver_sql(query)])

    def assert_all_came_once(self, at_most: int = 2) -> None:
        """Each run has one event, a delivery for each sink, and one row; the consumer got it under one key, `at_most`
        so many times."""
        ledger = self.ledger
        runs = [json.loads(body(number))["run_id"] for number in range(1, self.number + 1)]
        assert sorted(self.column(ledger, "SELECT run_id FROM events")) == runs
        assert sorted(self.column(ledger, "SELECT run_id FROM deliveries")) == sorted(runs * len(SINKS))
        assert set(self.column(ledger, "SELECT state FROM deliveries")) == {"delivered"}
        assert sorted(self.column(self.results, "SELECT run_id FROM skyvern_runs")) == runs
        for number in range(1, self.number + 1):
            seen = self.calls(body(number))
            assert set(seen) == {delivery_id(event_id("skyvern", body(number)), "hook")}
            assert seen.total() <= at_most


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.longest)])
def watched(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Watched]:
    """One that is at work, and has delivered an event. Ledger and results are in databases of the same kind."""
    valkey, consumer = ValkeyProcess(tmp_path / "valkey").start(), ScriptedServer()
    directory = tmp_path / "deployment"
    if request.param == "sqlite":
        ledger, results = (f"sqlite:///{directory / name}" for name in ("data/ledger.db", "results.db"))
    else:
        ledger = results = request.getfixturevalue("postgres_url")
    sinks = {"hook": {"type": "http", "url": consumer.url}, "results": {"type": "database", "url": results}}
    config = {"sinks": sinks, "routes": [{"name": "all", "to": SINKS}], "allowed_addresses": ["127.0.0.1"]}
    it = Watched(directory, valkey.url, ledger, config)
    it.redis, it.consumer, it.results = valkey, consumer, Ledger(results)
    try:
        for program in ("worker", "clock", "serve"):
            it.begin(program)
        it.acked(it.content())
        it.all_delivered(len(SINKS))
        yield it
    finally:
        it.end()
        it.results.close()
        consumer.close()
        valkey.kill()
    logs = it.log + it.log_of("worker") + it.log_of("clock")
    assert "Traceback" not in logs, logs[-3000:]


def test_worker_with_the_first_event_of_a_run(watched: Watched) -> None:
    for step in itertools.count(1):
        # Given a worker that is idle
        watched.acked(before := watched.content())
        watched.wait_for(lambda: watched.is_done(before))
        # When an event comes, and the worker is killed at this step of its process
        steps.plan(watched.plans, "main", step, whole=True)
        watched.acked(content := watched.content())
        alive = watched.survives("main", lambda: watched.is_done(content))
        # Then the event arrives
        watched.wait_for(lambda: watched.is_done(content))
        if alive:
            break
    assert step > 20
    watched.assert_all_came_once()


def hold(watched: Watched) -> bytes:
    """Have a send under way, and kill its worker. Return the body."""
    held = threading.Event()
    watched.consumer.script += [Reply(until=held)]
    watched.acked(content := watched.content())
    watched.wait_for(lambda: watched.calls(content).total() == 1)
    watched.kill_part("worker")
    held.set()
    return content


@pytest.mark.longest  # what lapses twice waits ten seconds
def test_worker_that_releases_what_a_dead_one_held(watched: Watched) -> None:
    for step in itertools.count(1, 2):  # after one call is before the next
        content = hold(watched)
        # When the next worker is killed at this step
        steps.plan(watched.plans, "main", step, whole=True)
        watched.begin("worker")
        done = lambda: watched.is_done(content)  # noqa: E731, B023
        alive = watched.survives("main", done)
        # Then the one after it delivers the event
        watched.wait_for(done)
        if alive:
            break
    assert step > 20
    watched.assert_all_came_once(at_most=3)  # two workers may have been killed in their send


def test_clock_that_takes_back_what_has_lapsed(watched: Watched) -> None:
    for step in itertools.count(1, 2):
        # Given a claim that has run out
        content = hold(watched)
        steps.plan(watched.plans, "clock", step)
        watched.ledger.write(
            lambda connection: connection.exec_driver_sql(
                "UPDATE deliveries SET claim_until = 1 WHERE state = 'sending'"
            )
        )

        # When the clock is killed at this step
        def given_back() -> bool:
            found = watched.deliveries(event_id=event_id("skyvern", content))  # noqa: B023
            return "sending" not in {row["state"] for row in found}

        alive = watched.survives("clock", given_back)
        watched.wait_for(given_back)
        # Then the next worker delivers the event
        watched.begin("worker")
        watched.wait_for(lambda: watched.is_done(content))  # noqa: B023
        if alive:
            break
    assert step > 5
    watched.assert_all_came_once()


def test_a_receiver_that_commits_to_redis(watched: Watched) -> None:
    for step in itertools.count(1):
        # Given an event that its receiver was killed with at this step
        content = watched.content()
        steps.plan(watched.plans, "serve", step)
        status = watched.send(content)
        alive = watched.survives("serve", lambda: True)
        # When its sender tries again, if it was not acked
        if status != 202:
            watched.acked(content)
        # Then it arrives
        watched.wait_for(lambda: watched.is_done(content))  # noqa: B023
        if alive:
            break
    assert step > 2
    watched.assert_all_came_once()


def test_a_receiver_that_commits_to_its_spool_and_drains_it(watched: Watched) -> None:
    for step in itertools.count(1):
        # Given events that come while Redis is away, and a receiver that is killed at this step, be it there or later
        watched.redis.kill()
        watched.wait_for(lambda: watched.log.count("redis_away") > watched.log.count("redis_back"))
        contents = [watched.content(), watched.content()]
        steps.plan(watched.plans, "serve", step)
        acked = [watched.send(content) == 202 for content in contents]
        watched.redis.start()
        drained = lambda: all(map(watched.is_done, contents)) and not list(watched.data.rglob("*.seg"))  # noqa: E731, B023
        alive = watched.survives("serve", drained)
        # When what was not acked is sent again
        for content, was_acked in zip(contents, acked, strict=True):
            if not was_acked:
                watched.acked(content)
        # Then all arrive, and the spool is empty
        watched.wait_for(drained)
        if alive:
            break
    assert step > 10
    watched.assert_all_came_once()
