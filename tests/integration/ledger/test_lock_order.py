"""Who locks runs and submissions does it in one order: runs, then submissions, both sorted. PostgreSQL only."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from receiver.domain.submission import NewSubmission, Submission, SubmissionMove, SubmissionState
from receiver.ledger import Ledger
from receiver.ledger.polls import ask
from receiver.ledger.schema import polls, runs, submissions
from receiver.ledger.submissions import lifecycle
from receiver.ledger.submissions.lifecycle import SubmitOutcome
from tests.support.ledger import NOW, lock_runs, polls_due, wait_until_blocked

LATER = NOW + 86_400


def submit(ledger: Ledger, *names: str) -> None:
    """Record submissions that are polled much later: of `a` the id is sub_a, and the run tsk_a."""
    for name in names:
        new = NewSubmission(f"sub_{name}", "skyvern", "k1", "tasks", name)
        accepted = SubmitOutcome(SubmissionMove.ACCEPT, f"tsk_{name}", "task_v1", 200, b"{}", due_at=LATER)
        ledger.write(lambda it, new=new: lifecycle.begin(it, new, NOW))  # type: ignore[misc]
        ledger.write(lambda it, new=new, done=accepted: lifecycle.record_outcome(it, new.id, done, NOW))  # type: ignore[misc]


def lock_submission(connection: sa.Connection, name: str) -> None:
    connection.execute(sa.select(submissions).where(submissions.c.id == f"sub_{name}").with_for_update())


@pytest.fixture
def in_between(postgres_ledger: Ledger) -> Callable[..., Any]:
    """A transaction that takes a first lock, waits until `work` waits for it, and takes a second one. Returns what
    `work` does. One of two that wait for each other would be made again: then it fails."""

    def run(first: Callable[..., Any], work: Callable[..., Any], second: Callable[..., Any]) -> Any:
        tries = []
        with ThreadPoolExecutor(1) as pool:

            def worked(connection: sa.Connection) -> Any:
                tries.append("work")
                return work(connection)

            def both(connection: sa.Connection) -> Future[Any]:
                tries.append("both")
                first(connection)
                working = pool.submit(postgres_ledger.write, worked)
                wait_until_blocked(postgres_ledger, working)
                second(connection)
                return working

            made = postgres_ledger.write(both).result()
        assert tries == ["both", "work"], "a deadlock"
        return made

    return run


def lock_poll(connection: sa.Connection, name: str) -> None:
    connection.execute(sa.select(polls).where(polls.c.run_id == f"tsk_{name}").with_for_update())


def test_walk_locks_polls_in_the_order_of_their_runs(postgres_ledger: Ledger, in_between: Callable[..., Any]) -> None:
    # Given polls that stand in the table in another order
    submit(postgres_ledger, "c", "b", "a")
    # When a walk makes them due while another transaction locks them one after the other
    asked = in_between(
        lambda it: lock_poll(it, "a"),
        lambda it: ask(it, "skyvern", dict.fromkeys(["tsk_c", "tsk_b", "tsk_a", "tsk_new"], NOW), NOW),
        lambda it: lock_poll(it, "c"),
    )
    # Then both come through
    assert asked == 4
    assert polls_due(postgres_ledger) == dict.fromkeys(("tsk_a", "tsk_b", "tsk_c", "tsk_new"), NOW)


@pytest.mark.parametrize(
    ("answered", "others", "locked"),
    [("b", ("c", "a"), ("a", "b", "c")), ("a", ("c", "b"), ("b", "c"))],
    ids=["another, then the answered one", "one of the others, then the other"],
)
def test_run_is_taken_from_submissions_in_order_of_their_ids(
    postgres_ledger: Ledger,
    in_between: Callable[..., Any],
    answered: str,
    others: tuple[str, str],
    locked: tuple[str, ...],
) -> None:
    # Given two submissions that stand in the table in another order, and have the run of a third one
    submit(postgres_ledger, *others)
    postgres_ledger.write(lambda it: it.execute(sa.update(submissions).values(run_id="tsk_run")))
    new = NewSubmission(f"sub_{answered}", "skyvern", "k1", "tasks", answered)
    postgres_ledger.write(lambda it: lifecycle.begin(it, new, NOW))
    # When the answer says whose it is, while somebody locks submissions one after the other, by id
    accepted = SubmitOutcome(SubmissionMove.ACCEPT, "tsk_run", "task_v1", 200, b"{}", due_at=LATER)
    first, *then = locked
    in_between(
        lambda it: lock_submission(it, first),
        lambda it: lifecycle.record_outcome(it, new.id, accepted, NOW),
        lambda it: [lock_submission(it, name) for name in then],
    )
    # Then both come through, and the run is the third one's alone
    query = sa.select(submissions.c.id, submissions.c.state, submissions.c.run_id)
    there = {row.id: (row.state, row.run_id) for row in postgres_ledger.read(lambda it: it.execute(query).all())}
    assert there == {
        new.id: (SubmissionState.ACCEPTED, "tsk_run"),
        **{f"sub_{name}": (SubmissionState.UNKNOWN, "") for name in others},
    }


def test_response_releases_a_token_bound_run_in_lock_order(
    postgres_ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = postgres_ledger
    # Given a submission without a run, and a run that a webhook with its token has told of
    new = NewSubmission("sub_a", "skyvern", "k1", "tasks", "a")
    ledger.write(lambda it: lifecycle.begin(it, new, NOW))
    ledger.write(lambda it: lock_runs(it, [("skyvern", "tsk_other")], NOW))
    bound = {"run_id": "tsk_other", "state": SubmissionState.ACCEPTED}
    of_token = sa.update(runs).where(runs.c.run_id == "tsk_other").values(submission_id="sub_a")
    read, reads = lifecycle.get, []

    def bound_after_the_first_read(connection: sa.Connection, submission_id: str) -> Submission | None:
        found = read(connection, submission_id)
        if not reads:
            ledger.write(lambda it: it.execute(sa.update(submissions).values(bound)))
        reads.append(found and found.run_id)
        return found

    ledger.write(lambda it: it.execute(of_token))
    monkeypatch.setattr(lifecycle, "get", bound_after_the_first_read)
    # When the answer names another run, while a further event of that one is recorded: run, then submission
    accepted = SubmitOutcome(SubmissionMove.ACCEPT, "tsk_a", "task_v1", 200, b"{}", due_at=LATER)
    with ThreadPoolExecutor(1) as pool:

        def recording(connection: sa.Connection) -> Future[Any]:
            lock_runs(connection, [("skyvern", "tsk_other")], NOW)
            answering = pool.submit(ledger.write, lambda it: lifecycle.record_outcome(it, "sub_a", accepted, NOW))
            wait_until_blocked(ledger, answering)
            lock_submission(connection, "a")
            return answering

        ledger.write(recording).result()
    # Then both come through, and the submission has the run of its answer only
    count = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    assert ledger.read(lambda it: it.exec_driver_sql(count).scalar_one()) == 0
    owners = sa.select(runs.c.run_id, runs.c.submission_id)
    assert dict(ledger.read(lambda it: it.execute(owners).all())) == {"tsk_a": "sub_a", "tsk_other": ""}
    # For it has read once more whose run it had become
    assert reads == ["", "tsk_other"]
