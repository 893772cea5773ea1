"""Build the row of a delivery. Pure: no SQL, and no other events of the run (merge.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from handlers.contract import Delivery, Refused
from handlers.database import values
from handlers.database.table import MERGED_FROM, STANDARD, Column, Kind
from handlers.database.values import ConversionError
from handlers.support.run_body import attempt_number, holds_nothing, titles

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


class Row(NamedTuple):
    """The row of a delivery. `cells`: values by column; JSON is bytes, numbers are int or Decimal, times are UTC.

    `unconverted`: mapped columns that are null because their value did not fit.
    """

    cells: dict[str, Any]
    unconverted: tuple[str, ...] = ()


class Columns:
    """The standard columns and the operator's, which override standard columns of the same name."""

    def __init__(self, mapped: Mapping[str, MappedColumn]) -> None:
        taken = {name.lower() for name in mapped}
        self.standard = tuple(column for column in STANDARD if column.name not in taken)
        self.own = tuple(Column(name, each.type, "result") for name, each in mapped.items())
        self.all: tuple[Column, ...] = (*self.standard, *self.own)
        self._mapped = [(name, each.keys[0], each.keys[1:], _CONVERT[each.type]) for name, each in mapped.items()]

    def row(self, delivery: Delivery, now: datetime) -> Row:
        """Return the row of `delivery`. Raises Refused when its body could not be parsed or names no run."""
        if delivery.problem or not delivery.run_id:
            raise Refused(f"no row can be made of the body: {delivery.problem or 'it has no run_id'}")
        member = delivery.run.get
        try:
            cells = {
                column: None if (value := member(name)) is None else read(value) for column, name, read in _READ_MEMBERS
            }
            cells |= _others(delivery, now)
            return Row(cells, self._map(delivery, cells))
        except RecursionError:
            raise Refused("no row can be made of the body: it is nested too deeply") from None

    def _map(self, delivery: Delivery, cells: dict[str, Any]) -> tuple[str, ...]:
        """Add the values of the operator's columns. Returns the columns whose value did not fit."""
        unconverted: list[str] = []
        for name, member, path, convert in self._mapped:
            if member == "outcome":
                value: Any = delivery.status
            else:
                value = delivery.labels if member == "labels" else delivery.run.get(member)
            if path:
                value = values.value_at(value, path)
            try:
                cells[name] = None if value is None else convert(value)
            except ConversionError:
                cells[name] = None
                unconverted.append(name)
        return tuple(unconverted)


def _text(value: Any) -> str | None:
    return values.storable(value) if isinstance(value, str) else None


def _integer(value: Any) -> int | None:
    try:
        return values.to_integer(value)
    except ConversionError:
        return None


# Standard columns copied from a member of the run, by member; null for another type.
_MEMBERS: Final[Mapping[str, str]] = {
    "original_status": "status",
    **{
        name: name
        for name in (
            *("failure_reason", "errors", "summary", "workflow_title", "step_count", "app_url", "recording_url"),
            *("screenshot_urls", "downloaded_files"),
            *("created_at", "modified_at", "queued_at", "started_at", "finished_at"),
        )
    },
}
_READ: Final[Mapping[Kind, Callable[[Any], Any]]] = {
    "text": _text,
    "integer": _integer,
    "timestamp": values.moment,
    "json": values.to_json,
}
_KINDS: Final = {column.name: column.kind for column in STANDARD}
_READ_MEMBERS: Final = [(column, name, _READ[_KINDS[column]]) for column, name in _MEMBERS.items()]


def _others(delivery: Delivery, now: datetime) -> dict[str, Any]:
    """Return the other standard columns."""
    run, storable = delivery.run, values.storable
    asked = run.get("run_request")
    request: Mapping[str, Any] = asked if isinstance(asked, dict) else {}
    run_id, run_type = storable(delivery.run_id), storable(delivery.run_type) or None
    output, parameters = _output(run), _first(run.get("parameters"), request.get("parameters"))
    workflow_ids = (run.get(name) for name in ("workflow_permanent_id", "workflow_id", "agent_id"))
    return {
        # Skyvern's Test button can name an existing run, so tests get separate rows.
        "run_id": f"test-{run_id}" if delivery.test else run_id,
        "source": storable(delivery.source),
        "run_type": run_type,
        "status": storable(delivery.status),
        "attempt": attempt_number(run.get("attempt")),
        "retry_pending": run.get("retry_pending") is True,
        "output": None if output is None else values.to_json(output),
        "title": next((storable(title) for title in titles(run) if title), None),
        "prompt": _first_text(run.get("prompt"), request.get("prompt")),
        "url": _first_text(run.get("url"), request.get("url")),
        "parameters": None if parameters is None else values.to_json(parameters),
        "workflow_id": _first_text(*workflow_ids, request.get("workflow_id"), request.get("agent_id")),
        "workflow_run_id": _first_text(run.get("workflow_run_id"), run_id if run_type == "workflow_run" else None),
        "retried_from": _first_text(run.get("retried_from_workflow_run_id")),
        "retried_by": _first_text(run.get("retried_by_workflow_run_id")),
        "labels": values.to_json(dict(delivery.labels)) if delivery.labels else None,
        "links": _links(delivery) if delivery.receipts else None,
        "event_id": storable(delivery.event_id),
        "via": storable(delivery.via),
        "is_test": delivery.test,
        "received_at": delivery.received_at.astimezone(UTC),
        "delivered_at": now,
        MERGED_FROM.name: None,
    }


def _links(delivery: Delivery) -> bytes | None:
    """Return the links from the receipts of the sinks waited for, by name; the last one wins."""
    links: dict[str, str] = {}
    for receipt in delivery.receipts.values():
        links.update((receipt or {}).get("urls") or {})
    return values.to_json(links) if links else None


def _output(run: Mapping[str, Any]) -> Any:
    """Return the run's output, which has three names: tasks also send extracted_information, workflows outputs."""
    output = run.get("output")
    if not holds_nothing(output):
        return output
    others = (run.get("outputs"), run.get("extracted_information"))
    return next((each for each in others if not holds_nothing(each)), output)


def _first(*values_: Any) -> Any:
    return next((each for each in values_ if each is not None), None)


def _first_text(*values_: Any) -> str | None:
    """Return the first non-empty text."""
    for each in values_:
        if each and isinstance(each, str):
            return values.storable(each)
    return None
