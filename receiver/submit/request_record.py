"""The record of a submitted request, stored with its submission: redacted, and bounded in size. Pure.

It holds members that Skyvern's responses leave out and that a resubmission needs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from receiver.domain.redaction import MASK, Redactor
from receiver.domain.run import storable
from receiver.submit import labels
from receiver.submit.endpoints import SubmitCall

# Maximum characters of the JSON of a record.
LIMIT: Final = 256 << 10
# Bytes of a body over which this is certain: white space, labels and what is masked are not that long.
LARGEST: Final = 4 * LIMIT
# The member that holds where the request went; every other member is one of the request.
CALL: Final = "x-runhook-call"
# Headers that belong to the request itself.
_HEADERS: Final = ("x-max-steps-override",)


def request_record(call: SubmitCall, fields: Mapping[str, Any], redactor: Redactor) -> dict[str, Any] | None:
    """Return the record of a request: its members without labels and webhook, which are stored separately, and
    where it went. None for one that is too large, or nested deeper than a run's body may be.

    `fields`: parsed from its body. What `redactor` masks in a run's body, or in the `run_request` of one, is masked.
    """
    body = call.body
    if len(body) > LARGEST:
        return None
    own = {name: value for name, value in fields.items() if name not in (labels.MEMBER, call.endpoint.url_field)}
    if len(storable(own)) < len(own):
        return None
    own = masked(own, redactor)
    sent = {name: call.headers[name] for name in _HEADERS if name in call.headers}
    to = {"path": call.path.rstrip("/"), "query": call.query, "headers": sent}
    kept = {**own, CALL: {name: value for name, value in to.items() if value}}
    return kept if len(json.dumps(kept)) <= LIMIT else None


def masked(fields: Mapping[str, Any], redactor: Redactor) -> dict[str, Any]:
    """Return members of a request, masked where `redact` names them as the run's own or inside of its `run_request`."""
    own: dict[str, Any] = redactor.mask({"run_request": redactor.mask(dict(fields))})["run_request"]
    return own


def masked_members(request: Mapping[str, Any]) -> list[str]:
    """Return the members of a record with a masked value."""
    return sorted(name for name, value in request.items() if _holds_mask(value))


def _holds_mask(value: Any) -> bool:
    pending = [value]
    while pending:
        each = pending.pop()
        if each == MASK:
            return True
        if isinstance(each, dict):
            pending += each.values()
        elif isinstance(each, list):
            pending += each
    return False
