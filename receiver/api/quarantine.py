"""The quarantine of this receiver's host: list, show, verify and drop requests with a bad signature."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, Final

from pydantic import Field

from receiver.api import cursor
from receiver.api.audit import ActionOutcome, audited
from receiver.api.endpoint import call
from receiver.api.events import json_safe
from receiver.api.models import Moment, MomentParameter, Page, PageParameters, Result, Scoped
from receiver.api.operations import Guarded
from receiver.api.service import Actor, Service
from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.domain.api_key import OPERATE, VIEW
from receiver.domain.event import Event
from receiver.domain.parsed_event import parse_event
from receiver.domain.redaction import Redactor
from receiver.errors import Busy, NotAsExpected, NotFound
from receiver.inbox.writer import InboxUnavailable, append_each
from receiver.ingest.quarantine import Quarantine, QuarantinedRequest

# Maximum rows of a response.
MOST_ROWS: Final = 500
AUTHENTIC: Final = "authentic"
# What the audit calls these actions.
VERIFY: Final = "quarantine.verify"
DROP: Final = "quarantine.drop"

# Bytes of a body that are shown.
SHOWN: Final = 256 << 10


class QuarantineRow(Result):
    """A request in quarantine. Its sender is unknown."""

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


class ListedRequest(QuarantineRow):
    """A request in quarantine, as the list shows it."""

    run_id: str = Field(description="The run that its body names. Unverified: the signature fits no secret.")
    identical: int = Field(description="Requests of this source in quarantine with the same body, itself included.")


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


def list_quarantine(service: Service, _actor: Actor, parameters: PageParameters) -> Page[ListedRequest]:
    """List requests in quarantine on this receiver's host, oldest first. Needs no ledger."""
    after = cursor.decode("quarantine", parameters.after, (float, str))
    store = store_of(service)
    found = kept(store, parameters.source)
    there = [each for each in found if after is None or (each.at, each.file) > after]
    shown = there[: parameters.limit]
    place = (shown[-1].at, shown[-1].file) if len(there) > parameters.limit else None
    same = Counter(each.id for each in found)  # of source and body
    rows = [
        ListedRequest(**dict(QuarantineRow.of(each)), run_id=store.run_named(each), identical=same[each.id])
        for each in shown
    ]
    return Page(items=rows, next=cursor.encode("quarantine", place))


def get_quarantined(service: Service, _actor: Actor, parameters: QuarantinedParameters) -> QuarantinedBody:
    """Return one request in quarantine with its body, redacted. Its signature fits no secret: it may say anything."""
    store = store_of(service)
    refused = next((each for each in kept(store, parameters.source) if each.id == parameters.id), None)
    try:
        body = store.body(refused) if refused is not None else None
    except FileNotFoundError:  # it was dropped
        body = None
    if refused is None or body is None:
        raise NotFound(f"{parameters.id}: is not in quarantine")
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
        data=json_safe(parsed.data) if parsed and not problem else None,
        problem=problem,
    )


class QuarantineSelection(Guarded):
    """Which requests: by id of the event that each would be, or all that the filter finds."""

    since: MomentParameter | None = Field(None, description="Received since then: 2h or 7d ago, 22:43, or a time.")
    until: MomentParameter | None = Field(None, description="Received before then.")


class VerdictRow(Result):
    """A request that was checked again. `verdict`: authentic, bad_signature or unknown_source."""

    request: QuarantineRow
    verdict: str


class VerifyResult(Result):
    """What was checked again. What is authentic is let in, unless it was a dry run; the rest stays."""

    dry_run: bool
    count: int
    authentic: int
    items: list[VerdictRow] = Field(description=f"The first {MOST_ROWS}.")


class DropResult(Result):
    """What was dropped for good, or with dry_run would be."""

    dry_run: bool
    count: int
    items: list[QuarantineRow] = Field(description=f"The first {MOST_ROWS}.")


