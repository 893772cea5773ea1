"""API keys: the list, a new one that is shown once, rotating and revoking."""

from __future__ import annotations

from typing import Final

from receiver.api.keys import (
    CREATE_KEY,
    LIST_KEYS,
    LONGEST_NAME,
    REVOKE_KEYS,
    ROTATE_KEY,
    KeysParameters,
    RotationParameters,
)
from receiver.api.models import MAX_LIMIT
from receiver.console.action import ConsoleAction
from receiver.console.page import ConsolePage, PageLink, PageRequest, PageValues, next_page_of
from receiver.domain.api_key import ALL_SCOPES

# What each scope lets the holder of a key do.
_MEANINGS: Final = {
    "submit": "submit runs",
    "read": "read runs and results of its source through the submit API",
    "operate": "make all other calls of the submit API; with view, act through the JSON API too",
    "view": "read everything through the JSON API",
    "resubmit": "submit a failed run again for its first caller",
    "erase": "erase the content of runs, which cannot be undone",
}


def keys(request: PageRequest) -> PageValues:
    """Return a page of the keys, and what a new one may be given."""
    page, actor = request.call_as_asked(LIST_KEYS), request.actor
    return {
        "title": "Keys",
        "here": "Keys",
        "rows": page.items,
        "next_page": next_page_of("/keys", request.query, page),
        "scopes": [(scope, _MEANINGS[scope]) for scope in ALL_SCOPES if scope in actor.scopes],
        "withheld": [scope for scope in ALL_SCOPES if scope not in actor.scopes],
        "sources": [] if actor.source else list(request.service.config.sources),
        "longest_name": LONGEST_NAME,
    }


def _names(request: PageRequest, parameters: KeysParameters | RotationParameters) -> str:
    """Return the names of the keys that an action applies to."""
    ids = parameters.ids if isinstance(parameters, KeysParameters) else [parameters.key]
    names = {row.id: f"{row.name} ({row.hint}…)" for row in request.call(LIST_KEYS, limit=MAX_LIMIT).items}
    return ", ".join(names.get(each, each) for each in ids)


PAGES: Final = (ConsolePage("/keys", "keys.html", keys, PageLink("Keys", "k", "Submitting")),)
ACTIONS: Final = (
    ConsoleAction(CREATE_KEY, "Create a key", template="key_created.html", values=lambda *_: {"here": "Keys"}),
    ConsoleAction(
        ROTATE_KEY,
        "Rotate",
        question="Give this key a successor? The old one works for another day, so that its users can switch.",
        template="key_created.html",
        values=lambda *_: {"here": "Keys"},
        about=_names,
    ),
    ConsoleAction(
        REVOKE_KEYS,
        "Revoke",
        lambda result: "The key is revoked." if result.count else "The key was revoked already.",
        "Revoke this key? Its users are refused within 5 seconds, and it cannot be restored.",
        about=_names,
    ),
)
