"""An operation, and how one is stopped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from receiver.api.operations import CANCEL_OPERATION, GET_OPERATION
from receiver.api.service import Actor, Service
from receiver.console.action import ConsoleAction
from receiver.console.page import ConsolePage, Query


def operation(service: Service, actor: Actor, names: Mapping[str, str], query: Query) -> Mapping[str, Any]:
    """Return one operation."""
    found = GET_OPERATION.call(service, actor, GET_OPERATION.parse(names, query))
    return {"title": f"{found.kind.capitalize()} {found.id}", "here": "Operations", "row": found}


ACTIONS: Final = (
    ConsoleAction(
        CANCEL_OPERATION,
        "Stop",
        lambda row: f"{row.id} is stopped after {row.done:,} of {row.total:,}.",
        "Stop this operation? What it has done stays done.",
    ),
)
PAGES: Final = (ConsolePage("/operations/{id}", "operation.html", operation),)
