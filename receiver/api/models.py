"""Base models of the API's parameters and results. Times are seconds since the epoch in Python, ISO 8601 in JSON."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta, tzinfo
from datetime import time as clock
from typing import Annotated, Any, Final, Generic, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationInfo,
    WithJsonSchema,
)

from handlers.support import timestamps
from handlers.support.duration import parse_duration
from receiver.domain.delivery import DeliveryState
from receiver.errors import Invalid
from receiver.ledger.lists.filters import LIMIT, Filter

T = TypeVar("T")

# Maximum values of one filter.
MAX_VALUES: Final = 50
# Maximum rows of a page.
MAX_LIMIT: Final = 500
# The first and the last second that ISO 8601 has a year of four digits for.
_FIRST: Final = -62_135_596_800.0
_LAST: Final = 253_402_300_799.0
# Seconds by which a time with an offset may lie beyond them in UTC.
_OFFSET: Final = 86_400.0
# More digits than a time ago has.
_MANY_DIGITS: Final = re.compile(r"[0-9]{11}")
_CLOCK: Final = re.compile(r"([01]?[0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9])?")


def clock_time(text: str, zone: tzinfo | None) -> datetime | None:
    """Return when clocks in `zone` (None: this host's) last showed `text`, such as 22:43; None for any other text."""
    if not _CLOCK.fullmatch(text):
        return None
    now = datetime.now(zone)
    today = datetime.combine(now, clock.fromisoformat(text if text[1] != ":" else f"0{text}"), zone)
    return (today if today <= now else today - timedelta(days=1)).astimezone(zone)


def parse_moment(value: object, *, zone: tzinfo | None = UTC) -> float:
    """Return a time in seconds since the epoch: of "15m" the time 15 minutes ago, of "22:43" as `clock_time`, else of
    an ISO 8601 time, by default in UTC. Raises ValueError."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    text = str(value).strip()
    if (shown := clock_time(text, zone)) is not None:
        return shown.timestamp()
    if not _MANY_DIGITS.match(text):
        with suppress(ValueError):
            return time.time() - float(str(parse_duration(text)))
    if (found := timestamps.epoch(text)) is None:
        raise ValueError("must be a time ago such as 15m, 2h or 7d, or a time: 22:43, 2026-11-24, 2026-11-24T09:30Z")
    return found


def _parse_parameter(value: object, info: ValidationInfo) -> float:
    """As `parse_moment`, but a time in JSON must be a string."""
    if info.mode == "json" and not isinstance(value, str):
        raise ValueError("must be a string, such as 2h or 2026-11-24T09:30Z")
    return parse_moment(value)


def _shown(seconds: float) -> str:
    """Return a time as ISO 8601, within years 1 to 9999: a body, or a time ago, may name an earlier one."""
    return timestamps.iso(min(max(seconds, _FIRST), _LAST))


def _in_calendar(seconds: float) -> float:
    if not _FIRST - _OFFSET <= seconds <= _LAST + _OFFSET:
        raise ValueError("must be a time in the years 1 to 9999")
    return min(max(seconds, _FIRST), _LAST)


# A time of a result.
Moment = Annotated[
    float,
    BeforeValidator(parse_moment),
    PlainSerializer(_shown, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]


def _with_times(selection: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _shown(value) if name in ("since", "until") and isinstance(value, int | float) else value
        for name, value in selection.items()
    }


# The selection of an action, as the ledger keeps it, with its times as text.
AskedFor = Annotated[dict[str, Any], AfterValidator(_with_times)]
# A time of a filter.
MomentParameter = Annotated[
    float,
    BeforeValidator(_parse_parameter),
    AfterValidator(_in_calendar),
    PlainSerializer(timestamps.iso, return_type=str, when_used="json"),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": r"^\s*([0-9]{1,5}(\.[0-9]+)?\s*(ms|s|m|h|d)|[0-9]{1,10}(\.[0-9]+)?)\s*$"},
                {"type": "string", "pattern": rf"^\s*{_CLOCK.pattern}\s*$"},
                {"type": "string", "format": "date"},
                {"type": "string", "format": "date-time"},
            ],
            "examples": ["2h", "2026-11-24T09:30:00Z"],
        }
    ),
]


class Parameters(BaseModel):
    """Base of the parameters of a call. An unknown name is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class Scoped(Parameters):
    """Base of the parameters of a call about things of sources. An actor of one source is limited to it."""

    source: str = Field("", description="Filter by source.")


class Result(BaseModel):
    """Base of the result of a call. A client must ignore unknown members."""

    model_config = ConfigDict(frozen=True, defer_build=True)


class PageParameters(Scoped):
    """Base of the parameters of a list."""

    limit: int = Field(LIMIT, ge=1, le=MAX_LIMIT, description="Maximum rows per page.")
    after: str = Field("", max_length=1000, description="Cursor: `next` from the previous page.")


class Page(Result, Generic[T]):
    """One page of a list. A call reads a bounded number of rows, so a page before the last may be short or empty."""

    items: Sequence[T]
    next: str | None = Field(None, description="Cursor: give it as `after` for the next page; null at the end.")


def _label(value: str) -> str:
    name, found, _ = value.partition("=")
    if not found or not name:
        raise ValueError("write NAME=VALUE")
    return value


Label = Annotated[str, AfterValidator(_label), Field(json_schema_extra={"pattern": "^[^=]+="})]


class Filtered(Scoped):
    """The filter of lists and actions. Each adds the members that its rows have."""

    run: str = Field("", max_length=200, description="Filter by run id.")
    run_prefix: str = Field("", max_length=200, description="Filter by the beginning of the run id.")
    status: tuple[str, ...] = Field(
        (), max_length=MAX_VALUES, description="Filter by final status: completed, failed, terminated, …"
    )
    run_type: str = Field("", max_length=50, description="Filter by run type: task, task_v2, workflow_run, …")
    workflow: str = Field("", max_length=200, description="Filter by workflow or agent (its permanent id).")
    title: str = Field("", max_length=200, description="Filter by text in the title.")
    label: tuple[Label, ...] = Field(
        (), max_length=MAX_VALUES, description="Filter by label, NAME=VALUE. All labels must match."
    )
    reason: str = Field("", max_length=200, description="Filter by text in the failure reason.")
    text: str = Field("", max_length=500, description="Search for words in the title, reason or output.")
    since: MomentParameter | None = Field(None, description="Start of the time range: 2h ago, 22:43, or a time.")
    until: MomentParameter | None = Field(None, description="End of the time range.")

    def filter(self) -> Filter:
        """Return the ledger's filter of these parameters. Raises Invalid for two values of one label."""
        named = Filter.__dataclass_fields__
        given = {name: value for name, value in self if name in named}
        labels: dict[str, str] = {}
        for name, value in (pair.split("=", 1) for pair in self.label):
            if labels.setdefault(name, value) != value:
                raise Invalid(f"label: {name}: no run has the values {labels[name]} and {value}; give one of them")
        return Filter(**{**given, "run_id": self.run, "labels": labels})


class ByDelivery(Filtered):
    """The filter of rows that are deliveries, or have them."""

    event_id: str = Field("", max_length=50, description="Filter by event id, or its beginning.")
    route: str = Field("", max_length=200, description="Filter by route of a delivery.")
    sink: str = Field("", max_length=200, description="Filter by sink of a delivery.")
    state: tuple[DeliveryState, ...] = Field((), max_length=MAX_VALUES, description="Filter by state of a delivery.")


class FilterParameters(PageParameters, Filtered):
    """Base of the parameters of a list with a filter."""


def function_summary(function: Callable[..., Any]) -> str:
    """Return the first sentence of a function's docstring."""
    return (function.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ").split(". ")[0].rstrip(".") + "."
