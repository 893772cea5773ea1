"""Actions on the quarantine of this receiver's host: check again what is there, and drop it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Final

from pydantic import Field

from receiver.api.actions import audited
from receiver.api.endpoint import Endpoint
from receiver.api.models import MomentParameter, Result, Scoped
from receiver.api.quarantine import QuarantineRow, kept, store_of
from receiver.api.service import Actor, Service
from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.domain.api_key import OPERATE
from receiver.domain.event import Event
from receiver.errors import Busy, Invalid, NotAsExpected, NotFound
from receiver.inbox.writer import InboxUnavailable, append_each
from receiver.ingest.quarantine import Quarantine, QuarantinedRequest

# Rows that an answer has of what was taken.
MOST_ROWS: Final = 500
AUTHENTIC: Final = "authentic"
# What the audit calls it.
VERIFY: Final = "quarantine.verify"
DROP: Final = "quarantine.drop"


class QuarantineSelection(Scoped):
    """Which requests: by id, or all that the filter finds."""

    ids: tuple[str, ...] = Field((), max_length=1000, description="Only these, by id.")
    since: MomentParameter | None = Field(None, description="Only what came since then: 15m, 2h, 7d, or a time.")
    until: MomentParameter | None = Field(None, description="Only what came before then.")
    dry_run: bool = Field(False, description="Change nothing: only count, and check.")
    expect: int | None = Field(
        None,
        ge=0,
        le=2**63 - 1,
        description="How many it must be, as dry_run has counted: else 409 with the new count. Needed without ids.",
    )


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


def verify_quarantine(service: Service, actor: Actor, wanted: QuarantineSelection) -> VerifyResult:
    """Check signatures again with the present secrets, and let the authentic requests in, as of when they came."""
    store = store_of(service)
    verdicts = check(service.config, store, _chosen(store, wanted))
    authentic = authentic_of(verdicts)
    if verdicts and not wanted.dry_run:
        with audited.audited(service.ledger, actor, VERIFY, _selection(wanted), source=wanted.source) as told:
            try:
                let_in(service.settings, service.config, store, authentic, told)
            except InboxUnavailable as error:
                told.detail = f"Redis takes no events now ({error})"
                raise Busy(f"{told.detail}; what was not let in stays in quarantine") from None
    rows = [VerdictRow(request=QuarantineRow.of(each), verdict=verdict) for each, verdict in verdicts[:MOST_ROWS]]
    return VerifyResult(dry_run=wanted.dry_run, count=len(verdicts), authentic=len(authentic), items=rows)


def drop_quarantine(service: Service, actor: Actor, wanted: QuarantineSelection) -> DropResult:
    """Drop requests for good."""
    store = store_of(service)
    chosen = _chosen(store, wanted)
    if chosen and not wanted.dry_run:
        selection = _selection(wanted)
        with audited.audited(service.ledger, actor, DROP, selection, source=wanted.source) as told:
            store.remove(chosen)
            told.count = len(chosen)
    rows = [QuarantineRow.of(each) for each in chosen[:MOST_ROWS]]
    return DropResult(dry_run=wanted.dry_run, count=len(chosen), items=rows)


def _chosen(store: Quarantine, wanted: QuarantineSelection) -> list[QuarantinedRequest]:
    """Return what is chosen. Raises NotFound for an id that is not there, Invalid and NotAsExpected."""
    if not wanted.dry_run and not wanted.ids and wanted.expect is None:
        raise Invalid("expect: say how many it must be, as the same call with dry_run counts them; or give ids")
    there = kept(store, wanted.source)
    if missing := sorted(set(wanted.ids) - {each.id for each in there}):
        raise NotFound(f"not in quarantine: {', '.join(missing)}; `runhook quarantine list` shows what is")
    found = [
        each
        for each in there
        if (not wanted.ids or each.id in wanted.ids)
        and (wanted.since is None or each.at >= wanted.since)
        and (wanted.until is None or each.at < wanted.until)
    ]
    if not wanted.dry_run and wanted.expect not in (None, len(found)):
        raise NotAsExpected(wanted.expect or 0, len(found))
    return found


def _selection(wanted: QuarantineSelection) -> dict[str, object]:
    return wanted.model_dump(mode="json", exclude_defaults=True, exclude={"dry_run"})


def check(
    config: Config, store: Quarantine, chosen: Iterable[QuarantinedRequest]
) -> list[tuple[QuarantinedRequest, str]]:
    """Return the verdict on each request by the present secrets. Those that were dropped meanwhile are left out."""
    verdicts = []
    for refused in chosen:
        source = config.sources.get(refused.source)
        secrets = None if source is None else source.signing_secrets
        with suppress(FileNotFoundError):
            verdicts.append((refused, refused.verdict(store.body(refused), secrets)))
    return verdicts


def authentic_of(verdicts: Iterable[tuple[QuarantinedRequest, str]]) -> list[QuarantinedRequest]:
    """Return the requests that are authentic."""
    return [refused for refused, verdict in verdicts if verdict == AUTHENTIC]


def let_in(
    settings: Settings,
    config: Config,
    store: Quarantine,
    authentic: Sequence[QuarantinedRequest],
    told: audited.ActionOutcome,
) -> None:
    """Append requests to the inbox as events received when they came, take out and count each that is there.

    One that somebody else has taken out meanwhile is left out. Raises InboxUnavailable.
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
        told.count += 1

    if authentic:
        asyncio.run(append_each(settings.redis_url, config.sources, events(), taken))


VERIFY_QUARANTINE: Final = Endpoint(
    "verify_quarantine", "POST", "/quarantine/verify", OPERATE, QuarantineSelection, VerifyResult, verify_quarantine
)
DROP_QUARANTINE: Final = Endpoint(
    "drop_quarantine", "POST", "/quarantine/drop", OPERATE, QuarantineSelection, DropResult, drop_quarantine
)
ENDPOINTS = (VERIFY_QUARANTINE, DROP_QUARANTINE)
