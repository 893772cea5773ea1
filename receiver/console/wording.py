"""Counts, results of deliveries, and what an action was asked to take, in words. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from handlers.support.url import origin
from receiver.api.operations import OperationRow
from receiver.api.rows import AttemptRow, DeliveryRow
from receiver.config.models import Config
from receiver.domain.callback import CALLBACK, origin_in
from receiver.domain.durations import ago
from receiver.ledger.stats import COUNT_LIMIT

# Members of one value that are shown.
_MOST: Final = 3
_NAMES: Final = {
    "delivery_ids": "deliveries",
    "event_ids": "events",
    "run_ids": "runs",
    "run_id": "run",
    "run_prefix": "run begins",
    "run_type": "type",
    "event_id": "event",
}
_TIMES: Final = ("since", "until")
# Values in seconds.
_DURATIONS: Final = frozenset({"grace", "expires_in"})
# Options that say where a sink writes, the most telling first; of an address only the origin is shown.
_PLACES: Final = ("path", "bucket", "channel", "table", "topic_arn", "stream")
_ADDRESSES: Final = ("queue_url", "url", "webhook_url", "base_url")


def many(count: float) -> str:
    """Return a count of deliveries; from COUNT_LIMIT on, the ledger does not count further."""
    return f"{count:,.0f}+" if count >= COUNT_LIMIT else f"{count:,.0f}"


def place_of(config: Config, sink: str, lane: str = "") -> str:
    """Return the type of a sink and where it writes, without secrets: of an address only its origin."""
    if sink == CALLBACK:
        return f"webhook of the caller at {origin_in(lane)}" if lane not in ("", CALLBACK) else "webhooks of callers"
    if (configured := config.sinks.get(sink)) is None:
        return "no longer in the config"
    options = configured.options
    known = [str(options[name]) for name in _PLACES if options.get(name)]
    known += [str(origin(str(options[name])) or "") for name in _ADDRESSES if options.get(name)]
    return f"{configured.type} {next(filter(None, known), '')}".rstrip()


def result(row: DeliveryRow | AttemptRow) -> str:
    """Return what became of a delivery or an attempt: the reason, or what the sink wrote. A receipt that only repeats
    the delivery's id says nothing."""
    receipt, own = row.receipt or {}, row.id if isinstance(row, DeliveryRow) else row.delivery_id
    if row.reason:
        return row.reason
    written = [*(receipt.get("urls") or {}).values(), *(receipt.get("keys") or ())]
    name = str(receipt.get("id") or "")
    if name and name not in (own, row.event_id):
        return name
    ended = row.state == "delivered" if isinstance(row, DeliveryRow) else row.outcome == "accepted"
    return str(written[0]) if written else "accepted" if ended else "no result yet"


def asked_for(selection: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return each part of a selection: its name, and its value in words. Empty: all was asked for."""
    values = {
        name: ago(value) if name in _DURATIONS else value
        for name, value in selection.items()
        if value not in (None, "") and name not in ("sinks", "kind")
    }
    return [
        (_NAMES.get(name, name), _moment(value) if name in _TIMES else _value(value)) for name, value in values.items()
    ]


def _moment(value: Any) -> str:
    """Return a time to the second. It is kept as ISO 8601."""
    return f"{str(value)[:19].replace('T', ' ')} UTC"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return _value([f"{name}={each}" for name, each in value.items()])
    if isinstance(value, Sequence) and not isinstance(value, str):
        more = f" and {len(value) - _MOST:,} more" if len(value) > _MOST else ""
        return ", ".join(str(each) for each in value[:_MOST]) + more
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def seconds_left(row: OperationRow) -> float | None:
    """Return how long an operation will still take at its present speed; None if unknown."""
    took = row.updated_at - row.created_at
    if row.state != "running" or row.done <= 0 or took <= 0:
        return None
    return max(0.0, (row.total - row.done) * took / row.done)
