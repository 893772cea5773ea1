"""Incidents: failed runs of one workflow with the same reason, compared with the time before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from hashlib import blake2b
from typing import Final

from pydantic import Field

from handlers.support.wording import without_particulars
from receiver.api.endpoint import call
from receiver.api.models import Filtered, Moment, Result
from receiver.api.service import Actor, Service
from receiver.api.totals import bucketed_span
from receiver.domain.api_key import VIEW
from receiver.ledger.lists import incidents
from receiver.ledger.lists.incidents import FailedRun
from receiver.ledger.totals import Span

# Periods of the trend: of the time before, and as many of the requested time.
TREND: Final = 24
# Maximum characters of a reason in a filter, and the minimum: a shorter one finds too much.
_LONGEST: Final = 200
_SHORTEST: Final = 4


class IncidentParameters(Filtered):
    """Which failed runs, and of which time: by default of the last 24 hours."""

    top: int = Field(50, ge=1, le=500, description="Maximum incidents, the largest.")


class IncidentRow(Result):
    """Runs of one workflow that failed for one reason."""

    id: str = Field(description="Of source, workflow and reason: the same at each call.")
    source: str
    workflow: str = Field(description="Its permanent id; empty for runs of none.")
    title: str | None = Field(description="Of the newest run.")
    reason: str = Field(description="Without ids and numbers.")
    statuses: dict[str, int] = Field(description="How many failed, were terminated or timed out.")
    count: int
    before: int = Field(description="How many there were in an equally long time before.")
    first_at: Moment
    last_at: Moment
    run_id: str = Field(description="The newest run.")
    example: str = Field(description="Its reason as it is.")
    find: str = Field(description="As `reason` of a filter, finds all of them, and others with the same words.")
    trend: list[int] = Field(description=f"{2 * TREND} counts: of the time before in {TREND} periods, then of this.")


class Incidents(Result):
    """Failed runs by what they have in common. `items`: the largest first."""

    since: Moment
    until: Moment
    counted_since: Moment | None = Field(
        description="Older runs were not counted, because a call reads a bounded number; null: all were counted."
    )
    items: list[IncidentRow]
    others: int = Field(description="How many are in groups that are not shown.")


def list_incidents(service: Service, _actor: Actor, parameters: IncidentParameters) -> Incidents:
    """Group runs that failed by workflow and reason, and compare with the time before."""
    span = bucketed_span(service, parameters, None)
    whole = Span(2 * span.since - span.until, span.until)
    found, edge = service.ledger.read(lambda it: incidents.failed_runs(it, parameters.filter(), whole))
    rows = grouped(found, span)
    return Incidents(
        since=span.since,
        until=span.until,
        counted_since=edge if edge > whole.since else None,
        items=rows[: parameters.top],
        others=sum(each.count for each in rows[parameters.top :]),
    )


def grouped(found: Sequence[FailedRun], span: Span) -> list[IncidentRow]:
    """Return the groups of failed runs with one in `span`, the largest first. `found`: the newest first, from twice the
    time of `span` on."""
    alike: dict[str, str] = {}
    groups: dict[tuple[str, str, str], list[FailedRun]] = {}
    for each in found:
        said = each.reason or ""
        if said not in alike:
            alike[said] = without_particulars(said)
        groups.setdefault((each.source, each.workflow_id or "", alike[said]), []).append(each)
    rows = [_row(key, group, span) for key, group in groups.items() if group[0].at >= span.since]
    return sorted(rows, key=lambda row: (-row.count, -row.last_at, row.workflow, row.reason))


def _row(key: tuple[str, str, str], group: Sequence[FailedRun], span: Span) -> IncidentRow:
    source, workflow, reason = key
    now = [each for each in group if each.at >= span.since]
    stretch = (span.until - span.since) / TREND
    trend = [0] * (2 * TREND)
    for each in group:
        trend[min(max(int((each.at - span.since) // stretch) + TREND, 0), 2 * TREND - 1)] += 1
    digest = blake2b("\0".join(key).encode(errors="replace"), digest_size=8).hexdigest()
    return IncidentRow(
        id=f"inc_{digest}",
        source=source,
        workflow=workflow,
        title=next((each.title for each in now if each.title), None),
        reason=reason,
        statuses=Counter(each.outcome for each in now),
        count=len(now),
        before=len(group) - len(now),
        first_at=group[-1].at,
        last_at=group[0].at,
        run_id=group[0].run_id,
        example=group[0].reason or "",
        find=common_part({each.reason or "" for each in now}),
        trend=trend,
    )


def common_part(reasons: Iterable[str]) -> str:
    """Return a text that all of the reasons contain, or "" when they have too little in common."""
    texts = sorted(reasons)
    part = texts[0][:_LONGEST] if texts else ""
    for text in texts[1:]:
        if part not in text:
            match = SequenceMatcher(None, part, text[: 4 * _LONGEST], autojunk=False).find_longest_match()
            part = part[match.a : match.a + match.size]
    part = part.strip()
    return part if len(part) >= _SHORTEST else ""


LIST_INCIDENTS: Final = call("GET", "/incidents", VIEW, list_incidents)
