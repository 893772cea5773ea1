"""The quarantine of this receiver's host: requests that failed the signature check, with their bodies redacted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from pydantic import Field

from receiver.api import cursor
from receiver.api.endpoint import Endpoint
from receiver.api.models import Moment, Page, PageParameters, Result, Scoped
from receiver.api.service import Actor, Service
from receiver.domain.api_key import VIEW
from receiver.domain.parsed_event import parse_event
from receiver.domain.redaction import Redactor
from receiver.errors import NotFound
from receiver.ingest.quarantine import Quarantine, QuarantinedRequest

# Bytes of a body that are shown.
SHOWN: Final = 256 << 10


class QuarantineRow(Result):
    """A request in quarantine. Nobody knows who sent it."""

    id: str = Field(description="What its event's id would be.")
    source: str
    received_at: Moment
    size: int = Field(description="Bytes of the body.")
    signature: str
    submission_id: str
    is_run: bool = Field(description="Whether its body names a run.")

    @classmethod
    def of(cls, refused: QuarantinedRequest) -> QuarantineRow:
        """Return the row of a request."""
        names = cls.model_fields.keys() - {"received_at"}
        return cls(received_at=refused.at, **{name: getattr(refused, name) for name in names})


class QuarantinedBody(Result):
    """A request in quarantine with its body. `data`: null, and `problem` says why, for one that can't be shown."""

    request: QuarantineRow
    run_id: str
    run_type: str
    status: str
    data: dict[str, Any] | None = Field(description="The body's members after redaction.")
    problem: str


class QuarantinedParameters(Scoped):
    """Which request."""

    id: str = Field(max_length=100, description="Its id, evt_….")


def store_of(service: Service) -> Quarantine:
    """Return the quarantine of this host."""
    config = service.config.quarantine
    return Quarantine(service.settings.data / "quarantine", config.max_count, config.max_bytes)


def kept(store: Quarantine, source: str) -> list[QuarantinedRequest]:
    """Return the requests in quarantine of a source, or of all for "", the oldest first."""
    found = [each for each in store.list() if source in ("", each.source)]
    return sorted(found, key=lambda each: (each.at, each.file))


def list_quarantine(service: Service, _actor: Actor, wanted: PageParameters) -> Page[QuarantineRow]:
    """List the requests in the quarantine of this receiver's host, the oldest first."""
    position = cursor.decode("quarantine", wanted.after, (float, str))
    found = [
        each for each in kept(store_of(service), wanted.source) if position is None or (each.at, each.file) > position
    ]
    page = found[: wanted.limit]
    last = (page[-1].at, page[-1].file) if len(found) > wanted.limit else None
    return Page(items=[QuarantineRow.of(each) for each in page], next=cursor.encode("quarantine", last))


def get_quarantined(service: Service, _actor: Actor, wanted: QuarantinedParameters) -> QuarantinedBody:
    """Return one request in quarantine with its body, redacted. Its signature fits no secret: it may say anything."""
    store = store_of(service)
    refused = next((each for each in kept(store, wanted.source) if each.id == wanted.id), None)
    try:
        body = store.body(refused) if refused is not None else None
    except FileNotFoundError:  # it was dropped meanwhile
        body = None
    if refused is None or body is None:
        raise NotFound(f"{wanted.id}: is not in quarantine")
    if len(body) > SHOWN:
        problem, parsed = f"the body has more than {SHOWN} bytes", None
    else:
        parsed = parse_event(refused.event(body), Redactor(service.config.redact))
        problem = parsed.run.problem
    return QuarantinedBody(
        request=QuarantineRow.of(refused),
        run_id=parsed.run.run_id if parsed else "",
        run_type=parsed.run.run_type if parsed else "",
        status=parsed.run.status if parsed else "",
        data=_encodable(parsed.data) if parsed and not problem else None,
        problem=problem,
    )


def _encodable(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return `data` with a question mark for each half of a character, which no UTF-8 has."""
    found: dict[str, Any] = json.loads(json.dumps(data, ensure_ascii=False).encode(errors="replace"))
    return found


LIST_QUARANTINE: Final = Endpoint(
    "list_quarantine", "GET", "/quarantine", VIEW, PageParameters, Page[QuarantineRow], list_quarantine
)
GET_QUARANTINED: Final = Endpoint(
    "get_quarantined", "GET", "/quarantine/{id}", VIEW, QuarantinedParameters, QuarantinedBody, get_quarantined
)
ENDPOINTS = (LIST_QUARANTINE, GET_QUARANTINED)