def verify_quarantine(service: Service, actor: Actor, parameters: QuarantineSelection) -> VerifyResult:
    """Check signatures again with the current secrets, and accept authentic requests at their original times."""
    config, store = service.config, store_of(service)
    verdicts: list[tuple[QuarantinedRequest, str]] = []
    for refused in _chosen(store, parameters):
        source = config.sources.get(refused.source)
        with suppress(FileNotFoundError):  # it was removed since then
            secrets = None if source is None else source.signing_secrets
            verdicts.append((refused, refused.verdict(store.body(refused), secrets)))
    authentic = [refused for refused, verdict in verdicts if verdict == AUTHENTIC]
    if verdicts and not parameters.dry_run:
        with audited(service.ledger, actor, VERIFY, _selection(parameters), source=parameters.source) as done:
            try:
                accept(service.settings, config, store, authentic, done)
            except InboxUnavailable as error:
                done.detail = f"Redis does not accept events ({error})"
                raise Busy(f"{done.detail}; the others stay in quarantine") from None
    rows = [VerdictRow(request=QuarantineRow.of(each), verdict=verdict) for each, verdict in verdicts[:MOST_ROWS]]
    return VerifyResult(dry_run=parameters.dry_run, count=len(verdicts), authentic=len(authentic), items=rows)


def drop_quarantine(service: Service, actor: Actor, parameters: QuarantineSelection) -> DropResult:
    """Delete requests from quarantine for good."""
    store = store_of(service)
    chosen = _chosen(store, parameters)
    if chosen and not parameters.dry_run:
        selection = _selection(parameters)
        with audited(service.ledger, actor, DROP, selection, source=parameters.source) as done:
            store.remove(chosen)
            done.count = len(chosen)
    rows = [QuarantineRow.of(each) for each in chosen[:MOST_ROWS]]
    return DropResult(dry_run=parameters.dry_run, count=len(chosen), items=rows)


def _chosen(store: Quarantine, parameters: QuarantineSelection) -> list[QuarantinedRequest]:
    """Return what is chosen. Raises NotFound for an id that is not there, Invalid and NotAsExpected."""
    parameters.require_count()
    there = kept(store, parameters.source)
    if missing := sorted(set(parameters.ids) - {each.id for each in there}):
        raise NotFound(f"not in quarantine: {', '.join(missing)}; `runhook quarantine list` shows what is")
    found = [
        each
        for each in there
        if (not parameters.ids or each.id in parameters.ids)
        and (parameters.since is None or each.at >= parameters.since)
        and (parameters.until is None or each.at < parameters.until)
    ]
    if not parameters.dry_run and parameters.expect not in (None, len(found)):
        raise NotAsExpected(parameters.expect or 0, len(found))
    return found


def _selection(parameters: QuarantineSelection) -> dict[str, object]:
    return parameters.model_dump(mode="json", exclude_defaults=True, exclude={"dry_run"})


def accept(
    settings: Settings,
    config: Config,
    store: Quarantine,
    authentic: Sequence[QuarantinedRequest],
    done: ActionOutcome,
) -> None:
    """Append requests to the inbox as events received when they came, take out and count each that is there.

    One that was removed since then is skipped. Raises InboxUnavailable.
    """
    begun: list[QuarantinedRequest] = []

    def events() -> Iterator[Event]:
        for refused in authentic:
            try:
                event = refused.event(store.body(refused))
            except FileNotFoundError:
                continue
            begun.append(refused)
            yield event

    def taken(number: int) -> None:
        store.remove([begun[number]])
        done.count += 1

    if authentic:
        asyncio.run(append_each(settings.redis_url, config.sources, events(), taken))


LIST_QUARANTINE: Final = call("GET", "/quarantine", VIEW, list_quarantine)
GET_QUARANTINED: Final = call("GET", "/quarantine/{id}", VIEW, get_quarantined)
VERIFY_QUARANTINE: Final = call("POST", "/quarantine/verify", OPERATE, verify_quarantine)
DROP_QUARANTINE: Final = call("POST", "/quarantine/drop", OPERATE, drop_quarantine)
