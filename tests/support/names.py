"""Strategies of JSON and text for property tests, and what a safe file name is."""

from __future__ import annotations

from hypothesis import strategies as st

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
TEXT = st.text(st.characters(exclude_categories=[]), max_size=400)


def is_safe(name: str, cap: int) -> bool:
    """Whether `name` is a safe file name of at most `cap` bytes."""
    return (
        bool(name)
        and name not in (".", "..")
        and not name.startswith((".", " "))
        and not name.endswith((".", " "))
        and not set(name) & set('/\\:*?"<>|#%^`{}~')
        and all(ord(char) >= 32 and not 127 <= ord(char) < 160 for char in name)
        and len(name.encode()) <= cap
    )
