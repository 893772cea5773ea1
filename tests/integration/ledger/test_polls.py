"""Polls are leased to one clock at a time, and requests move them, on both databases."""

from __future__ import annotations

from receiver.ledger import Ledger, polls
from receiver.ledger.polls import Poll
from tests.support.ledger import NOW, new_event, polls_due, record

RUN = ("skyvern", "open")


def ask(ledger: Ledger, run_id: str, at: float) -> int:
    return ledger.write(lambda connection: polls.ask(connection, "skyvern", {run_id: at}, NOW, soon=0.0))


def lease(ledger: Ledger, now: float) -> list[Poll]:
    return ledger.write(lambda connection: polls.lease_due(connection, "skyvern", now, 10))


def postpone(ledger: Ledger, poll: Poll, due_at: float, now: float = NOW) -> None:
    ledger.write(lambda connection: polls.postpone(connection, poll, due_at, now, "the run is running"))


def test_only_open_runs_are_polled_once_at_a_time(ledger: Ledger) -> None:
    record(ledger, new_event("ended"))
    assert (ask(ledger, "ended", NOW), ask(ledger, "open", NOW)) == (0, 1)
    # Given a poll that a clock sends
    (poll,) = lease(ledger, NOW)
    assert poll.key == RUN
    # When the run is asked for again, no other clock sends it before the lease has expired
    ask(ledger, "open", NOW)
    assert lease(ledger, NOW + 1) == []
    assert ledger.read(lambda connection: polls.count_due(connection, NOW + 1, ["skyvern"], 9)) == {}
    assert [each.key for each in lease(ledger, NOW + polls.LEASE)] == [RUN]


def test_request_during_a_hastened_poll_counts(ledger: Ledger) -> None:
    # Given a poll that is planned in an hour, and is sent now for a caller that waits
    ask(ledger, "open", NOW + 3600)
    ledger.write(lambda connection: polls.hasten(connection, [RUN], NOW))
    (poll,) = lease(ledger, NOW)
    # When it is asked for in ten minutes, such as for an end that a list has shown
    ask(ledger, "open", NOW + 600)
    postpone(ledger, poll, poll.planned_at)
    # Then it is polled then
    assert polls_due(ledger) == {"open": NOW + 600}
    # And without a request, as planned
    ledger.write(lambda connection: polls.hasten(connection, [RUN], NOW))
    (poll,) = lease(ledger, NOW)
    postpone(ledger, poll, poll.planned_at)
    assert polls_due(ledger) == {"open": NOW + 600}


def test_expired_lease_does_not_postpone_a_later_poll(ledger: Ledger) -> None:
    ask(ledger, "open", NOW)
    (late,) = lease(ledger, NOW)
    (current,) = lease(ledger, NOW + polls.LEASE)
    postpone(ledger, late, NOW + 9000)
    assert lease(ledger, NOW + polls.LEASE + 1) == []
    postpone(ledger, current, NOW + 200)
    assert polls_due(ledger) == {"open": NOW + 200}
