"""What an operation or action was asked to take, and how long it still takes, in words. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from receiver.api.operations import OperationRow

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


def asked_for(selection: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return each part of a selection: its name, and its value in words. Empty: all was asked for."""
    told = {name: value for name, value in selection.items() if name not in ("sinks", "kind")}
    return [
        (_NAMES.get(name, name), _moment(value) if name in _TIMES else _value(value)) for name, value in told.items()
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
