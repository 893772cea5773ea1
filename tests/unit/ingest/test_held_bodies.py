"""Which body ends when there is no room for more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.ingest import held_bodies
from receiver.ingest.held_bodies import HeldBodies, HeldBody, NoRoom, OwnerHasEnough

Hold = Callable[..., HeldBody]


@pytest.fixture
def bodies() -> HeldBodies:
    return HeldBodies(100, share=0.5, owned=0.75)


@pytest.fixture
def hold(bodies: HeldBodies) -> Iterator[Hold]:
    """Hold a body of so many bytes until the test ends."""
    with ExitStack() as stack:

        def held(size: int, owner: str = "") -> HeldBody:
            body = stack.enter_context(bodies.hold(owner))
            bodies.add(body, size)
            return body

        yield held
    assert bodies.bytes == 0


def test_slowest_body_ends_for_a_new_one(bodies: HeldBodies, hold: Hold, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(held_bodies.time, "monotonic", lambda: now)
    ended = []
    slow = hold(40)
    slow.on_evict = lambda: ended.append("slow")
    now = 9.0
    fast = hold(40)
    now = 10.0
    hold(30)
    assert (ended, bodies.bytes, bodies.evicted) == (["slow"], 70, 1)
    assert (slow.evicted, fast.evicted) == (True, False)
    with pytest.raises(NoRoom):
        bodies.add(slow, 1)


def test_complete_bodies_stay_and_a_new_one_is_refused(bodies: HeldBodies, hold: Hold) -> None:
    complete = hold(90)
    bodies.complete(complete)
    new = hold(10)
    with pytest.raises(NoRoom):
        bodies.add(new, 1)
    assert (complete.evicted, bodies.bytes) == (False, 100)


def test_one_owner_and_all_owners_have_their_part(bodies: HeldBodies, hold: Hold) -> None:
    hold(30, "a")
    more = hold(20, "a")
    with pytest.raises(OwnerHasEnough):
        bodies.add(more, 1)
    others = hold(25, "b")
    with pytest.raises(NoRoom) as refused:
        bodies.add(others, 1)
    assert not isinstance(refused.value, OwnerHasEnough)
    assert not hold(25).evicted


def test_body_in_one_piece_ends_others_and_is_never_refused(bodies: HeldBodies, hold: Hold) -> None:
    slow = hold(60)
    bodies.take(90)
    assert (slow.evicted, bodies.bytes) == (True, 90)
    bodies.take(90)
    bodies.give(180)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 40), st.booleans()), max_size=30))
def test_what_is_counted_is_held_and_within_the_limit(steps: list[tuple[int, int, bool]]) -> None:
    bodies = HeldBodies(100)
    held: dict[int, tuple[AbstractContextManager[HeldBody], HeldBody]] = {}
    for which, size, ends in steps:
        if which not in held or held[which][1].evicted:
            holding = bodies.hold()
            held[which] = holding, holding.__enter__()
        with suppress(NoRoom):
            bodies.add(held[which][1], size)
        if ends:
            held.pop(which)[0].__exit__(None, None, None)
        assert bodies.bytes == sum(body.size for _, body in held.values()) <= 100
