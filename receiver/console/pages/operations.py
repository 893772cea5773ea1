"""Operations: how far each is, and how one is stopped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from receiver.api.operations import CANCEL_OPERATION, GET_OPERATION, LIST_OPERATIONS, OperationRow
from receiver.api.service import Actor, Service
from receiver.console.action import ConsoleAction
from receiver.console.filters import filter_form
from receiver.console.page import ConsolePage, PageLink, Query, further, given_of
from receiver.console.wording import asked_for

_STATES: Final = ("running", "done", "cancelled")


def operations(service: Service, actor: Actor, _names: Mapping[str, str], query: Query) -> Mapping[str, Any]:
    """Return a page of operations."""
    given = given_of(query)
    found = LIST_OPERATIONS.call(service, actor, LIST_OPERATIONS.parse({}, given))
    return {
        "title": "Operations",
        "here": "Operations",
        "form": filter_form(service, actor, "/operations", given, ("state", "source"), choices={"state": _STATES}),
        "further": further("/operations", given, found),
        "operations": [_shown(row) for row in found.items],
    }


def operation(service: Service, actor: Actor, names: Mapping[str, str], query: Query) -> Mapping[str, Any]:
    """Return one operation."""
    found = GET_OPERATION.call(service, actor, GET_OPERATION.parse(names, query))
    return {"title": f"{found.kind.capitalize()} {found.id}", "here": "Operations", "operation": _shown(found)}


def _shown(row: OperationRow) -> dict[str, Any]:
    return {"row": row, "asked": asked_for(row.selection), "left": seconds_left(row)}


def seconds_left(row: OperationRow) -> float | None:
    """Return how long an operation will still take at its present speed; None if unknown."""
    took = row.updated_at - row.created_at
    if row.state != "running" or row.done <= 0 or took <= 0:
        return None
    return max(0.0, (row.total - row.done) * took / row.done)


ACTIONS: Final = (
    ConsoleAction(
        CANCEL_OPERATION,
        "Stop",
        lambda row: f"{row.id} is stopped after {row.done:,} of {row.total:,}.",
        "Stop this operation? What it has done stays done.",
    ),
)
PAGES: Final = (
    ConsolePage("/operations", "operations.html", operations, PageLink("Operations", "p", "Operating")),
    ConsolePage("/operations/{id}", "operation.html", operation),
)
