"""Which of many routes can match an event at all: those that want a text which the event has at a path. Pure.

A thousand routes, one a customer or workflow, would else be tested one by one for each event. A route is found by one
comparison that it can't match without: `workflow_id: wpid_1` of a mapping, `run.workflow_id == "wpid_1" && …` of an
expression. It is tested whole then; what has no such comparison always is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from receiver.routing import mapping
from receiver.routing.cel_scan import Token, tokens

# Fields of the run that expressions see as moments, not as texts.
TIMES = ("created_at", "modified_at", "queued_at", "started_at", "finished_at", "next_attempt_at")

# Up to this number, testing all routes is faster than looking up those that can match.
FEW = 8

_SIGNS_OF_CHOICE = ("||", "?")


@dataclass(frozen=True, slots=True)
class WantedText:
    """One of `texts` must be at `parts`, a path as those of mappings are, or the route does not match."""

    parts: tuple[str, ...]
    texts: tuple[str, ...]


def wanted_by_mapping(conditions: Iterable[mapping.Condition]) -> list[WantedText]:
    """Return what a mapping can't match without, of what can be looked up."""
    return [
        WantedText(each.parts, each.values)
        for each in conditions
        if not each.globs and "*" not in each.parts and all(isinstance(value, str) for value in each.values)
    ]


def wanted_by_expression(source: str, literal: Callable[[str], object]) -> list[WantedText]:
    """Return what a valid CEL expression can't be true without: comparisons with texts that && joins at its top.

    `literal`: gives the value of a literal. In CEL what is false stays so, whatever fails beside it.
    """
    conjuncts: list[list[Token]] = [[]]
    depth = 0
    for token in tokens(source):
        depth += (token.text in ("(", "[", "{")) - (token.text in (")", "]", "}"))
        if depth == 0 and token.kind == "sign" and token.text in _SIGNS_OF_CHOICE:
            return []
        if depth == 0 and token.kind == "sign" and token.text == "&&":
            conjuncts.append([])
        else:
            conjuncts[-1].append(token)
    return [found for each in conjuncts if (found := _comparison(each, literal))]


def _comparison(found: Sequence[Token], literal: Callable[[str], object]) -> WantedText | None:
    """Return what `run.a.b == "x"`, `"x" == run.a.b` or `run.a.b in ["x", "y"]` wants; None for anything else."""
    kinds = [each.kind for each in found]
    texts = [each.text for each in found]
    if "==" in texts:
        place = texts.index("==")
        sides = (slice(0, place), slice(place + 1, None))
        names, value = sides if kinds[sides[1]] == ["string"] else sides[::-1]
        literals = texts[value] if kinds[value] == ["string"] else []
        path = _path(kinds[names], texts[names])
    elif "in" in texts:
        place = texts.index("in")
        inside, kinds_inside = texts[place + 2 : -1], kinds[place + 2 : -1]
        is_list = texts[place + 1 :][:1] == ["["] and texts[-1] == "]" and set(inside[1::2]) <= {","}
        literals = inside[::2] if is_list and set(kinds_inside[::2]) == {"string"} else []
        path = _path(kinds[:place], texts[:place])
    else:
        return None
    values = [literal(each) for each in literals]
    if not path or not values or not all(isinstance(each, str) for each in values):
        return None
    return WantedText(path, tuple(str(each) for each in values))


def _path(kinds: Sequence[str], texts: Sequence[str]) -> tuple[str, ...]:
    """Return the path that `run.a.b` or `event.source` names, as mappings have it, or ()."""
    names = tuple(texts[::2])
    if set(kinds[::2]) != {"name"} or set(texts[1::2]) != {"."} or len(texts) % 2 == 0:
        return ()
    if names[0] == "event":
        return names
    # A mapping cannot name a field of the run that has the name of the other root.
    return names[1:] if names[0] == "run" and names[1:2] not in ((), ("event",), *((time,) for time in TIMES)) else ()


class RouteIndex:
    """Routes by their number. `wanted`: of each route, what it can't match without; empty: it is always tested."""

    def __init__(self, wanted: Sequence[Sequence[WantedText]]) -> None:
        distinct: dict[tuple[str, ...], set[str]] = {}
        for each in (one for of_route in wanted for one in of_route):
            distinct.setdefault(each.parts, set()).update(each.texts)
        self._always: list[int] = []
        self._by_path: dict[tuple[str, ...], dict[str, list[int]]] = {}
        for number, of_route in enumerate(wanted):
            if not of_route:
                self._always.append(number)
                continue
            # The path that tells most routes apart: a workflow says more than a status.
            best = max(of_route, key=lambda each: len(distinct[each.parts]))
            by_text = self._by_path.setdefault(best.parts, {})
            for text in dict.fromkeys(best.texts):
                by_text.setdefault(text, []).append(number)

    def candidates(self, root: Callable[[], Any]) -> Iterator[int]:
        """Yield the routes that can match, in their order. `root`: makes the event's, as mappings see it."""
        if not self._by_path:
            yield from self._always
            return
        found = set(self._always)
        there = root()
        for parts, by_text in self._by_path.items():
            for value in _values(there, parts):
                if not isinstance(value, str):  # what comes of comparing it is the rule's own affair
                    found.update(number for numbers in by_text.values() for number in numbers)
                    break
                found.update(by_text.get(value, ()))
                if not value.isascii():  # expressions see invalid Unicode as question marks
                    found.update(by_text.get(value.encode("utf-8", "replace").decode(), ()))
        yield from sorted(found)


def _values(root: Any, parts: tuple[str, ...]) -> Iterable[Any]:
    """Return what is at a path, as the conditions of mappings find it."""
    value = root
    for name in parts:
        if not isinstance(value, dict) or name not in value:
            return islice(mapping.find(root, parts), mapping.MAX_VALUES)
        value = value[name]
    return (value,)
