"""The columns of the table, and the row that a delivery makes. Pure: knows no SQL.

`keep` tells what a newer event of the same attempt and status does to a column when it has nothing for it: Skyvern
sends fewer fields when a webhook is sent again, and a null output at once when a run is cancelled, so what was there
is kept. Otherwise the newest event is followed, nulls and all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from handlers.contract import Delivery, Refused
from handlers.database import values
from handlers.database.table import STANDARD, Col, Kind
from handlers.database.values import NoFit
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
    """A delivery as values in the order of the columns. JSON is bytes, numbers are int or Decimal, times are UTC.

    `misfits`: names of mapped columns whose value did not fit and is null.
    """

    run_id: str
    values: tuple[Any, ...]
    size: int
    misfits: tuple[str, ...] = ()


class Columns:
    """The standard columns and the operator's own."""

    def __init__(self, mapped: Mapping[str, MappedColumn]) -> None:
        self.all: tuple[Col, ...] = (*STANDARD, *(Col(name, each.type, keep=True) for name, each in mapped.items()))
        self.names = tuple(col.name for col in self.all)
        self._mapped = [(name, each.keys, _CONVERT[each.type]) for name, each in mapped.items()]

    def row(self, delivery: Delivery, now: datetime) -> Row:
        """The row that `delivery` makes. Raises Refused when it says nothing of any run."""
        if delivery.problem or not delivery.run_id:
            raise Refused(f"no row can be made of the body: {delivery.problem or 'it has no run_id'}")
        run = delivery.run
        try:
            output = _json(_output(run))
            fixed = (
                values.text(delivery.run_id),
                values.text(delivery.source),
                values.text(delivery.run_type) or None,
                values.text(delivery.status),
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
                values.text(delivery.event_id),
                values.text(delivery.via),
                delivery.test,
                delivery.received_at.astimezone(UTC),
                now,
            )
            mapped, misfits = self._map(delivery)
        except RecursionError:
            raise Refused("no row can be made of the body: it is nested too deeply") from None
        cells = (*fixed, *mapped)
        size = 64 + sum(len(cell) for cell in cells if isinstance(cell, (str, bytes)))
        return Row(fixed[0], cells, size, misfits)

    def _map(self, delivery: Delivery) -> tuple[list[Any], tuple[str, ...]]:
        if not self._mapped:
            return [], ()
        found = {**delivery.run, "outcome": delivery.status, "labels": delivery.labels}
        cells: list[Any] = []
        misfits: list[str] = []
        for name, keys, convert in self._mapped:
            value = values.find(found, keys)
            try:
                cells.append(None if value is None else convert(value))
            except NoFit:
                cells.append(None)
                misfits.append(name)
        return cells, tuple(misfits)


def links(delivery: Delivery) -> dict[str, str]:
    """The lasting links that the sinks before this one made, by name; of two with the same name, the last one's."""
    found: dict[str, str] = {}
    for receipt in delivery.receipts.values():
        found.update((receipt or {}).get("urls") or {})
    return found


def _output(run: Mapping[str, Any]) -> Any:
    """It has three names: tasks send it as extracted_information too, workflows as outputs."""
    candidates = (run.get("output"), run.get("outputs"), run.get("extracted_information"))
    return next((each for each in candidates if each not in (None, {}, [])), candidates[0])


def _text(value: Any) -> str | None:
    return values.text(value) if isinstance(value, str) else None


def _json(value: Any) -> bytes | None:
    return None if value is None else values.to_json(value)


def _time(value: Any) -> datetime | None:
    return None if value is None else _or_none(values.to_timestamp, value)


def _or_none(convert: Callable[[Any], Any], value: Any) -> Any:
    try:
        return convert(value)
    except NoFit:
        return None


def _title(run: Mapping[str, Any]) -> str | None:
    return next((values.text(title) for title in titles(run) if title), None)


def _attempt(value: Any) -> int:
    """Absent is 1, and so is anything that is no attempt."""
    number = _or_none(values.to_integer, value)
    return number if number is not None and 1 <= number < 2**31 else 1
