"""What is overdue, against a plain dict."""

from hypothesis import given
from hypothesis import strategies as st

from receiver.delivery.deadlines import _SPARE, Deadlines


class Item:
    """Told apart by identity."""


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.floats(0, 100)),
        st.tuples(st.just("remove"), st.integers(0, 300)),
        st.tuples(st.just("over"), st.floats(0, 100)),
        st.tuples(st.just("again"), st.floats(0, 100)),
    ),
    max_size=300,
)


@given(_STEPS)
def test_what_is_over_is_what_is_there_and_late_the_earliest_first(steps: list[tuple[str, float]]) -> None:
    deadlines: Deadlines[Item] = Deadlines()
    there: dict[Item, float] = {}
    all_items: list[Item] = []
    for step, value in steps:
        if step == "add":
            item = Item()
            all_items.append(item)
        elif all_items:
            item = all_items[int(value) % len(all_items)]
        if step == "add" or (step == "again" and all_items and item not in there):
            deadlines.add(item, value)
            there[item] = value
        elif step == "remove" and all_items:
            deadlines.remove(item)
            there.pop(item, None)
        elif step == "over":
            over = sorted((each for each in there.items() if each[1] <= value), key=lambda each: each[1])
            found = deadlines.over(value)
            assert [there.pop(each) for each in found] == [at for _, at in over]
        assert bool(deadlines) == bool(there)
        assert deadlines.next() == min(there.values(), default=float("inf"))


def test_what_was_removed_is_not_kept() -> None:
    deadlines: Deadlines[Item] = Deadlines()
    stays = Item()
    deadlines.add(stays, 1.0)
    for _ in range(10_000):
        item = Item()
        deadlines.add(item, 30.0)
        deadlines.remove(item)
    assert len(deadlines._heap) <= 2 + _SPARE + 1
    assert deadlines.over(2.0) == [stays]
