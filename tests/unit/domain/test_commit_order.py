"""Rows that are committed in another order than that of their numbers: none is skipped, none is told twice."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from receiver.domain.commit_order import MOST_BEHIND, PATIENCE, CommitOrder


def test_rows_in_order_are_told_at_once() -> None:
    order, told = CommitOrder(4).advance([5, 6, 7], False, 0.0)
    assert (list(told.seqs), told.settled, order) == ([5, 6, 7], 3, CommitOrder(7))


def test_what_is_behind_a_gap_waits_until_the_gap_is_filled() -> None:
    order, told = CommitOrder(4).advance([5, 7], False, 0.0)
    assert (list(told.seqs), order.has_gap) == ([5], True)
    order, told = order.asked(7, {"a"}).advance([7], False, 1.0)
    assert list(told.seqs) == []
    order, told = order.advance([6, 7], False, 1.5)
    assert (list(told.seqs), told.settled, order) == ([6, 7], 2, CommitOrder(7))


def test_or_until_nobody_is_left_who_could_fill_it() -> None:
    order = CommitOrder(4).advance([6], False, 0.0)[0].asked(6, {"a", "b"})
    assert not order.ended({"b", "c"})
    assert order.ended({"c"})
    order, told = order.advance([6, 8], True, 0.1)
    assert (list(told.seqs), told.settled) == ([6], 1)
    assert (order.low, order.has_gap, order.holders) == (6, True, None), "the gap before 8 is another one"


def test_after_a_while_it_is_told_beside_the_order_and_what_comes_late_as_well() -> None:
    order = CommitOrder(4).advance([6, 7], False, 0.0)[0].asked(7, {"a"})
    order, told = order.advance([6, 7], False, PATIENCE)
    assert (list(told.seqs), told.settled, order.low) == ([6, 7], 0, 4)
    order, told = order.advance([5, 6, 7, 8], False, 60.0)
    assert (list(told.seqs), told.settled, order) == ([5, 8], 2, CommitOrder(8))


def test_a_gap_is_given_up_before_it_takes_all_memory() -> None:
    order = CommitOrder(0, frozenset(range(2, MOST_BEHIND + 3)), since=0.0)
    order, told = order.advance([*range(2, MOST_BEHIND + 4)], False, 100.0)
    assert (list(told.seqs), order) == ([MOST_BEHIND + 3], CommitOrder(MOST_BEHIND + 3))


class Writer:
    """A transaction: the numbers that it took, and whether and when it ends."""

    def __init__(self, name: str, seqs: list[int], begins: int, ends: int, commits: bool) -> None:
        self.name, self.seqs, self.begins, self.ends, self.commits = name, seqs, begins, ends, commits


@st.composite
def histories(draw: st.DrawFn) -> list[Writer]:
    """Transactions that take numbers in the order in which they begin, and end in any order."""
    lasting = draw(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 3), st.booleans()), max_size=12))
    numbers = itertools.count(1)
    return [
        Writer(f"{begins}", list(itertools.islice(numbers, rows)), begins, begins + lasts, commits)
        for begins, (lasts, rows, commits) in enumerate(lasting)
    ]


@given(histories(), st.floats(0.1, 3.0), st.integers(1, 5))
def test_every_committed_row_is_told_once_and_what_is_settled_is_in_order(
    writers: list[Writer], step: float, most: int
) -> None:
    order, told, settled = CommitOrder(0), list[int](), list[int]()
    end = max((each.ends for each in writers), default=0)
    for moment in range(end + 40):
        running = {each.name for each in writers if each.begins <= moment < each.ends}
        ended = order.has_gap and order.ended(running)
        visible = sorted(seq for each in writers if each.commits and each.ends <= moment for seq in each.seqs)
        seen = [seq for seq in visible if seq > order.low][: len(order.beyond) + most]
        order, now = order.advance(seen, ended, moment * step)
        if order.has_gap and order.holders is None:
            order = order.asked(seen[-1], running)
        told += now.seqs
        settled += [seq for seq in now.seqs if seq <= order.low]
        missing = [seq for seq in visible if seq <= order.low and seq not in told]
        assert missing == [], "who goes on after `low` has been told all before it"
    committed = sorted(seq for each in writers if each.commits for seq in each.seqs)
    assert sorted(told) == committed
