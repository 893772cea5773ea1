"""The quarantine: requests whose signature fitted no secret, one of them, checking again, and dropping."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

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
from receiver.api.service import Actor, Service
from receiver.console.action import ConsoleAction
from receiver.console.page import ConsolePage, PageLink, Query, further, given_of
from receiver.domain.api_key import OPERATE

_VERDICTS: Final = {
    "authentic": "Its signature is valid now: check it again to accept it.",
    "bad_signature": "Its signature fits no secret of its source: the secret is wrong or missing here, or a stranger"
    " sent it. Compare the source's secrets with the API key that the run was submitted with.",
    "unknown_source": "Its source is not in the config.",
}


def quarantine(service: Service, actor: Actor, _names: Mapping[str, str], query: Query) -> Mapping[str, Any]:
    """Return a page of what is in quarantine, and what an action on all of it would take."""
    given = given_of(query)
    parameters = LIST_QUARANTINE.parse({}, given)
    page = LIST_QUARANTINE.call(service, actor, parameters)
    all_of_it: dict[str, str] = {}
    if page.items and OPERATE in actor.scopes:
        until = timestamps.iso(time.time())
        counting = DROP_QUARANTINE.validated({"source": parameters.source, "until": until, "dry_run": True})
        count = DROP_QUARANTINE.call(service, actor, counting).count
        all_of_it = {"source": parameters.source, "until": until, "expect": str(count)}
    return {
        "title": "Quarantine",
        "here": "Quarantine",
        "rows": page.items,
        "all_of_it": all_of_it,
        "further": further("/quarantine", given, page),
    }


def quarantined(service: Service, actor: Actor, names: Mapping[str, str], query: Query) -> Mapping[str, Any]:
    """Return one request with its body redacted, and what is wrong with it."""
    parameters = GET_QUARANTINED.parse(names, given_of(query))
    details = GET_QUARANTINED.call(service, actor, parameters)
    return {
        "title": details.request.id,
        "here": "Quarantine",
        "found": details,
        "body": None if details.data is None else outline(details.data),
        "reason": _reason(service, actor, details.request.id, details.request.source),
    }


def _reason(service: Service, actor: Actor, request_id: str, source: str) -> str:
    """Return what today's secrets say of it; for who may not ask, what they said when it came."""
    if OPERATE not in actor.scopes:
        return _VERDICTS["bad_signature"]
    asked = VERIFY_QUARANTINE.validated({"ids": [request_id], "source": source, "dry_run": True})
    items = VERIFY_QUARANTINE.call(service, actor, asked).items
    return _VERDICTS[items[0].verdict] if items else "It was dropped meanwhile."


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
    ConsoleAction(DROP_QUARANTINE, "Drop", _dropped, "Drop it for good? What is dropped can't be brought back."),
)
