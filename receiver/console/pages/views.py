"""Saved views: their names are among the links of each page, and are changed here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from receiver.api.service import Actor, Service
from receiver.api.views import LIST_VIEWS, REMOVE_VIEW, SAVE_VIEW
from receiver.console.action import ConsoleAction
from receiver.console.page import ConsolePage, Query


def views(service: Service, actor: Actor, _names: Mapping[str, str], _query: Query) -> Mapping[str, Any]:
    """Return the saved views that a person sees."""
    found = LIST_VIEWS.call(service, actor, LIST_VIEWS.validated({}))
    return {"title": "Saved views", "here": "Saved views", "rows": found.items}


PAGES: Final = (ConsolePage("/views", "views.html", views),)
ACTIONS: Final = (
    ConsoleAction(SAVE_VIEW, "Save", lambda view: f"Saved as {view.name}."),
    ConsoleAction(REMOVE_VIEW, "Remove", lambda view: f"{view.name} is removed."),
)
