"""Which body ends when there is no room for more."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.runtime import held_bodies
from receiver.runtime.held_bodies import HeldBodies, HeldBody, NoRoom, OwnerHasEnough


def begun(bodies: HeldBodies, size: int, ended: list[str], name: str) -> HeldBody:
    """A body of an unknown sender that has come so far."""
    body = bodies.hold()
    body.receive(lambda: ended.append(name))
    body.add(size)
    return body


def test_the_slowest_ends_for_who_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(held_bodies.time, "monotonic", lambda: now)
    ended: list[str] = []
    bodies = HeldBodies(100)
    old = begun(bodies, 40, ended, "old, slow")
    now = 9.0
    begun(bodies, 40, ended, "new, fast")
    now = 10.0
    begun(bodies, 30, ended, "newest")
    assert ended == ["old, slow"]
    assert (bodies.bytes, bodies.evicted, old.evicted) == (70, 1, True)
    with pytest.raises(NoRoom):
        old.add(1)


def test_who_is_known_stays_and_where_all_are_known_the_newcomer_is_refused() -> None:
    ended: list[str] = []
    bodies = HeldBodies(100)
    begun(bodies, 90, ended, "a").known()
    with bodies.hold() as other:
        other.receive(lambda: ended.append("b"))
        other.add(10)
        with pytest.raises(NoRoom):
            other.add(1)
    assert (ended, bodies.bytes) == ([], 90)


def test_one_owner_has_its_share_of_what_others_leave() -> None:
    bodies = HeldBodies(100, share=0.5)
    with bodies.hold() as mine, bodies.hold() as more:
        mine.known("key")
        more.known("key")
        mine.add(30)
        more.add(20)
        with pytest.raises(OwnerHasEnough):
            more.add(1)
        with bodies.hold() as others:
            others.known("other")
            others.add(25)
            with pytest.raises(OwnerHasEnough):
                others.add(1)
    assert bodies.bytes == 0


def test_all_owners_together_leave_room_for_those_that_sign_their_bodies() -> None:
    bodies = HeldBodies(100, share=0.5, owned=0.75)
    ended: list[str] = []
    begun(bodies, 20, ended, "webhook")
    with contextlib.ExitStack() as stack:
        for name, size in (("a", 40), ("b", 20), ("c", 10), ("d", 5)):
            owned = stack.enter_context(bodies.hold())
            owned.known(name)
            owned.add(size)
        with pytest.raises(NoRoom) as refused:
            owned.add(1)
        assert not isinstance(refused.value, OwnerHasEnough), "it is not this owner who has too much"
        assert ended == [], "nor does a webhook end for one"
        begun(bodies, 5, ended, "another webhook")
        assert (ended, bodies.bytes) == ([], 100)
    with bodies.hold() as later:
        later.known("a")
        later.add(35)


def test_a_body_that_came_whole_ends_others_and_is_never_refused() -> None:
    ended: list[str] = []
    bodies = HeldBodies(100)
    begun(bodies, 60, ended, "slow")
    bodies.take(90)
    assert (ended, bodies.bytes) == (["slow"], 90)
    bodies.take(90)
    bodies.give(90)
    bodies.give(90)
    assert bodies.bytes == 0


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 40), st.booleans()), max_size=30))
def test_what_is_counted_is_what_is_held_and_never_over_the_limit(steps: list[tuple[int, int, bool]]) -> None:
    bodies = HeldBodies(100)
    sizes: dict[int, int] = {}
    held: dict[int, HeldBody] = {}
    for which, size, ends in steps:
        if which not in held or held[which].evicted:
            held[which], sizes[which] = bodies.hold(), 0
            held[which].receive(lambda: None)
        try:
            held[which].add(size)
            sizes[which] += size
        except NoRoom:
            pass
        if ends:
            held.pop(which).__exit__(None, None, None)
        assert bodies.bytes == sum(sizes[each] for each, body in held.items() if not body.evicted) <= 100
