"""A value as a tree: nothing is lost without being counted, and no value makes a large one."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from receiver.api.outline import MAX_DEPTH, Node, outline

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=3), children, max_size=4),
    max_leaves=40,
)


def nodes(top: Node) -> list[Node]:
    return [top, *(below for child in top.children for below in nodes(child))]


def told(top: Node) -> int:
    return sum(1 + len(each.nulls) for each in nodes(top))


def size(value: Any) -> int:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(size, parts))


def test_a_small_value() -> None:
    top = outline({"total": 12.5, "lines": [{"paid": True}], "note": None, "who": "Ana"})
    assert (top.kind, top.text) == ("object", "4 members")
    assert [(each.name, each.kind, each.text) for each in top.children] == [
        ("total", "number", "12.5"),
        ("lines", "array", "1 item"),
        ("who", "text", "Ana"),
    ]
    assert top.nulls == ["note"]
    assert [(each.name, each.text) for each in nodes(top)[3:5]] == [("0", "1 member"), ("paid", "true")]


def test_null_members_are_named_together_and_items_keep_order() -> None:
    top = outline({"error": None, "steps": [None, 1], "url": None, "nothing": {"a": None}})

    assert ([each.name for each in top.children], top.nulls) == (["steps", "nothing"], ["error", "url"])
    assert [each.text for each in top.children[0].children] == ["null", "1"]
    assert (top.children[1].text, top.children[1].nulls, top.children[1].children) == ("1 member", ["a"], [])
    # And where not all fit, those that say something come first
    assert [(it.children[0].name, it.nulls, it.left_out) for it in [outline({"a": None, "b": None, "c": 1}, 3)]] == [
        ("c", ["a"], 1)
    ]


@given(VALUES)
def test_a_value_that_fits_is_whole(value: Any) -> None:
    top = outline(value)
    assert told(top) == size(value)
    assert sum(each.left_out for each in nodes(top)) == 0


@given(VALUES, st.integers(1, 20))
def test_what_does_not_fit_is_counted(value: Any, most: int) -> None:
    top = outline(value, most)
    assert told(top) == min(most, size(value)) or sum(each.left_out for each in nodes(top))
    assert told(top) <= most


def test_depth_is_bounded() -> None:
    value: Any = "x"
    for _ in range(500):
        value = [value]
    found = nodes(outline(value))
    assert len(found) == MAX_DEPTH + 1
    assert found[-1].left_out == 1


def test_a_long_text_is_cut() -> None:
    assert outline("x" * 5000).text.endswith("x … 1000 characters more")
