"""Make the row of a delivery. Pure: knows no SQL.

`keep_on_null` columns keep their value when a newer event of the same attempt and status has none: Skyvern sends fewer
fields when a webhook is sent again, and at once a null output when a run is cancelled. All other columns follow the
newest event, nulls included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from handlers.contract import Delivery, Refused
from handlers.database import values
from handlers.database.table import STANDARD, Column, Kind
from handlers.database.values import ConversionError
from handlers.support.run_title import titles

if TYPE_CHECKING:
    from handlers.database.options import MappedColumn


_CONVERT: Mapping[Kind, Callable[[Any], Any]] = {
    "text": values.to_text,
    "integer": values.to_integer,
    "number": values.to_number,
    "boolean": values.to_boolean,
    "timestamp": values.to_timestamp,
    "json": values.to_json,
}


@dataclass(frozen=True, slots=True)
class Row:
    """A delivery's values in the order of the columns. JSON is bytes, numbers are int or Decimal, times are UTC.

    `size`: about its bytes. `unconverted`: names of mapped columns whose value did not fit and is null.
    """

    run_id: str
    values: tuple[Any, ...]
    size: int
    unconverted: tuple[str, ...] = ()


class Columns:
    """The standard columns and the operator's own."""

    def __init__(self, mapped: Mapping[str, MappedColumn]) -> None:
        self.all: tuple[Column, ...] = (
            *STANDARD,
            *(Column(name, each.type, keep_on_null=True) for name, each in mapped.items()),
        )
        self.names = tuple(column.name for column in self.all)
        self._mapped = [(name, each.keys, _CONVERT[each.type]) for name, each in mapped.items()]

    def row(self, delivery: Delivery, now: datetime) -> Row:
        """Return the row of `delivery`. Raises Refused when its body could not be parsed or names no run."""
        if delivery.problem or not delivery.run_id:
            raise Refused(f"no row can be made of the body: {delivery.problem or 'it has no run_id'}")
        run = delivery.run
        try:
            output = _json(_output(run))
            fixed = (
                values.storable(delivery.run_id),
                values.storable(delivery.source),
                values.storable(delivery.run_type) or None,
                values.storable(delivery.status),
                _text(run.get("status")),
                _attempt(run.get("attempt")),
                run.get("retry_pending") is True,
                _text(run.get("failure_reason")),
                output,
                _json(run.get("errors") or None),
                _title(run),
                _text(run.get("workflow_permanent_id")) or _text(run.get("workflow_id")),
                _or_none(values.to_integer, run.get("step_count")),
                _text(run.get("app_url")),
                _text(run.get("recording_url")),
                _time(run.get("created_at")),
                _time(run.get("modified_at")),
                _time(run.get("queued_at")),
                _time(run.get("started_at")),
                _time(run.get("finished_at")),
                _json(dict(delivery.labels) or None),
                _json(links(delivery) or None),
                values.storable(delivery.event_id),
                values.storable(delivery.via),
                delivery.test,
                delivery.received_at.astimezone(UTC),
                now,
            )
            mapped, unconverted = self._map(delivery)
        except RecursionError:
            raise Refused("no row can be made of the body: it is nested too deeply") from None
        cells = (*fixed, *mapped)
        size = 64 + sum(len(cell) for cell in cells if isinstance(cell, (str, bytes)))
        return Row(fixed[0], cells, size, unconverted)

    def _map(self, delivery: Delivery) -> tuple[list[Any], tuple[str, ...]]:
        if not self._mapped:
            return [], ()
        found = {**delivery.run, "outcome": delivery.status, "labels": delivery.labels}
        cells: list[Any] = []
        unconverted: list[str] = []
        for name, keys, convert in self._mapped:
            value = values.value_at(found, keys)
            try:
                cells.append(None if value is None else convert(value))
            except ConversionError:
                cells.append(None)
                unconverted.append(name)
        return cells, tuple(unconverted)


def links(delivery: Delivery) -> dict[str, str]:
    """Return the links in the receipts of the sinks waited for, by name; of two with one name, the last."""
    found: dict[str, str] = {}
    for receipt in delivery.receipts.values():
        found.update((receipt or {}).get("urls") or {})
    return found


def _output(run: Mapping[str, Any]) -> Any:
    """Return the run's output, which has three names: tasks also send extracted_information, workflows outputs."""
    candidates = (run.get("output"), run.get("outputs"), run.get("extracted_information"))
    return next((each for each in candidates if each not in (None, {}, [])), candidates[0])


def _text(value: Any) -> str | None:
    return values.storable(value) if isinstance(value, str) else None


def _json(value: Any) -> bytes | None:
    return None if value is None else values.to_json(value)


def _time(value: Any) -> datetime | None:
    return None if value is None else _or_none(values.to_timestamp, value)


def _or_none(convert: Callable[[Any], Any], value: Any) -> Any:
    try:
        return convert(value)
    except ConversionError:
        return None


def _title(run: Mapping[str, Any]) -> str | None:
    return next((values.storable(title) for title in titles(run) if title), None)


def _attempt(value: Any) -> int:
    """Return the attempt's number; 1 for anything that is none."""
    number = _or_none(values.to_integer, value)
    return number if number is not None and 1 <= number < 2**31 else 1
