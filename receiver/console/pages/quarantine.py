"""The quarantine: requests whose signature fitted no secret, one of them, checking again, and dropping."""

from __future__ import annotations

import time
from typing import Final

from handlers.support import timestamps
from receiver.api.outline import outline
from receiver.api.quarantine import (
    DROP_QUARANTINE,
    GET_QUARANTINED,
    LIST_QUARANTINE,
    VERIFY_QUARANTINE,
    DropResult,
    VerifyResult,
)
from receiver.console.action import ConsoleAction
from receiver.console.page import ConsolePage, PageLink, PageRequest, PageValues, next_page_of
from receiver.domain.api_key import OPERATE

_VERDICTS: Final = {
    "authentic": "Its signature is valid now: check it again to accept it.",
    "bad_signature": "The signature matches no secret of the source: the secret is wrong or missing here, or someone"
    " else sent the request. Compare the source's secrets with the API key that the run was submitted with.",
    "unknown_source": "The source is not in the config.",
}


def quarantine(request: PageRequest) -> PageValues:
    """Return a page of what is in quarantine, and what an action on all of it would take."""
    page = request.call_as_asked(LIST_QUARANTINE)
    all_of_it: dict[str, str] = {}
    if page.items and OPERATE in request.actor.scopes:
        source, until = dict(request.query).get("source", ""), timestamps.iso(time.time())
        count = request.call(DROP_QUARANTINE, source=source, until=until, dry_run=True).count
        all_of_it = {"source": source, "until": until, "expect": str(count)}
    return {
        "title": "Quarantine",
        "here": "Quarantine",
        "rows": page.items,
        "all_of_it": all_of_it,
        "next_page": next_page_of("/quarantine", request.query, page),
    }


def quarantined(request: PageRequest) -> PageValues:
    """Return one request with its body redacted, and what is wrong with it."""
    details = request.call_as_asked(GET_QUARANTINED)
    return {
        "title": details.request.id,
        "here": "Quarantine",
        "found": details,
        "body": None if details.data is None else outline(details.data),
        "reason": _reason(request, details.request.id, details.request.source),
    }


def _reason(request: PageRequest, quarantined_id: str, source: str) -> str:
    """Return the verdict of today's secrets; for people without the scope operate, the verdict at its receipt."""
    if OPERATE not in request.actor.scopes:
        return _VERDICTS["bad_signature"]
    items = request.call(VERIFY_QUARANTINE, ids=[quarantined_id], source=source, dry_run=True).items
    return _VERDICTS[items[0].verdict] if items else "The request was dropped meanwhile."


def _verified(result: VerifyResult) -> str:
    if not result.authentic:
        return f"None of {result.count:,} has a valid signature. They stay in quarantine."
    return f"{result.authentic:,} of {result.count:,} had a valid signature and were accepted, each with its own time."


def _dropped(result: DropResult) -> str:
    return f"{result.count:,} dropped."


PAGES: Final = (
    ConsolePage("/quarantine", "quarantine.html", quarantine, PageLink("Quarantine", "q", "Operating")),
    ConsolePage("/quarantine/{id}", "quarantined.html", quarantined),
)
ACTIONS: Final = (
    ConsoleAction(VERIFY_QUARANTINE, "Check again", _verified, failed=lambda result: not result.authentic),
    ConsoleAction(DROP_QUARANTINE, "Drop", _dropped, "Drop permanently? Dropped requests cannot be restored."),
)
