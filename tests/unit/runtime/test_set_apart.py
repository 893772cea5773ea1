"""How long a unit that did harm has a process of its own, and that a restart does not forget it."""

from __future__ import annotations

from pathlib import Path

import pytest

from receiver.runtime.set_apart import PROVEN, SUSPECTED, SetApart, next_term

DAY = 86_400.0


def test_a_term_is_doubled_when_it_is_done_again_up_to_a_day_and_forgotten_a_day_after_its_end() -> None:
    now, term, terms = 1000.0, None, []
    for _ in range(7):
        term = next_term(term, "hung", now, proven=True)
        terms.append(term.seconds)
        now = term.until
    assert terms == [PROVEN, 2 * PROVEN, 4 * PROVEN, 8 * PROVEN, 16 * PROVEN, DAY, DAY]
    assert next_term(term, "hung", now + DAY, proven=True).seconds == PROVEN


def test_who_is_only_suspected_has_a_short_term_that_is_neither_doubled_nor_ends_a_longer_one() -> None:
    first = next_term(None, "died", 0.0, proven=False)
    assert next_term(first, "died", 1.0, proven=False).seconds == first.seconds == SUSPECTED
    long = next_term(None, "hung", 0.0, proven=True)
    assert next_term(long, "died", 1.0, proven=False).until == long.until


def test_it_is_known_after_a_restart_until_its_term_ends(tmp_path: Path) -> None:
    path = tmp_path / "workers" / ".apart.json"
    SetApart(path).add("deliver:ops", "hung", 1000.0, proven=True)
    it = SetApart(path)
    assert it.why("deliver:ops", 1000.0 + PROVEN - 1) == "hung"
    assert it.why("deliver:ops", 1000.0 + PROVEN) == ""
    assert it.why("deliver:other", 1000.0) == ""


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', '{"a": {"until": "x", "seconds": 1, "why": ""}}', '{"a": {}}'])
def test_a_file_that_was_not_written_here_is_as_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "apart.json"
    path.write_text(text)
    assert SetApart(path).why("a", 0.0) == ""
