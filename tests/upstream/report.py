"""What was expected of Skyvern, or of us in front of it, and what was found. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

SHOWN = 160
"""Characters of a value that a line shows."""
NAMED = 8
"""Names that a line lists."""


@dataclass
class Report:
    """`differences`: what we rely on and is not so; `news`: what is new and hurts nobody; `checked`: how many held."""

    differences: list[str] = field(default_factory=list)
    news: list[str] = field(default_factory=list)
    checked: int = 0

    def expect(self, where: str, expected: Any, found: Any) -> bool:
        """Compare two values. Returns whether they are the same."""
        if expected == found:
            self.checked += 1
            return True
        self.differences.append(f"{where}: expected {_shown(expected)}, found {_shown(found)}")
        return False

    def expect_members(self, where: str, expected: Collection[str], found: Any) -> None:
        """Compare the names of an object's members: each that is missing is a difference, each further one is news."""
        if not isinstance(found, Mapping):
            self.differences.append(f"{where}: expected an object, found {_shown(found)}")
            return
        missing = [name for name in expected if name not in found]
        further = [name for name in found if name not in expected]
        if missing:
            self.differences.append(f"{where}: expected the members {_listed(missing)}, found none of these")
        else:
            self.checked += 1
        if further:
            self.news.append(f"{where}: has further members: {_listed(further)}")

    def expect_lacking(self, where: str, expected: Collection[str], found: Mapping[str, Any]) -> None:
        """A member that was not there and now is: news, for it is taken where it is needed."""
        if there := [name for name in expected if name in found]:
            self.news.append(f"{where}: has now what it lacked: {_listed(there)}")
        else:
            self.checked += 1

    def expect_same_values(
        self, where: str, one: Mapping[str, Any], other: Mapping[str, Any], but_for: Collection[str] = ()
    ) -> None:
        """Compare the values of the members that both have, one line for each that differs."""
        for name in one:
            if name in other and name not in but_for:
                self.expect(f"{where}, {name}", one[name], other[name])

    def lines(self) -> list[str]:
        """Return what to print: a line for each difference and for what is new, then a summary."""
        summary = f"{self.checked} as expected, {len(self.differences)} differ, {len(self.news)} new"
        return [
            *(f"DIFFERS  {each}" for each in self.differences),
            *(f"new      {each}" for each in self.news),
            summary,
        ]


def value_at(path: str, body: Mapping[str, Any]) -> Any:
    """Return what a dotted path leads to in a body; None where nothing is there."""
    value: Any = body
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _listed(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return " ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"
