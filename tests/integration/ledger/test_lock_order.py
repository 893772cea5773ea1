"""Who locks runs and submissions does it in one order: runs, then submissions, both sorted. PostgreSQL only."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from receiver.domain.submission import NewSubmission, Submission, SubmissionMove, SubmissionState
from receiver.ledger import Ledger, run_polls
from receiver.ledger.schema import runs, submissions
from receiver.ledger.submissions import lifecycle, polls
from receiver.ledger.submissions.lifecycle import SubmitOutcome
from tests.support.ledger import NOW, lock_runs, wait_until_blocked

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


def due_times(ledger: Ledger) -> dict[str, float]:
    query = sa.select(submissions.c.id, submissions.c.due_at)
    return {row.id: row.due_at for row in ledger.read(lambda it: it.execute(query).all())}


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


def test_walk_locks_runs_in_the_order_of_a_recording(postgres_ledger: Ledger, in_between: Callable[..., Any]) -> None:
    # Given a run that was submitted, and one that was not
    submit(postgres_ledger, "a")
    # When a walk asks for both while a recording of both has locked the runs, and locks the submission then
    asked = in_between(
        lambda it: lock_runs(it, [("skyvern", "tsk_a"), ("skyvern", "tsk_b")], NOW),
        lambda it: run_polls.ask(it, "skyvern", {"tsk_a": NOW, "tsk_b": NOW}, NOW),
        lambda it: lock_submission(it, "a"),
    )
    # Then both come through, and both runs are asked for
    assert asked == 2
    assert due_times(postgres_ledger) == {"sub_a": NOW}
    due = postgres_ledger.read(lambda it: run_polls.count_due(it, NOW, ["skyvern"], 9))
    assert due == {"skyvern": 1}


def test_submissions_are_made_due_in_the_order_of_their_ids(
    postgres_ledger: Ledger, in_between: Callable[..., Any]
) -> None:
    # Given submissions that stand in the table in another order
    submit(postgres_ledger, "c", "b", "a")
    # When a walk makes them due while somebody locks them one after the other, by id
    made = in_between(
        lambda it: lock_submission(it, "a"),
        lambda it: run_polls.ask(it, "skyvern", dict.fromkeys(["tsk_c", "tsk_b", "tsk_a"], NOW), NOW),
        lambda it: lock_submission(it, "c"),
    )
    # Then both come through
    assert made == 3
    assert due_times(postgres_ledger) == dict.fromkeys(("sub_a", "sub_b", "sub_c"), NOW)


def test_walk_does_not_hasten_a_poll_leased_meanwhile(postgres_ledger: Ledger, in_between: Callable[..., Any]) -> None:
    # Given a walk that waits for a submission which a poll has leased in between
    submit(postgres_ledger, "a")
    asked = in_between(
        lambda it: it.execute(sa.update(submissions).values(due_at=NOW + polls.LEASE)),
        lambda it: run_polls.ask(it, "skyvern", {"tsk_a": NOW}, NOW),
        lambda it: None,
    )
    # Then the lease stays as it is
    assert asked == 1
    assert due_times(postgres_ledger) == {"sub_a": NOW + polls.LEASE}


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
