"""Merge the events of a run into one row, in any order of arrival. Pure: no SQL.

Events of a run are ordered by (attempt, final or not, modified_at, received_at, event id). Final comes before the time,
since within one attempt nothing follows a final event, and an interim one with a fast clock must not hide it. An event
without modified_at counts as modified when it was received.

A row has the newest event's status, attempt, times of arrival and so on. Other columns keep a value until a better one
comes in the same scope (`Column.scope`): the attempt and status ("result"), the attempt, or the run. The newer value is
better, except where `Column.prefers` first compares size: a shorter list of files never replaces a longer one.

`join` is commutative, associative and idempotent; so the row is the same in any order, with or without batches.
Therefore `merged_from` records which columns come from an older event, and the values of the attempt's other statuses,
which return if their status does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, TypeAlias

import orjson

from handlers.database.table import MERGED_FROM, Column
from handlers.database.values import to_json
from handlers.support.run_body import FINAL

# Empty values, which never replace others: objects and lists that contain only nulls.
_EMPTY: Final = re.compile(rb'(?:[\[\]{},\s]++|null|"(?:[^"\\]++|\\.)*+"\s*+:)*+')

# (attempt, final, modified at, received at, event id)
Order: TypeAlias = tuple[int, bool, datetime, datetime, str]

_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Value:
    """A column's value: its event, and its size (`weight`)."""

    cell: Any
    weight: int
    order: Order

    @property
    def rank(self) -> tuple[int, Order]:
        """Sort key that decides between two values."""
        return self.weight, self.order


Values: TypeAlias = Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class RunState:
    """The state of one run.

    `newest`: the newest event. `event`: that event's columns. `run`, `attempt`: values by column. `results`: values of
    this attempt, by status.
    """

    newest: Order
    status: str
    event: Mapping[str, Any]
    run: Values
    attempt: Values
    results: Mapping[str, Values]

    @property
    def visible(self) -> Values:
        """The values that the row shows."""
        return {**self.run, **self.attempt, **self.results.get(self.status, {})}


def order_of(cells: Mapping[str, Any]) -> Order:
    """Return the sort key of the event of `cells` within its run. A table created by the operator may have nulls."""
    received = cells["received_at"] or _NEVER
    return (
        cells["attempt"] or 0,
        cells["status"] in FINAL and not cells["retry_pending"],
        cells["modified_at"] or received,
        received,
        cells["event_id"] or "",
    )


def weight_of(column: Column, cell: Any) -> int:
    """Return the size of a cell, as `Column.prefers` counts it."""
    if column.prefers == "newest" or not isinstance(cell, bytes):
        return 0
    if column.prefers == "filled":
        return int(_EMPTY.fullmatch(cell) is None)
    try:
        value = json.loads(cell)
    except ValueError:  # text of another program
        return 1
    return len(value) if isinstance(value, (list, dict)) else 1


def state_of_event(columns: Sequence[Column], cells: Mapping[str, Any]) -> RunState:
    """Return the state of a run with one event."""
    order = order_of(cells)
    kept: dict[str, dict[str, Value]] = {"run": {}, "attempt": {}, "result": {}}
    event: dict[str, Any] = {}
    for column in columns:
        cell = cells[column.name]
        if column.scope == "event":
            if column is not MERGED_FROM:
                event[column.name] = cell
        elif cell is not None:
            kept[column.scope][column.name] = Value(cell, weight_of(column, cell), order)
    return RunState(order, cells["status"], event, kept["run"], kept["attempt"], {cells["status"]: kept["result"]})


def state_of_row(columns: Sequence[Column], cells: Mapping[str, Any]) -> RunState:
    """Return the state stored in a row."""
    state = state_of_event(columns, {**cells, "status": cells["status"] or ""})
    memory = _memory(cells)
    origins = {name: _order(origin) for name, origin in memory.get("columns", {}).items()}
    kinds = {column.name: column.kind for column in columns}
    results = {
        status: {
            name: Value(_decoded(kinds[name], text), weight, _order(order))
            for name, (order, weight, text) in values.items()
            if name in kinds
        }
        for status, values in memory.get("results", {}).items()
    }

    def restored(values: Values) -> Values:
        changed = {name: replace(values[name], order=order) for name, order in origins.items() if name in values}
        return {**values, **changed}

    visible = {status: restored(values) for status, values in state.results.items()}
    return replace(state, run=restored(state.run), attempt=restored(state.attempt), results={**results, **visible})


def join(old: RunState, new: RunState) -> RunState:
    """Return the union of two states. For the same event, `new` wins."""
    newest, older = (new, old) if new.newest >= old.newest else (old, new)
    run = _better(old.run, new.run)
    if newest.newest[0] != older.newest[0]:
        return replace(newest, run=run)
    results: dict[str, Values] = {
        status: _better(old.results.get(status, {}), new.results.get(status, {}))
        for status in (*old.results, *new.results)
        if status == newest.status or status in FINAL or not newest.newest[1]
    }
    return replace(newest, run=run, attempt=_better(old.attempt, new.attempt), results=results)


def cells_of(columns: Sequence[Column], state: RunState) -> dict[str, Any]:
    """Return the row of a state."""
    cells: dict[str, Any] = {column.name: None for column in columns} | dict(state.event)
    cells.update((name, value.cell) for name, value in state.visible.items())
    if MERGED_FROM in columns:
        cells[MERGED_FROM.name] = memory_of(columns, state)
    return cells


def memory_of(columns: Sequence[Column], state: RunState) -> bytes | None:
    """Return the value of `merged_from`, or None when it would be empty."""
    kinds = {column.name: column.kind for column in columns}
    origins = {name: value.order for name, value in state.visible.items() if value.order != state.newest}
    others = {
        status: {name: (value.order, value.weight, _encoded(kinds[name], value.cell)) for name, value in values.items()}
        for status, values in state.results.items()
        if status != state.status and values
    }
    if not origins and not others:
        return None
    memory: dict[str, Any] = {"event_id": state.newest[-1], "columns": origins}
    return orjson.dumps(memory | ({"results": others} if others else {}), option=orjson.OPT_SORT_KEYS)


def _better(old: Values, new: Values) -> Values:
    if not old or not new:
        return old or new
    merged = dict(old)
    for name, value in new.items():
        if name not in merged or value.rank >= merged[name].rank:
            merged[name] = value
    return merged


def _memory(cells: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the row's `merged_from`; empty when another program has since written a newer event without it."""
    text = cells.get(MERGED_FROM.name)
    if not text:
        return {}
    memory = json.loads(text)
    return memory if isinstance(memory, dict) and memory.get("event_id") == cells["event_id"] else {}


def _order(parts: Sequence[Any]) -> Order:
    attempt, final, modified, received, event_id = parts
    return attempt, final, datetime.fromisoformat(modified), datetime.fromisoformat(received), event_id


def _encoded(kind: str, cell: Any) -> Any:
    if kind == "json":
        return orjson.Fragment(cell)
    if kind == "timestamp":
        return cell.isoformat()
    return str(cell) if kind == "number" else cell


_DECODE: Final[Mapping[str, Callable[[Any], Any]]] = {
    "json": to_json,
    "timestamp": datetime.fromisoformat,
    "number": Decimal,
}


def _decoded(kind: str, value: Any) -> Any:
    decode = _DECODE.get(kind)
    return decode(value) if decode else value
