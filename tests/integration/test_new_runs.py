"""The row of a run that is new to the ledger: it is written once, and says no more than its event does."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import redis
import sqlalchemy as sa

from handlers.support.postgresql import BoundedConnection, Execution
from receiver.config.destinations import RouteConfig
from receiver.dispatch import Dispatcher
from receiver.domain.redaction import Redactor
from receiver.domain.submission import SubmissionMove
from receiver.inbox import InboxReader
from receiver.ledger import Ledger
from receiver.ledger.schema import runs
from receiver.ledger.submissions import lifecycle
from receiver.ledger.submissions.lifecycle import NewSubmission, SubmitOutcome
from receiver.routing.router import Router, RunView, Verdict
from tests.support.events import body, event


class Picky(Router):
    """A router with a bug that one run meets."""

    bad = ""

    def match(self, view: RunView, **more: Any) -> Verdict:
        if view.run.run_id == self.bad:
            raise ZeroDivisionError
        return super().match(view, **more)


@pytest.fixture
def router() -> Picky:
    return Picky([RouteConfig(name="everything", to=["results"])])


@pytest.fixture
def dispatcher(ledger: Ledger, redis_url: str, router: Picky) -> Iterator[Dispatcher]:
    connection = redis.Redis.from_url(redis_url, socket_timeout=10)
    it = Dispatcher(ledger, router, Redactor([]), InboxReader(connection, "d1"), connection)
    yield it
    it.close()


def row(ledger: Ledger, run_id: str) -> tuple[Any, ...]:
    it = runs.c
    query = sa.select(it.event_id, it.events, it.status, it.final, it.title).where(it.run_id == run_id)
    return tuple(ledger.read(lambda connection: connection.execute(query).one()))


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The text of each statement, whichever way it goes to the database."""
    noted: list[str] = []
    together = BoundedConnection.together

    def run(self: BoundedConnection, asked: Sequence[Execution], *, commit: bool = False) -> list[Any]:
        noted.extend(each.statement.text.decode() for each in asked)
        return together(self, asked, commit=commit)

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        noted.append(statement)

    monkeypatch.setattr(BoundedConnection, "together", run)
    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    yield noted
    sa.event.remove(sa.Engine, "before_cursor_execute", note)


def test_the_row_of_a_new_run_is_written_once(dispatcher: Dispatcher, ledger: Ledger, statements: list[str]) -> None:
    first, second = event(body("tsk_1", title="One")), event(body("tsk_2", "failed", failure_reason="x"))

    dispatcher.dispatch([first, second])

    assert len([each for each in statements if each.startswith(("INSERT INTO runs", "UPDATE runs"))]) == 1
    assert row(ledger, "tsk_1") == (first.id, 1, "completed", True, "One")
    assert row(ledger, "tsk_2") == (second.id, 1, "failed", True, None)


def test_the_same_event_again_changes_nothing(dispatcher: Dispatcher, ledger: Ledger) -> None:
    """Its dispatcher was killed between commit and acknowledgement."""
    first = event(body("tsk_1"))
    dispatcher.dispatch([first])

    assert dispatcher.dispatch([first]) == []

    assert row(ledger, "tsk_1") == (first.id, 1, "completed", True, None)


def test_further_events_are_counted_and_the_newest_gives_the_status(dispatcher: Dispatcher, ledger: Ledger) -> None:
    early, late = event(body("tsk_1", "running")), event(body("tsk_1", output={"n": 2}))
    dispatcher.dispatch([early])
    dispatcher.dispatch([late, event(body("tsk_1", output={"n": 2}, step_count=3))])

    assert row(ledger, "tsk_1")[1:4] == (3, "completed", True)


def test_a_run_whose_only_event_could_not_be_handled_has_not_ended(
    dispatcher: Dispatcher, router: Picky, ledger: Ledger
) -> None:
    """Else nobody would ask Skyvern for it, and its result would go nowhere."""
    router.bad = "tsk_1"
    dispatcher.dispatch([event(body("tsk_1", title="One")), event(body("tsk_2"))])
    assert row(ledger, "tsk_1") == ("", 0, "", False, None)
    assert row(ledger, "tsk_2")[1:4] == (1, "completed", True)

    router.bad = ""
    again = event(body("tsk_1", title="One", step_count=2))

    assert dispatcher.dispatch([again]) == ["results"]
    assert row(ledger, "tsk_1") == (again.id, 1, "completed", True, "One")


def test_a_lone_event_takes_two_requests_and_three_when_its_run_was_submitted(
    postgres_ledger: Ledger, redis_url: str, router: Picky, sent: list[None]
) -> None:
    connection = redis.Redis.from_url(redis_url, socket_timeout=10)
    it = Dispatcher(postgres_ledger, router, Redactor([]), InboxReader(connection, "d1"), connection)
    it.dispatch([event(body("tsk_1"))])
    now = time.time()
    new = NewSubmission("sub_1", "skyvern", "key", "tasks", "hash")
    accepted = SubmitOutcome(SubmissionMove.ACCEPT, "tsk_3", due_at=now + 600)
    postgres_ledger.write(lambda connection: lifecycle.begin(connection, new, now))
    postgres_ledger.write(lambda connection: lifecycle.record_outcome(connection, "sub_1", accepted, now))

    sent.clear()
    it.dispatch([event(body("tsk_2"))])
    assert len(sent) == 2

    sent.clear()
    it.dispatch([event(body("tsk_3"), submission_id="sub_1")])
    assert len(sent) == 3
    assert row(postgres_ledger, "tsk_3")[1:4] == (1, "completed", True)
    submission = postgres_ledger.read(lambda connection: lifecycle.one(connection, "sub_1"))
    assert submission is not None
    assert (submission.run_id, submission.due_at) == ("tsk_3", None)
    it.close()
