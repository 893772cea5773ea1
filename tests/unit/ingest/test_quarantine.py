"""What gives way in the quarantine when something comes in."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from receiver.ingest.quarantine import OTHERS_PART, STAYS_FOR, Kept, giving_way, names_run

NOW = 1_000_000.0
COUNT, BYTES = 8, 800


def run(age: float = 0.0, size: int = 10) -> Kept:
    return Kept(size, NOW - age, is_run=True)


def other(size: int = 10) -> Kept:
    return Kept(size, NOW, is_run=False)


class Counted:
    """A kept request that counts how often its size is asked for."""

    asked = 0
    is_run, at, network = False, NOW, ""

    @property
    def size(self) -> int:
        Counted.asked += 1
        return 10


def numbered(*kept: Any) -> dict[str, Any]:
    return {str(number): each for number, each in enumerate(kept)}


KEPT = st.builds(Kept, st.integers(1, 300), st.sampled_from([NOW, NOW - STAYS_FOR - 1]), st.booleans())


@given(st.lists(KEPT, max_size=COUNT), KEPT)
def test_what_is_kept_is_within_its_bounds_and_no_run_gives_way_to_noise(kept: list[Kept], new: Kept) -> None:
    dropped = giving_way(before := numbered(*kept), new, COUNT, BYTES)

    if dropped is None:
        return
    left = [each for name, each in before.items() if name not in dropped] + [new]
    assert len(left) <= COUNT
    assert sum(each.size for each in left) <= BYTES
    if not new.is_run:
        assert not [name for name in dropped if before[name].is_run]
        assert len([each for each in left if not each.is_run]) <= COUNT // OTHERS_PART


def test_other_requests_have_the_smaller_part_of_the_room() -> None:
    kept = numbered(other(), run(), other())

    assert giving_way(kept, other(), COUNT, BYTES) == ["0"]
    assert giving_way(kept, other(BYTES // OTHERS_PART), COUNT, BYTES) == ["0", "2"]
    assert giving_way(kept, other(BYTES // OTHERS_PART + 1), COUNT, BYTES) is None


def test_other_requests_give_way_to_a_run_before_any_run_does() -> None:
    kept = numbered(*[run()] * 6, other(), other())

    assert giving_way(kept, run(), COUNT, BYTES) == ["6"]
    assert giving_way(kept, run(size=770), COUNT, BYTES) is None  # for the older half stays
    assert giving_way(kept, run(size=770), COUNT, 10 * BYTES) == ["6"]


def test_the_older_half_stays_until_it_is_some_days_old() -> None:
    full = numbered(*[run()] * COUNT)
    old = numbered(*[run(STAYS_FOR + 1)] * COUNT)

    assert giving_way(full, run(), COUNT, BYTES) == ["4"]
    assert giving_way(old, run(), COUNT, BYTES) == ["0"]


def test_large_runs_take_no_more_than_half_for_good() -> None:
    kept = numbered(run(size=300), run(size=300), run(size=10))

    assert giving_way(kept, run(size=300), COUNT, BYTES) == ["1"]


def test_the_network_with_the_most_runs_gives_way_first() -> None:
    kept = numbered(*[run()] * 4, *(Kept(10, NOW, True, network) for network in ("b", "a", "a", "a")))

    assert giving_way(kept, Kept(10, NOW, True, "b"), COUNT, BYTES) == ["5"]


def test_a_body_names_a_run_where_skyvern_writes_its_id() -> None:
    assert names_run(b'{"run_id":"tsk_1","status":"completed"}')
    assert not names_run(b"\x00" * 100)
    assert not names_run(b'{"output":"' + b"x" * 5000 + b'","run_id":"tsk_1"}')


def test_a_request_for_which_thousands_give_way_costs_a_few_looks_at_each_of_them() -> None:
    kept = numbered(*[Counted() for _ in range(2000)])

    assert giving_way(kept, run(size=20_000), 3000, 20_000) == list(kept)
    assert Counted.asked <= 5 * len(kept)
