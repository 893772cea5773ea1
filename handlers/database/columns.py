"""Make the row of a delivery. Pure: knows no SQL, and no other event of the run (merge.py)."""

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
    """A delivery's values by column. JSON is bytes, numbers are int or Decimal, times are UTC.

    `size`: about its bytes. `unconverted`: names of mapped columns whose value did not fit and is null.
    """

    run_id: str
    cells: Mapping[str, Any]
    size: int
    unconverted: tuple[str, ...] = ()


class Columns:
    """The standard columns and the operator's own, which win over later standard ones of the same name."""

    def __init__(self, mapped: Mapping[str, MappedColumn]) -> None:
        taken = {name.lower() for name in mapped}
        self.standard = tuple(column for column in STANDARD if column.name not in taken)
        self.own = tuple(Column(name, each.type, "result") for name, each in mapped.items())
        self.all: tuple[Column, ...] = (*self.standard, *self.own)
        self._mapped = [(name, each.keys, _CONVERT[each.type]) for name, each in mapped.items()]

    def row(self, delivery: Delivery, now: datetime) -> Row:
        """Return the row of `delivery`. Raises Refused when its body could not be parsed or names no run."""
        if delivery.problem or not delivery.run_id:
            raise Refused(f"no row can be made of the body: {delivery.problem or 'it has no run_id'}")
        try:
            cells = self._fixed(delivery, now)
            mapped, unconverted = self._map(delivery)
        except RecursionError:
            raise Refused("no row can be made of the body: it is nested too deeply") from None
        cells |= mapped
        size = 64 + sum([len(cell) for cell in cells.values() if type(cell) is str or type(cell) is bytes])
        return Row(cells["run_id"], cells, size, unconverted)

    def _fixed(self, delivery: Delivery, now: datetime) -> dict[str, Any]:
        run = delivery.run
        asked = run.get("run_request")
        request: Mapping[str, Any] = asked if isinstance(asked, Mapping) else {}
        run_id, run_type = values.storable(delivery.run_id), values.storable(delivery.run_type) or None
        # A press of Skyvern's Test button can name a run that is there: a test has a row of its own.
        key = f"test-{run_id}" if delivery.test else run_id
        return {
            "run_id": key,
            "source": values.storable(delivery.source),
            "run_type": run_type,
            "status": values.storable(delivery.status),
            "original_status": _text(run.get("status")),
            "attempt": _attempt(run.get("attempt")),
            "retry_pending": run.get("retry_pending") is True,
            "failure_reason": _text(run.get("failure_reason")),
            "output": _json(_output(run)),
            "errors": _json(run.get("errors")),
            "summary": _text(run.get("summary")),
            "title": _title(run),
            "prompt": _first_text(run.get("prompt"), request.get("prompt")),
            "url": _first_text(run.get("url"), request.get("url")),
            "parameters": _json(_first(run.get("parameters"), request.get("parameters"))),
            "workflow_id": _first_text(
                run.get("workflow_permanent_id"),
                run.get("workflow_id"),
                run.get("agent_id"),
                request.get("workflow_id"),
                request.get("agent_id"),
            ),
            "workflow_title": _text(run.get("workflow_title")),
            "workflow_run_id": _first_text(run.get("workflow_run_id"), run_id if run_type == "workflow_run" else None),
            "retried_from": _first_text(run.get("retried_from_workflow_run_id")),
            "retried_by": _first_text(run.get("retried_by_workflow_run_id")),
            "step_count": _or_none(values.to_integer, run.get("step_count")),
            "app_url": _text(run.get("app_url")),
            "recording_url": _text(run.get("recording_url")),
            "screenshot_urls": _json(run.get("screenshot_urls")),
            "downloaded_files": _json(run.get("downloaded_files")),
            "created_at": _time(run.get("created_at")),
            "modified_at": _time(run.get("modified_at")),
            "queued_at": _time(run.get("queued_at")),
            "started_at": _time(run.get("started_at")),
            "finished_at": _time(run.get("finished_at")),
            "labels": _json(dict(delivery.labels) or None),
            "links": _json(links(delivery) or None),
            "event_id": values.storable(delivery.event_id),
            "via": values.storable(delivery.via),
            "is_test": delivery.test,
            "received_at": delivery.received_at.astimezone(UTC),
            "delivered_at": now,
            "merged_from": None,
        }

    def _map(self, delivery: Delivery) -> tuple[dict[str, Any], tuple[str, ...]]:
        if not self._mapped:
            return {}, ()
        found = {**delivery.run, "outcome": delivery.status, "labels": delivery.labels}
        cells: dict[str, Any] = {}
        unconverted: list[str] = []
        for name, keys, convert in self._mapped:
            value = values.value_at(found, keys)
            try:
                cells[name] = None if value is None else convert(value)
            except ConversionError:
                cells[name] = None
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
    output = run.get("output")
    if not _holds_nothing(output):
        return output
    others = (run.get("outputs"), run.get("extracted_information"))
    return next((each for each in others if not _holds_nothing(each)), output)


def _holds_nothing(value: Any) -> bool:
    """Whether it is null, or nothing but null in whatever objects and lists."""
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, list):
        return value is None
    return all(map(_holds_nothing, value))


def _text(value: Any) -> str | None:
    return values.storable(value) if isinstance(value, str) else None


def _first(*values_: Any) -> Any:
    return next((each for each in values_ if each is not None), None)


def _first_text(*values_: Any) -> str | None:
    """Return the first that is text and not empty."""
    for each in values_:
        if isinstance(each, str) and each:
            return values.storable(each)
    return None


def _json(value: Any) -> bytes | None:
    return None if value is None else values.to_json(value)


def _time(value: Any) -> datetime | None:
    moment: datetime | None = _or_none(values.to_timestamp, value)
    return moment


def _or_none(convert: Callable[[Any], Any], value: Any) -> Any:
    try:
        return None if value is None else convert(value)
    except ConversionError:
        return None


def _title(run: Mapping[str, Any]) -> str | None:
    return next((values.storable(title) for title in titles(run) if title), None)


def _attempt(value: Any) -> int:
    """Return the attempt's number; 1 for anything that is none."""
    number = _or_none(values.to_integer, value)
    return number if number is not None and 1 <= number < 2**31 else 1
