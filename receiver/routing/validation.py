"""Validation of routes: their problems, and the fields that they read. Pure: for the loader and for `Router`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from itertools import chain
from typing import Any, Final

from receiver.domain import members
from receiver.domain.attention import ACTIVE
from receiver.domain.run import FINAL
from receiver.errors import suggest
from receiver.routing import mapping
from receiver.routing.cel import compile_rule
from receiver.routing.cel_names import CelError
from receiver.routing.mapping import Problem
from receiver.routing.route import RouteConfig

# Fields that Skyvern sends, and Runhook's. Rules see others as well; this is to find misspelt ones.
FIELDS: Final = frozenset(chain(*members.WEBHOOK.values(), *members.POLL.values())) | {
    *("labels", "original_status", "outcome")
}

_STATUSES = (*sorted(FINAL), *ACTIVE)
_VALUES_TEXT = ", ".join(_STATUSES)
_TYPES = (
    *("task_v1", "task_v2", "task_v3", "workflow_run"),
    *("openai_cua", "anthropic_cua", "yutori_navigator", "ui_tars"),
)
_VALUES = {"status": _STATUSES, "outcome": _STATUSES, "original_status": _STATUSES, "run_type": _TYPES}
_COMPARISON = re.compile(r"\s*(>=?|<=?|[=!]=)\s*-?[\d.]+\s*\Z")
_DISPOSITION = "event.disposition"
_NAMES = "|".join([*(f"run.{name}" for name in _VALUES), _DISPOSITION]).replace(".", r"\.")
_COMPARED = re.compile(rf"(?<![\w.])({_NAMES})\s*(?:[=!]=\s*|in\s*\[)([^\])&|]*)")
# The option of a route that lets it see events of a disposition; each route sees those that are new.
OPT_IN: Final[dict[str, str]] = {"interim": "interim", "repeat": "repeats", "superseded": "superseded", "test": "test"}
# An event that says the same and has more: each route sees it, for sinks that want it or were not told before.
UPDATE: Final = "update"


def rule_problems(when: str | Mapping[str, Any] | None) -> list[Problem]:
    """Return the problems of a rule, each with the keys below `when` where it is."""
    if isinstance(when, str):
        try:
            compile_rule(when)
        except CelError as error:
            return [((), str(error))]
        return []
    return [] if when is None else mapping.compile_mapping(when)[1]


def mentioned_fields(when: str | Mapping[str, Any] | None) -> list[str]:
    """Return the fields of the run that a valid rule reads."""
    if isinstance(when, str):
        names = [use.path[1] for use in compile_rule(when).names.uses if use.path[0] == "run" and len(use.path) > 1]
    else:
        names = [condition.parts[0] for condition in mapping.compile_mapping(when or {})[0]]
    return list(dict.fromkeys(name for name in names if name != "event"))


def rule_warnings(route: RouteConfig) -> list[str]:
    """Return warnings about a valid rule: names and values that are probably misspelt."""
    warnings = [
        f"Skyvern sends no field {name}{_guess(name, FIELDS) or ', as far as Runhook knows'}"
        for name in mentioned_fields(route.when)
        if name not in FIELDS
    ]
    if not isinstance(route.when, str):
        for condition in mapping.compile_mapping(route.when or {})[0]:
            warnings += [
                f"{condition.path} is compared with the text {value!r}; to compare numbers write an expression: "
                f"run.{'.'.join(condition.parts)} {value}"
                for value in condition.values
                if isinstance(value, str) and _COMPARISON.match(value)
            ]
    for name, value in _mentioned_values(route.when):
        if name == _DISPOSITION:
            if value not in ("new", UPDATE) and value not in OPT_IN:
                warnings.append(f"no event has the disposition {value}: it is new, {', '.join((*OPT_IN, UPDATE))}")
            elif value in OPT_IN and not getattr(route, OPT_IN[value]):
                warnings.append(f"the route sees no event that is {value} without `{OPT_IN[value]}: true`")
        elif value in ACTIVE and name != "run_type" and not route.interim:
            warnings.append(f"the route sees no run that is {value}: it has not ended; add `interim: true`")
        elif value not in _VALUES[name]:
            guess = _guess(value, _VALUES[name])
            if guess or name != "run_type":  # a new release may have new types
                warnings.append(f"Skyvern sends no {name} {value}{guess or f'; it is one of {_VALUES_TEXT}'}")
    return warnings


def _guess(name: str, names: Iterable[str]) -> str:
    guess = suggest(name, names, cutoff=0.8)
    return f"; did you mean {guess}?" if guess else ""


def order_warnings(routes: Sequence[RouteConfig]) -> list[tuple[int, str]]:
    """Return the routes that nothing reaches, by index, because an earlier one takes every event and stops."""
    flags = [{name for name in (*OPT_IN.values(), "updates") if getattr(route, name)} for route in routes]
    warnings = []
    for later, route in enumerate(routes):
        for earlier in range(later):
            if routes[earlier].stop and not routes[earlier].when and flags[later] <= flags[earlier]:
                warnings.append(
                    (later, f"{route.name} never matches: {routes[earlier].name} takes every event and stops")
                )
                break
    return warnings


def _mentioned_values(when: str | Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Return the texts that a rule compares a status, run type or disposition with, each with the field; no globs."""
    if isinstance(when, str):
        compared = [
            (path.removeprefix("run."), re.findall(r"[\"']([^\"']*)[\"']", text))
            for path, text in _COMPARED.findall(when)
        ]
    else:
        compared = [
            (name, [value for value in condition.values if isinstance(value, str)])
            for condition in mapping.compile_mapping(when or {})[0]
            if (name := ".".join(condition.parts)) in _VALUES or name == _DISPOSITION
        ]
    return [(field, value) for field, values in compared for value in values if not set("*?") & set(value)]


def order_problems(routes: Sequence[RouteConfig], sinks: Iterable[str] | None = None) -> list[Problem]:
    """Return the problems of `after`: keys below `routes`, and the text.

    A sink may wait for one that its own route or an earlier one delivers to, and no two may wait for each other,
    whichever routes match. `sinks`: those that exist; of others it says nothing.
    """
    known = None if sinks is None else set(sinks)
    problems: list[Problem] = []
    delivered: set[str] = set()
    waits: dict[str, dict[str, tuple[str | int, ...]]] = {}  # by sink, those that it waits for, with their keys
    for index, route in enumerate(routes):
        delivered |= {target.sink for target in route.targets}
        for place, target in enumerate(route.targets):
            for name in target.after:
                here = (index, "to", place, "after")
                if known is not None and name not in known:
                    continue
                if name == target.sink:
                    problems.append((here, f"{name} can't wait for itself"))
                elif name not in delivered:
                    problems.append((here, _late(name, index, routes)))
                else:
                    waits.setdefault(target.sink, {}).setdefault(name, here)
    try:
        TopologicalSorter(waits).prepare()
    except CycleError as error:
        circle = error.args[1][:0:-1]  # each waits for the next one
        first = circle.index(next(sink for sink in waits if sink in circle))
        trail = [*circle[first:], *circle[:first], circle[first]]
        text = f"{trail[0]} waits for {', which waits for '.join(trail[1:])}; let one of them go first"
        problems.append((waits[trail[-2]][trail[-1]], text))
    return problems


def _late(name: str, index: int, routes: Sequence[RouteConfig]) -> str:
    for later in routes[index + 1 :]:
        if any(target.sink == name for target in later.targets):
            return f"{name} gets its events from the later route {later.name}; move that up, or add {name} to this `to`"
    return f"{name} is a sink that neither this route nor an earlier one delivers to; add it to this `to`"
