"""When a child is started again, what its status says, and which children there are."""

from __future__ import annotations

import pytest

from receiver.errors import UsageError
from receiver.runtime.child import SharedStatus
from receiver.runtime.process import Restarts, StopRequests, respawn_delay
from receiver.runtime.supervisor import groups
from receiver.worker import choose_queues

QUEUES = ["dispatch", "deliver:ops", "deliver:results"]


def test_the_first_failure_costs_no_wait_and_a_crash_loop_five_seconds_at_the_most() -> None:
    delays = [respawn_delay(failures) for failures in range(12)]
    assert delays[:5] == [0.0, 0.0, 0.2, 0.4, 0.8]
    assert max(delays) == 5.0
    assert delays == sorted(delays)


def test_a_status_holds_what_a_unit_says_of_itself_and_texts_on_one_line() -> None:
    status = SharedStatus()
    assert (status.deadline, status.ready, status.pulse_due, status.sends) == (0.0, False, 0.0, 0)
    assert (status.exit_reason, status.trouble) == ("", "")
    status.deadline, status.ready, status.pulse_due, status.sends = 12.5, True, 13.5, 3
    status.exit_reason, status.trouble = "the ledger\ncan't be used", "it was\nheavy"
    assert (status.deadline, status.ready, status.pulse_due, status.sends) == (12.5, True, 13.5, 3)
    assert (status.exit_reason, status.trouble) == ("the ledger can't be used", "it was heavy")


def test_a_text_that_is_too_long_is_cut() -> None:
    status = SharedStatus()
    status.exit_reason = status.trouble = "ä" * 5000
    assert 100 < len(status.exit_reason) < 400
    assert 100 < len(status.trouble) < 400


def test_who_shares_a_process_has_it_with_the_others_until_it_is_set_apart() -> None:
    labels = ["dispatch", "a", "b", "c"]
    assert groups(labels, {"a", "b", "c"}, lambda _: False) == {("dispatch",), ("a", "b", "c")}
    assert groups(labels, {"a", "b", "c"}, {"b"}.__contains__) == {("dispatch",), ("b",), ("a", "c")}
    assert groups(labels, {"a", "c"}, {"a", "c"}.__contains__) == {("dispatch",), ("a",), ("b",), ("c",)}


def test_without_only_there_is_one_child_for_each_queue() -> None:
    assert choose_queues(QUEUES, [], 1) == {queue: queue for queue in QUEUES}


def test_more_dispatchers_share_one_queue() -> None:
    assert choose_queues(QUEUES, ["dispatch"], 3) == {
        "dispatch": "dispatch",
        "dispatch-2": "dispatch",
        "dispatch-3": "dispatch",
    }


def test_only_takes_names_of_sinks_and_of_queues() -> None:
    assert list(choose_queues(QUEUES, ["ops", "deliver:results", "ops"], 4)) == ["deliver:ops", "deliver:results"]


def test_a_sink_called_dispatch_can_be_named_by_its_queue() -> None:
    assert list(choose_queues([*QUEUES, "deliver:dispatch"], ["deliver:dispatch"], 1)) == ["deliver:dispatch"]


def test_only_with_an_unknown_name_says_which_there_are() -> None:
    with pytest.raises(UsageError, match="--only opps: no such sink in the config; there are dispatch, ops, results"):
        choose_queues(QUEUES, ["opps"], 1)


def test_two_requests_to_stop_at_once_are_one_and_a_later_one_is_urgent() -> None:
    now = [10.0]
    stops = StopRequests(clock=lambda: now[0])
    assert not stops
    stops()
    now[0] += 0.5
    stops()
    assert stops
    assert not stops.urgent
    now[0] += 0.5
    stops()
    assert stops.urgent


def test_each_new_reason_is_logged_once_and_a_stable_process_starts_over() -> None:
    restarts = Restarts(started_at=100.0)
    assert [restarts.failed("no disk", now) for now in (101.0, 102.0, 103.0)] == [True, False, False]
    assert restarts.failed("no memory", 104.0)
    assert (restarts.failures, restarts.due) == (4, 104.0 + respawn_delay(4))
    # One that never got to its work is not stable, however long it lived
    assert not restarts.failed("no memory", 200.0, stable=False)
    assert restarts.failures == 5
    assert restarts.failed("no memory", 200.0)
    assert (restarts.failures, restarts.due) == (1, 200.0)
