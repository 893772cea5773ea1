"""When what has ended is settled. Pure."""

from dataclasses import replace
from math import inf

import pytest

from handlers import Receipt, Refused, Unavailable
from receiver.delivery.gathering import GATHER, MOST_UNSETTLED, is_full, settle_at
from receiver.delivery.send_task import SendTask
from receiver.ledger.deliveries.claimed import Claimed

CLAIMED = Claimed(
    "d", "evt_1", "results", "results", "all", 1, 0, False, "skyvern", "tsk_1", "completed", "webhook", "", 0.0, {}, ()
)  # fmt: skip


ACCEPTED = Receipt("r")


def ended(started: float = 100.0, count: int = 1, answer: Receipt | Exception = ACCEPTED) -> SendTask:
    return SendTask(1, [CLAIMED] * count, {}, started=started, answers=[answer] * count, ended=True)


PROBE = SendTask(1, [replace(CLAIMED, probe=True)], {}, started=100.0, answers=[Receipt("r")], ended=True)


@pytest.mark.parametrize(
    ("tasks", "seconds", "expected"),
    [
        ([], GATHER, inf),
        ([ended()], 0.0, -inf),
        ([ended()], GATHER, 100.0 + GATHER),
        # The first of them decides.
        ([ended(101.0), ended(100.5), ended(102.0)], GATHER, 100.5 + GATHER),
        ([ended(count=MOST_UNSETTLED - 1)], GATHER, 100.0 + GATHER),
        ([ended(count=MOST_UNSETTLED - 1), ended()], GATHER, -inf),
        ([ended(), ended(answer=Refused("no"))], GATHER, -inf),
        ([ended(), ended(answer=Unavailable("not now"))], GATHER, -inf),
        ([ended(), ended(answer=ValueError())], GATHER, -inf),
        ([ended(), PROBE], GATHER, -inf),
    ],
)
def test_what_was_accepted_waits_for_others_from_its_start_and_all_else_for_nothing(
    tasks: list[SendTask], seconds: float, expected: float
) -> None:
    assert settle_at(tasks, seconds) == expected


def test_nothing_starts_any_more_once_so_many_have_ended_that_the_journal_of_starts_would_forget_some() -> None:
    assert not is_full([ended(count=MOST_UNSETTLED - 1)])
    assert is_full([ended(count=MOST_UNSETTLED - 1), ended()])


def test_more_may_wait_where_what_starts_is_bounded_by_what_was_prefetched() -> None:
    assert settle_at([ended(count=MOST_UNSETTLED), ended()], GATHER, most=inf) == 100.0 + GATHER
