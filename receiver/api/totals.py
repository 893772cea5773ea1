"""Totals over time: how many runs or deliveries there were, how they ended, and how long results took."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any, Final

import redis
from pydantic import AfterValidator, BeforeValidator, Field

from handlers.support.duration import Seconds
from handlers.support.wording import without_particulars
from receiver.api.endpoint import call
from receiver.api.models import ByDelivery, Filtered, Moment, Result
from receiver.api.names import check_names
from receiver.api.service import Actor, Service
from receiver.domain.api_key import VIEW
from receiver.domain.delivery import ENDED
from receiver.errors import Invalid, suggest
from receiver.inbox import state as inbox
from receiver.ingest import spool
from receiver.ingest.quarantine import Quarantine
from receiver.ledger import Connection, totals
from receiver.ledger.totals import DELIVERY_DIMENSIONS, RUN_DIMENSIONS, Counted, EventCounts, Group, Span
from receiver.runtime.redis_client import connect

# Seconds that are counted when no time is given.
DAY: Final = 86_400.0
# Seconds of data below which a rate per hour would say nothing.
_LEAST: Final = 3600.0
# Maximum periods of a response.
MAX_BUCKETS: Final = 1000

_DIMENSIONS: Final = (*RUN_DIMENSIONS, *(name for name in DELIVERY_DIMENSIONS if name not in RUN_DIMENSIONS))
# With parameters besides these, webhooks are not accounted for.
_OF_ACCOUNT: Final = frozenset(("source", "since", "until", "top"))
# With one of these, deliveries are counted, else runs.
_OF_DELIVERIES: Final = frozenset(DELIVERY_DIMENSIONS) - frozenset(RUN_DIMENSIONS)


def _names(value: object) -> object:
    """Split names at commas."""
    many = [value] if isinstance(value, str) else value
    if not isinstance(many, Sequence):
        return value
    return [name.strip() for each in many for name in str(each).split(",") if name.strip()]


def _checked_dimensions(by: tuple[str, ...]) -> tuple[str, ...]:
    for name in by:
        if name not in _DIMENSIONS:
            meant = suggest(name, _DIMENSIONS)
            hint = f"did you mean {meant}?" if meant else f"there are {', '.join(_DIMENSIONS)}"
            raise ValueError(f"nothing can be counted by {name}; {hint}")
    if len(set(by)) < len(by):
        raise ValueError("it names one twice")
    return by


class TotalsParameters(ByDelivery):
    """What is counted, and by what. Times are those of the last change."""

    by: Annotated[tuple[str, ...], BeforeValidator(_names), AfterValidator(_checked_dimensions)] = Field(
        (), description=f"Group by these, separated by commas: {', '.join(_DIMENSIONS)}."
    )
    bucket: Annotated[Seconds, Field(ge=1)] | None = Field(
        None, description="Count each period of this length, such as 1h; periods begin at full hours in UTC."
    )
    top: int = Field(50, ge=1, le=500, description="Maximum groups, the largest; the rest is counted as others.")


class TotalRow(Result):
    """A group of runs or deliveries; the first one has all of them, and an empty key."""

    key: dict[str, str] = Field(description="What they have in common. A reason is without ids and numbers.")
    at: Moment | None = Field(None, description="When the period begins; null without `bucket`.")
    count: int
    good: int = Field(description="Runs that completed, or deliveries that were delivered.")
    ended: int = Field(description="Runs that have ended, or deliveries delivered or dead: not what was cancelled.")
    success_rate: float | None = Field(description="`good` of `ended`, from 0 to 1; null if `ended` is 0.")
    per_hour: float = Field(
        description="Of the period, or of all time counted since the ledger's first event, at least an hour."
    )
    age_p50: float | None = Field(
        None,
        description="Seconds from the end of a run to the delivery of its result, of half of the newest 2,000; of "
        "everything together, and of each sink when it is counted by sink alone. What was replayed does not count.",
    )
    age_p95: float | None = Field(None, description="The same, of 95 % of them.")


class Account(Result):
    """What came in a time, and what became of it. `webhooks` + `fetched` = `same_again` + `recorded`; `recorded` =
    `routed` + `unrouted` + `other`; `deliveries` = `delivered` + `pending` + `dead` + `cancelled`."""

    webhooks: int = Field(description="Acknowledged webhooks of events that were recorded in this time.")
    fetched: int = Field(description="Results that Runhook polled or imported.")
    same_again: int = Field(
        description="Webhooks with the body of a recorded event, however late they came. Only the event is kept."
    )
    recorded: int = Field(description="Events.")
    routed: int = Field(description="Events with a delivery.")
    unrouted: int = Field(description="Events with a new result, and no delivery: no route matched.")
    other: dict[str, int] = Field(description="All others without a delivery, by disposition: repeat, superseded, …")
    deliveries: int = Field(description="Of these events.")
    delivered: int
    pending: int = Field(description="Held, queued, waiting or being sent.")
    dead: int
    cancelled: int
    refused: int | None = Field(
        description="Requests of this time in the quarantine of the responding host; null if it can't be read."
    )
    waiting: int | None = Field(
        description="Acknowledged events in inbox and spool now, not counted above; null with `source`, or without"
        " Redis."
    )


class Totals(Result):
    """Totals. `items`: first of everything together, then by group, the largest first."""

    of: str = Field(description="runs or deliveries: these when it is counted by sink, state or route.")
    since: Moment
    until: Moment
    counted_since: Moment | None = Field(
        description="Older rows were not counted, because a count reads a bounded number; null: all were counted."
    )
    items: list[TotalRow]
    others: int = Field(description="How many are in groups that are not shown.")
    account: Account | None = Field(
        None, description="Of webhooks, without grouping and filters but `source`, `since` and `until`; else null."
    )


def get_totals(service: Service, actor: Actor, parameters: TotalsParameters) -> Totals:
    """Count runs or deliveries in a time range, grouped by status, workflow, sink and more."""
    span = bucketed_span(service, parameters, parameters.bucket)
    of_deliveries = bool(_OF_DELIVERIES & set(parameters.by))
    count = totals.count_deliveries if of_deliveries else totals.count_runs

    plain = not parameters.model_fields_set - _OF_ACCOUNT

    def read(connection: Connection) -> tuple[Counted, float, dict[str, list[float]], Any]:
        counted = count(connection, parameters.filter(), span, parameters.by, parameters.bucket)
        check_names(service, actor, connection, parameters.filter(), empty=not counted.all.count)
        its_events = totals.count_events(connection, parameters.source, span) if plain else None
        return counted, totals.first_at(connection), totals.ages(connection, parameters.filter(), span), its_events

    counted, first, ages, its_events = service.ledger.read(read)
    since = max(counted.since, its_events[0] if its_events else 0.0)
    groups = merged(counted.groups, parameters.by, parameters.top)
    counted_for = span.until - max(counted.since, first)
    hours = max(counted_for, min(span.until - span.since, _LEAST)) / 3600
    of_sinks = ages if parameters.by == ("sink",) and parameters.bucket is None else {}
    shown = [
        _row(each, parameters, (parameters.bucket or 0.0) / 3600 or hours, of_sinks.get(each.key[0])) for each in groups
    ]
    everyone = sorted(age for each in ages.values() for age in each)
    return Totals(
        of="deliveries" if of_deliveries else "runs",
        since=span.since,
        until=span.until,
        counted_since=since if since > span.since else None,
        items=[_row(counted.all, parameters, hours, everyone), *shown],
        others=counted.all.count - sum(each.count for each in groups) if parameters.by else 0,
        account=_account(service, its_events[1], its_events[2], parameters.source, span) if its_events else None,
    )


def _account(
    service: Service, counts: Sequence[EventCounts], states: Mapping[str, int], source: str, span: Span
) -> Account:
    copies, recorded = sum(each.copies for each in counts), sum(each.events for each in counts)
    fetched = sum(each.events for each in counts if each.via != "webhook")
    other: Counter[str] = Counter()
    for each in counts:
        other[each.disposition] += each.events - each.routed
    unrouted = other.pop("new", 0) + other.pop("interim", 0)
    ended = {state.value: states.get(state, 0) for state in ENDED}
    refused = None
    with suppress(OSError):
        kept = Quarantine(service.settings.data / "quarantine", 0, 0).list()
        refused = sum(source in ("", each.source) and span.since <= each.at < span.until for each in kept)
    return Account(
        webhooks=recorded - fetched + copies,
        fetched=fetched,
        same_again=copies,
        recorded=recorded,
        routed=sum(each.routed for each in counts),
        unrouted=unrouted,
        other=dict(sorted((+other).items())),
        deliveries=sum(states.values()),
        **ended,
        pending=sum(states.values()) - sum(ended.values()),
        refused=refused,
        waiting=None if source else _waiting(service),
    )


def _waiting(service: Service) -> int | None:
    """Return how many events wait in the inbox and in the spool of this host; None without Redis."""
    client = connect(service.settings.redis_url, timeout=2.0, connect_timeout=1.0, retries=0)
    try:
        return inbox.examine(client).entries + spool.usage(service.settings.data / "spool").events
    except (redis.RedisError, OSError):
        return None
    finally:
        client.close()


def bucketed_span(service: Service, filters: Filtered, bucket: float | None) -> Span:
    """Return the requested time, by default the last DAY. Raises Invalid when it ends before it begins, or has too many
    periods of `bucket` seconds."""
    until = service.ledger.now() if filters.until is None else filters.until
    span = Span(until - DAY if filters.since is None else filters.since, until)
    if span.since >= span.until:
        raise Invalid("since: must be before until")
    if bucket is not None and (span.until - span.since) / bucket > MAX_BUCKETS:
        raise Invalid(f"bucket: too short, with more than {MAX_BUCKETS} periods; take a longer one")
    return span


def merged(groups: Sequence[Group], by: Sequence[str], top: int) -> list[Group]:
    """Return the `top` largest groups, each with all its buckets in the order of time.

    Groups whose reasons differ in particulars only become one.
    """
    together: dict[tuple[tuple[str, ...], int | None], list[int]] = {}
    sizes: dict[tuple[str, ...], int] = {}
    reason = by.index("reason") if "reason" in by else None
    for group in groups:
        key = group.key
        if reason is not None:
            key = (*key[:reason], without_particulars(key[reason]), *key[reason + 1 :])
        sums = together.setdefault((key, group.bucket), [0, 0, 0])
        for place, value in enumerate((group.count, group.good, group.ended)):
            sums[place] += value
        sizes[key] = sizes.get(key, 0) + group.count
    order = sorted(sizes, key=lambda key: (-sizes[key], key))[:top]
    places = {key: place for place, key in enumerate(order)}
    shown = [Group(key, bucket, *sums) for (key, bucket), sums in together.items() if key in places]
    return sorted(shown, key=lambda each: (places[each.key], each.bucket or 0))


def _row(group: Group, parameters: TotalsParameters, hours: float, ages: Sequence[float] | None) -> TotalRow:
    return TotalRow(
        key=dict(zip(parameters.by, group.key, strict=False)),
        at=None if group.bucket is None or parameters.bucket is None else group.bucket * parameters.bucket,
        count=group.count,
        good=group.good,
        ended=group.ended,
        success_rate=round(group.good / group.ended, 4) if group.ended else None,
        per_hour=round(group.count / hours, 3),
        age_p50=percentile(ages, 0.5) if ages else None,
        age_p95=percentile(ages, 0.95) if ages else None,
    )


def percentile(values: Sequence[float], part: float) -> float:
    """Return the percentile `part` (0 to 1) of sorted values, of which there is at least one."""
    return round(values[max(0, math.ceil(part * len(values)) - 1)], 3)


class AgesParameters(ByDelivery):
    """Which deliveries, and which periods. Times are those of the deliveries."""

    bucket: Annotated[Seconds, Field(ge=1)] = Field(
        3600.0, description="Length of a period; periods begin at full hours in UTC."
    )


class AgeRow(Result):
    """One period with deliveries."""

    at: Moment = Field(description="When it begins.")
    count: int = Field(description="How many deliveries were read, the newest.")
    age_p50: float = Field(description="Seconds from the end of a run to the delivery of its result, of half of them.")
    age_p95: float = Field(description="The same, of 95 % of them.")


class Ages(Result):
    """How long results took. `items`: in the order of time."""

    since: Moment
    until: Moment
    items: list[AgeRow]


def get_ages(service: Service, actor: Actor, parameters: AgesParameters) -> Ages:
    """Return how long after the end of their runs results were delivered, for each period of a time."""
    span = bucketed_span(service, parameters, parameters.bucket)

    def read(connection: Connection) -> dict[int, list[float]]:
        ages = totals.ages_over_time(connection, parameters.filter(), span, parameters.bucket)
        check_names(service, actor, connection, parameters.filter(), empty=not ages)
        return ages

    found = service.ledger.read(read)
    items = [
        AgeRow(
            at=number * parameters.bucket,
            count=len(ages),
            age_p50=percentile(ages, 0.5),
            age_p95=percentile(ages, 0.95),
        )
        for number, ages in sorted(found.items())
    ]
    return Ages(since=span.since, until=span.until, items=items)


GET_TOTALS: Final = call("GET", "/totals", VIEW, get_totals)
GET_AGES: Final = call("GET", "/ages", VIEW, get_ages)
