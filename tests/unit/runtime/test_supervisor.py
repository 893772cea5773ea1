"""When a child is started again, what a board says, and which children there are."""

from __future__ import annotations

import pytest

from receiver.errors import UsageError
from receiver.runtime.process import Stops
from receiver.runtime.supervisor import SharedStatus, respawn_delay
from receiver.worker import chosen

QUEUES = ["dispatch", "deliver:ops", "deliver:results"]


def test_the_first_death_costs_no_wait_and_a_crash_loop_five_seconds_at_the_most() -> None:
    delays = [respawn_delay(deaths) for deaths in range(12)]
    assert delays[:5] == [0.0, 0.0, 0.2, 0.4, 0.8]
    assert max(delays) == 5.0
    assert delays == sorted(delays)


def test_a_board_holds_a_deadline_readiness_and_last_words_on_one_line() -> None:
    board = SharedStatus()
    assert (board.deadline, board.ready, board.exit_reason) == (0.0, False, "")
    board.deadline, board.ready, board.exit_reason = 12.5, True, "the ledger\ncan't be used"
    assert (board.deadline, board.ready, board.exit_reason) == (12.5, True, "the ledger can't be used")
    board.clear()
    assert (board.deadline, board.ready, board.exit_reason) == (0.0, False, "")


def test_last_words_that_are_too_long_are_cut() -> None:
    board = SharedStatus()
    board.exit_reason = "ä" * 5000
    assert 100 < len(board.exit_reason) < 400


def test_without_only_there_is_one_child_for_each_queue() -> None:
    assert chosen(QUEUES, [], 1) == {queue: queue for queue in QUEUES}


def test_more_dispatchers_share_one_queue() -> None:
    assert chosen(QUEUES, ["dispatch"], 3) == {
        "dispatch": "dispatch",
        "dispatch-2": "dispatch",
        "dispatch-3": "dispatch",
    }


def test_only_takes_names_of_sinks_and_of_queues() -> None:
    assert list(chosen(QUEUES, ["ops", "deliver:results", "ops"], 4)) == ["deliver:ops", "deliver:results"]


def test_a_sink_called_dispatch_can_be_named_by_its_queue() -> None:
    assert list(chosen([*QUEUES, "deliver:dispatch"], ["deliver:dispatch"], 1)) == ["deliver:dispatch"]


def test_only_with_an_unknown_name_says_which_there_are() -> None:
    with pytest.raises(UsageError, match="--only opps: no such sink in the config; there are dispatch, ops, results"):
        chosen(QUEUES, ["opps"], 1)


def test_two_requests_to_stop_at_once_are_one_and_a_later_one_means_hurry() -> None:
    now = [10.0]
    stops = Stops(clock=lambda: now[0])
    assert not stops
    stops()
    now[0] += 0.5
    stops()
    assert stops
    assert not stops.hurry
    now[0] += 0.5
    stops()
    assert stops.hurry
