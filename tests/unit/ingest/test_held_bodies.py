"""Which bodies are held, and which are refused."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def test_one_owner_and_all_owners_have_their_part(bodies: HeldBodies, hold: Hold) -> None:
    hold(30, "a")
    more = hold(20, "a")
    with pytest.raises(OwnerHasEnough):
        bodies.add(more, 1)
    others = hold(25, "b")
    with pytest.raises(NoRoom) as refused:
        bodies.add(others, 1)
    assert not isinstance(refused.value, OwnerHasEnough)
    hold(25)


def test_body_in_one_piece_is_never_refused(bodies: HeldBodies, hold: Hold) -> None:
    hold(60)
    with bodies.hold(size=90):
        assert bodies.bytes == 150
        with pytest.raises(NoRoom):
            hold(1)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 40), st.booleans()), max_size=30))
def test_what_is_counted_is_held_and_within_the_limit(steps: list[tuple[int, int, bool]]) -> None:
    bodies = HeldBodies(100)
    held: dict[int, tuple[AbstractContextManager[HeldBody], HeldBody]] = {}
    for which, size, ends in steps:
        if which not in held:
            holding = bodies.hold()
            held[which] = holding, holding.__enter__()
        with suppress(NoRoom):
            bodies.add(held[which][1], size)
        if ends:
            held.pop(which)[0].__exit__(None, None, None)
        assert bodies.bytes == sum(body.size for _, body in held.values()) <= 100
