"""Answers of a bounded size: what is too long is cut, and the answer says how to have the rest. Pure.

A model reads the whole of an answer, and pays for it. A place in an answer is a JSON pointer (RFC 6901) such as
/timeline/3/text; the same call with `at` and `offset` goes on there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from receiver.errors import Invalid

# Characters of a text, items of a list, members of an object, and levels: one after the other until an answer fits.
_WIDTHS: Final = (
    (8000, 200, 200, 16),
    (4000, 100, 200, 16),
    (2000, 50, 100, 16),
    (1000, 25, 100, 12),
    (500, 12, 50, 12),
    (250, 6, 50, 8),
    (120, 3, 20, 6),
    (60, 2, 10, 4),
    (60, 1, 4, 2),
)
# Characters of a member's name; and cuts that an answer names.
_LONGEST_NAME: Final = 200
_MOST_CUTS: Final = 12


@dataclass(slots=True)
class _Cutter:
    texts: int
    items: int
    members: int
    levels: int
    cuts: list[dict[str, Any]] = field(default_factory=list)

    def cut(self, value: Any, at: str, offset: int = 0, level: int = 0) -> Any:
        if isinstance(value, str) and len(value) > self.texts:
            return self._noted(value[: self.texts] + "…", at, offset, self.texts, len(value))
        if not isinstance(value, (list, dict)):
            return value
        if value and level >= self.levels:
            return self._noted("…", at, offset, 0, len(value))
        if isinstance(value, list):
            kept = [
                self.cut(each, f"{at}/{offset + number}", 0, level + 1)
                for number, each in enumerate(value[: self.items])
            ]
            return kept if len(kept) == len(value) else self._noted(kept, at, offset, len(kept), len(value))
        names = list(value)[: self.members]
        short = [name for name in names if len(name) <= _LONGEST_NAME]
        found = {name: self.cut(value[name], f"{at}/{_escaped(name)}", 0, level + 1) for name in short}
        if len(short) < len(names):
            self.cuts.append({"at": at, "left_out": f"{len(names) - len(short)} members with very long names"})
        return found if len(names) == len(value) else self._noted(found, at, offset, len(names), len(value))

    def _noted(self, kept: Any, at: str, offset: int, shown: int, count: int) -> Any:
        self.cuts.append({"at": at, "shown": shown, "of": offset + count, "offset": offset + shown})
        return kept


def bounded(value: Any, limit: int, at: str = "", offset: int = 0) -> dict[str, Any]:
    """Return `value`, as JSON knows it, in an answer of at most `limit` bytes of JSON, but for a few hundred.

    Where something was cut, `cut` names the places, the first ones, each with the `at` and `offset` that go on there.
    `at`, `offset`: where `value` itself was found.
    """
    found: dict[str, Any] = {}
    for texts, items, members, levels in _WIDTHS:
        cutter = _Cutter(texts, items, members, levels)
        found = {"answer": cutter.cut(value, at, offset)}
        if cutter.cuts:
            outer_first = sorted(cutter.cuts, key=lambda cut: str(cut["at"]).count("/"))
            found["cut"] = outer_first[:_MOST_CUTS]
            if len(cutter.cuts) > _MOST_CUTS:
                found["cut_elsewhere"] = len(cutter.cuts) - _MOST_CUTS
        if len(orjson.dumps(found)) <= limit:
            break
    return found


def part_of(value: Any, at: str, offset: int) -> Any:
    """Return what is at a place of `value`, from `offset` on: characters, items or members. Raises Invalid."""
    for name in _parts(at):
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif isinstance(value, list) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        else:
            raise Invalid(f"at: {at}: there is nothing at {name}")
    if not offset:
        return value
    if isinstance(value, dict):
        return dict(list(value.items())[offset:])
    if isinstance(value, (str, list)):
        return value[offset:]
    raise Invalid(f"offset: {at or 'the answer'} is neither text, list nor object")


def _parts(at: str) -> Sequence[str]:
    if at and not at.startswith("/"):
        raise Invalid("at: must be a JSON pointer, such as /timeline/3/text; empty for the whole answer")
    return [each.replace("~1", "/").replace("~0", "~") for each in at.split("/")[1:]]


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
