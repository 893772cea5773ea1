"""What is overdue, against a plain dict."""

from hypothesis import given
from hypothesis import strategies as st

from receiver.delivery.deadlines import GRAIN, Deadlines


class Item:
    """Told apart by identity."""


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.floats(0, 100)),
        st.tuples(st.just("remove"), st.integers(0, 300)),
        st.tuples(st.just("pass"), st.floats(0, 10)),
        st.tuples(st.just("again"), st.floats(0, 100)),
    ),
    max_size=300,
)


@given(_STEPS)
def test_what_is_over_is_found_within_the_grain_the_earliest_first(steps: list[tuple[str, float]]) -> None:
    deadlines: Deadlines[Item] = Deadlines()
    there: dict[Item, float] = {}
    all_items: list[Item] = []
    now = 0.0
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
        elif step == "pass":
            now += value
            found = deadlines.over(now)
            times = [there.pop(each) for each in found]
            assert times == sorted(times)
            assert all(at <= now for at in times)
            assert all(at > now - GRAIN for at in there.values()) or not found
            assert deadlines.next() <= max(now + GRAIN, min(there.values(), default=float("inf")))
        assert bool(deadlines) == bool(there)
        if not there:
            assert deadlines.next() == float("inf")
    # When time goes on from one look to the next
    while there:
        now = max(now, deadlines.next())
        late = {item for item, at in there.items() if at <= now - GRAIN}
        found = deadlines.over(now)
        assert late <= set(found)
        for each in found:
            assert there.pop(each) <= now
    assert not deadlines


def test_all_are_looked_at_no_more_often_than_the_grain() -> None:
    # Given one whose time is over, and others whose time comes soon after
    deadlines: Deadlines[Item] = Deadlines()
    items = [Item() for _ in range(3)]
    for item, at in zip(items, (1.0, 1.0 + GRAIN / 4, 1.0 + GRAIN / 2), strict=True):
        deadlines.add(item, at)
    # When the first one is found
    assert deadlines.over(1.0) == items[:1]
    # Then the others wait for each other
    assert deadlines.next() == 1.0 + GRAIN
    assert deadlines.over(1.0 + GRAIN / 2) == []
    assert deadlines.over(1.0 + GRAIN) == items[1:]
