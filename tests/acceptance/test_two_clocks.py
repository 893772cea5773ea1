"""Two clock processes on one ledger: each thing that comes due is done once, and one of them is enough."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from receiver.domain.delivery import DeliveryMove
from receiver.domain.new_event import NewEvent
from receiver.domain.submission import NewSubmission, SubmissionMove
from receiver.ledger.deliveries import claims
from receiver.ledger.deliveries.claimed import Claimed
from receiver.ledger.schema import attempts
from receiver.ledger.submissions import lifecycle
from receiver.ledger.submissions.lifecycle import SubmitOutcome
from tests.servers.deployment import Deployment
from tests.servers.http import ScriptedServer
from tests.servers.skyvern import SkyvernSimulator
from tests.servers.warm_python import Process
from tests.support.ledger import new_event, record_in, settle, with_tables

pytestmark = pytest.mark.long

EACH = 12
"""Of each kind of work, in each round."""


class Work(Deployment):
    """A deployment in which much comes due at one moment: retries, lapsed claims, polls of runs without a webhook."""

    consumer: ScriptedServer
    skyvern: SkyvernSimulator
    tokens = itertools.count()

    def comes_due(self, name: str) -> list[str]:
        """A round of it; the runs that are to be looked for."""
        now = time.time()
        waiting = self._sent([new_event(f"{name}_retry_{n}", "hook") for n in range(EACH)], "w", now)
        assert settle(self.ledger, waiting, DeliveryMove.DEFER, now=now, due_at=now + 0.5) == []
        self._sent([new_event(f"{name}_lapse_{n}", "hook") for n in range(EACH)], "elsewhere", now - 14.5)
        runs = [self.skyvern.submit(f"{name} {n}")["run_id"] for n in range(EACH)]
        self.skyvern.wait_final(*runs)
        for run_id in runs:
            token = f"sub_{next(self.tokens):032x}"
            new = NewSubmission(token, "skyvern", "k", "tasks", f"hash of {token}")
            self.ledger.write(lambda it, new=new: lifecycle.begin(it, new, now))  # type: ignore[misc]
            answer = SubmitOutcome(SubmissionMove.ACCEPT, run_id, "task_v1", 200, b"{}", due_at=now + 0.5)
            self.ledger.write(
                lambda it, token=token, answer=answer: lifecycle.record_outcome(it, token, answer, now)  # type: ignore[misc]
            )
        return runs

    def _sent(self, events: list[NewEvent], owner: str, now: float) -> list[Claimed]:
        """Events whose deliveries are claimed in the transaction that makes them, before any worker can."""

        def work(connection: sa.Connection) -> list[Claimed]:
            record_in(connection, events, now)
            return list(claims.claim(connection, "hook", EACH, owner, now, 15))

        claimed = self.ledger.write(work)
        assert len(claimed) == EACH
        return claimed

    def outcomes(self) -> Counter[str]:
        query = sa.select(attempts.c.outcome)
        return Counter(self.ledger.read(lambda connection: connection.execute(query).scalars().all()))


@pytest.fixture(params=["sqlite", "postgresql"])
def work(
    request: pytest.FixtureRequest, tmp_path: Path, redis_url: str, skyvern_simulator: SkyvernSimulator
) -> Iterator[Work]:
    sqlite = request.param == "sqlite"
    url = f"sqlite:///{tmp_path / 'ledger.db'}" if sqlite else str(request.getfixturevalue("postgres_url"))
    with ScriptedServer() as consumer:
        source = {"secrets": ["x"], "api_base": skyvern_simulator.url, "api_key": skyvern_simulator.key}
        config = {
            "sources": {"skyvern": source},
            "sinks": {"hook": {"type": "http", "url": consumer.url}},
            "routes": [{"name": "all", "to": ["hook"]}],
            "reconcile": {"budget": "100/s", "webhook_grace": 0},
        }
        it = Work(tmp_path / "work", redis_url, url, config)
        it.consumer, it.skyvern = consumer, skyvern_simulator
        with_tables(it.ledger)
        yield it
        it.end()
    logs = it.log_of("worker") + it.log_of("clock")
    assert "Traceback" not in logs, logs[-3000:]
    assert "clock.trouble" not in logs, logs[-3000:]


@pytest.fixture
def two_clocks(work: Work) -> Iterator[Callable[[], list[Process]]]:
    made: list[Process] = []

    def start() -> list[Process]:
        made.extend(work.run("clock") for _ in range(2))
        return made

    yield start
    for process in made:
        if process.poll() is None:
            process.kill()
        process.wait()


def test_two_clocks_do_each_task_once_and_one_suffices(work: Work, two_clocks: Callable[[], list[Process]]) -> None:
    # Given much that comes due while two clocks run
    work.run("worker")
    first, second = two_clocks()
    runs = work.comes_due("a")
    # Then all of it is done, and nothing twice
    work.all_delivered(3 * EACH)
    assert first.poll() is second.poll() is None
    assert [work.skyvern.run(run_id).polls for run_id in runs] == [1] * EACH
    assert work.outcomes() == {"unavailable": EACH, "lapsed": EACH, "accepted": 3 * EACH}
    assert len(work.consumer.requests) == 3 * EACH
    # And when one of them is killed, the other goes on
    first.kill()
    runs = work.comes_due("b")
    work.all_delivered(6 * EACH)
    assert second.poll() is None
    assert [work.skyvern.run(run_id).polls for run_id in runs] == [1] * EACH
    assert work.outcomes() == {"unavailable": 2 * EACH, "lapsed": 2 * EACH, "accepted": 6 * EACH}
    assert len(work.consumer.requests) == 6 * EACH
