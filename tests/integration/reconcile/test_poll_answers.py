"""What Skyvern's answer to a poll makes of the next one: it is later, as Skyvern asks, or there is none any more."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
import sqlalchemy as sa

from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.domain.poll_schedule import LOST_AFTER
from receiver.domain.submission import NewSubmission, SubmissionMove
from receiver.ledger import Ledger, polls
from receiver.ledger.lists import submissions
from receiver.ledger.schema import runs
from receiver.ledger.submissions import lifecycle
from receiver.ledger.submissions.lifecycle import SubmitOutcome
from receiver.reconcile import poller
from receiver.reconcile.poller import Reconciler
from tests.servers.scripted import Reply, ScriptedServer
from tests.support.events import body
from tests.support.ledger import with_tables
from tests.support.reconciling import MakeRig, Rig, change_polls

TOKEN = "sub_" + "0123456789abcdef" * 2
NOT_FOUND = Reply(404, b'{"detail": "Run not found"}', {"content-type": "application/json"})

# Begins a submission of this age in seconds, its run known, and polls once for it; returns what became of it. `ended`:
# the seconds since the run's end, which the ledger knows. `before`: what the poll before it came to.
Poll = Callable[..., "Polled"]


class Polled(NamedTuple):
    """What a poll came to. `due_at`: of the next one."""

    due_at: float | None
    reason: str


@pytest.fixture
def reconciler(tmp_path: Path, redis_url: str, scripted_server: ScriptedServer) -> Iterator[Reconciler]:
    environ = {"REDIS_URL": redis_url, "DATABASE_URL": f"sqlite:///{tmp_path}/ledger.db", "RUNHOOK_DATA": str(tmp_path)}
    settings = Settings.from_env({**environ, "PUBLIC_URL": "https://hooks.example.com"})
    source = {"secrets": ["x"], "api_base": scripted_server.url, "api_key": "key"}
    it = poller.build(settings, Config.model_validate({"sources": {"skyvern": source}}))
    yield it
    it.close()


@pytest.fixture
def poll(tmp_path: Path, reconciler: Reconciler) -> Iterator[Poll]:
    ledger = with_tables(Ledger(f"sqlite:///{tmp_path}/ledger.db"))

    def once(age: float, ended: float | None = None, before: str = "") -> Polled:
        began = time.time() - age
        new = NewSubmission(TOKEN, "skyvern", "k", "tasks", "hash")
        answer = SubmitOutcome(SubmissionMove.ACCEPT, "tsk_1", "task_v1", 200, b"{}", due_at=1.0)
        ledger.write(lambda connection: lifecycle.begin(connection, new, began))
        ledger.write(lambda connection: lifecycle.record_outcome(connection, TOKEN, answer, began))
        change_polls(ledger, reason=before)
        if ended is not None:
            end = sa.update(runs).values(final=True, updated_at=time.time() - ended)
            ledger.write(lambda connection: connection.execute(end).rowcount)
        assert reconciler.drain(20) == 1
        row = ledger.read(lambda connection: submissions.get(connection, TOKEN))
        assert row is not None
        return Polled(row["due_at"], row["reason"])

    yield once
    ledger.close()


@pytest.mark.parametrize("status", [200, 404, 429, 503])
def test_the_next_poll_comes_no_sooner_than_skyvern_asks(
    poll: Poll, scripted_server: ScriptedServer, status: int
) -> None:
    scripted_server.default = Reply(status, body("tsk_1", "running"), {"retry-after": "3000"})
    began = time.time()

    due_at = poll(60.0).due_at

    assert due_at is not None
    assert 3000 <= due_at - began < 3060 + (time.time() - began)


@pytest.mark.parametrize(
    ("retry_after", "least", "most"),
    [(None, 0, 60), ("1", 10, 60), ("Fri, 01 Jan 2100 00:00:00 GMT", 86_000, 88_000)],
)
def test_wait_between_polls_is_bounded(
    poll: Poll, scripted_server: ScriptedServer, retry_after: str | None, least: float, most: float
) -> None:
    scripted_server.default = Reply(503, b"", {"retry-after": retry_after} if retry_after else {})

    due_at = poll(60.0).due_at

    assert due_at is not None
    assert least < due_at - time.time() < most


@pytest.mark.parametrize(
    ("age", "before", "goes_on"),
    [
        (60.0, "Skyvern answered 404", True),
        (LOST_AFTER - 60, "Skyvern answered 404", True),
        (LOST_AFTER + 60, "Skyvern answered 404", False),
        (3 * LOST_AFTER, "the run is running", True),  # a proxy before Skyvern says that, for a moment
        (3 * LOST_AFTER, "Skyvern answered 503", True),
    ],
)
def test_unknown_run_is_polled_for_one_day(
    poll: Poll, scripted_server: ScriptedServer, age: float, before: str, goes_on: bool
) -> None:
    scripted_server.default = NOT_FOUND

    found = poll(age, before=before)

    assert (found.due_at is not None) is goes_on
    assert found.reason == "Skyvern answered 404"


def test_young_end_is_polled_again_after_the_grace(poll: Poll, scripted_server: ScriptedServer) -> None:
    # Given a run that has ended just now, and a webhook that may come within two minutes
    now = datetime.now(UTC).replace(tzinfo=None)
    times = {"created_at": (now - timedelta(seconds=5)).isoformat(), "finished_at": now.isoformat()}
    scripted_server.default = Reply(200, body("tsk_1", "completed", modified_at=now.isoformat(), **times))
    began = time.time()

    due_at = poll(10.0).due_at

    assert due_at is not None
    assert 100 < due_at - began < 121 + (time.time() - began)


def test_recorded_result_clears_why_it_was_awaited(poll: Poll, scripted_server: ScriptedServer) -> None:
    began = datetime.now(UTC).replace(tzinfo=None) - timedelta(seconds=590)
    times = {"created_at": began.isoformat(), "finished_at": (began + timedelta(seconds=9)).isoformat()}
    scripted_server.default = Reply(200, body("tsk_1", "completed", modified_at=times["finished_at"], **times))

    found = poll(600.0, before="the run is completed; its webhook may still come")

    assert (found.due_at, found.reason) == (None, "")


@pytest.mark.parametrize(
    ("ended", "status", "goes_on"),
    [
        (LOST_AFTER - 60, 503, True),
        (LOST_AFTER - 60, 429, True),
        (LOST_AFTER + 60, 503, False),
        (60.0, 404, False),
    ],
)
def test_ended_run_is_polled_through_a_day_of_trouble(
    poll: Poll, scripted_server: ScriptedServer, ended: float, status: int, goes_on: bool
) -> None:
    scripted_server.default = Reply(status)

    assert (poll(60.0, ended=ended).due_at is not None) is goes_on


def test_an_answer_of_another_run_is_no_answer(poll: Poll, scripted_server: ScriptedServer) -> None:
    scripted_server.default = Reply(200, body("tsk_2", "completed"))

    found = poll(LOST_AFTER)

    assert found.due_at is not None
    assert found.reason == "Skyvern's answer is of no such run"


def test_a_run_that_takes_longer_than_a_day_is_polled_on(poll: Poll, scripted_server: ScriptedServer) -> None:
    scripted_server.default = Reply(200, body("tsk_1", "running"))

    assert poll(30 * LOST_AFTER).due_at is not None


def hastened(it: Rig) -> None:
    """Poll the run tsk_1 in 1,000 s, and now for a caller that waits."""
    it.begin()
    it.answered("tsk_1", due_at=time.time() + 1000)
    hasten(it)


def hasten(it: Rig) -> None:
    it.ledger.write(lambda connection: polls.hasten(connection, [("skyvern", "tsk_1")], time.time()))


def test_waiting_caller_leaves_the_planned_poll(rig: MakeRig, scripted_server: ScriptedServer) -> None:
    # Given a run that is polled sooner, because a caller waits for it
    it = rig(scripted_server)
    scripted_server.default = Reply(200, body("tsk_1", "running"))
    hastened(it)
    for _ in range(3):
        assert it.reconciler.drain(20) == 1
        hasten(it)
    it.reconciler.drain(20)
    # Then its next poll is the planned one, and none of these counts
    found = it.poll_of()
    assert found is not None
    assert 900 < found.due_at - time.time() <= 1000
    assert (found.polls, found.status) == (0, "running")


@pytest.mark.parametrize("answer", [Reply(429), Reply(503, b"", {"retry-after": "30"})])
def test_waiting_caller_waits_as_long_as_skyvern_asks(
    rig: MakeRig, scripted_server: ScriptedServer, answer: Reply
) -> None:
    it = rig(scripted_server)
    scripted_server.default = answer
    hastened(it)
    assert it.reconciler.drain(20) == 1
    # When the caller waits on
    hasten(it)
    # Then Skyvern is not called again before that time, by any clock
    assert it.reconciler.drain(20) == 0
    assert it.reconciler.count_due() == 0
    assert len(scripted_server.calls) == 1
