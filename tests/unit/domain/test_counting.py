"""Counts in words."""

import pytest

from receiver.domain.counting import counted


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 events wait"), (1, "1 event waits"), (2, "2 events wait"), ("1", "1 event waits")]
)
def test_one_of_them_has_its_own_words(count: int | str, words: str) -> None:
    assert counted(count, "event waits", "events wait") == words
