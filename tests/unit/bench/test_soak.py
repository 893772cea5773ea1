"""What a soak says of figures that should be still."""

from __future__ import annotations

from bench.soak import growing


def figures(name: str, *values: float) -> list[dict[str, float]]:
    return [{"seconds": 10.0 * number, name: value} for number, value in enumerate(values)]


def test_what_grows_once_it_has_warmed_up_is_told() -> None:
    assert growing(figures("serve: private MB", 10, 60, 70, 71, 72, 73, 80, 85, 90)) == [
        "serve: private MB: 73.0, then 90.0"
    ]


def test_a_start_a_peak_and_a_little_more_are_none() -> None:
    assert growing(figures("serve: private MB", 10, 40, 70, 71, 70, 71, 71, 72, 71)) == []
    assert growing(figures("serve: open sockets", 5, 5, 9, 30, 9, 9, 9, 25, 9)) == []
    assert growing(figures("dispatch: open memfds", 0, 0, 0, 0, 0, 0, 1, 0, 1)) == []


def test_what_was_not_there_before_counts_as_nothing() -> None:
    later: list[dict[str, float]] = [{"seconds": 1.0}] * 6 + [{"seconds": 2.0, "child: threads": 7.0}] * 3
    assert growing(later) == ["child: threads: 0.0, then 7.0"]


def test_what_may_grow_is_not_told_nor_what_was_looked_at_too_seldom() -> None:
    assert growing(figures("ledger: run_texts", 1, 2, 3, 4, 5, 6, 70, 80, 90)) == []
    assert growing(figures("serve: threads", 1, 90)) == []
