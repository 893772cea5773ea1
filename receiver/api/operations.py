"""Operations: a verb on many deliveries. Preview, begin, list, show and cancel them.

An action takes ids, or all matches of the filter, guarded by an earlier count. With `dry_run` the response has the
count, a few examples, and `until`. The same call with that `until`, and the count as `expect`, takes exactly these, or
fails with the new count. The first step runs before the response, the clock runs the others.
"""

from __future__ import annotations

import functools
import json
import secrets
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field

from receiver.api.audit import record_action
from receiver.api.endpoint import call
from receiver.api.listing import paged
from receiver.api.models import (
    MAX_VALUES,
    AskedFor,
    Filtered,
    Moment,
    Page,
    PageParameters,
    Result,
    Scoped,
)
from receiver.api.names import check_id, check_names, none_such, whole_id
from receiver.api.service import Actor, Service
from receiver.domain.api_key import OPERATE, VIEW
from receiver.errors import Conflict, Invalid, NotFound
from receiver.ledger import Connection, operations
from receiver.ledger.database.database_clock import database_now
from receiver.ledger.lists.filters import FULL_ID, VISIBLE, id_trouble
from receiver.ledger.selection import Selection
from receiver.ledger.verbs import Operation

# Maximum ids of a call, and examples of a preview.
MOST_IDS: Final = 1000
EXAMPLES: Final = 5


def _checked(identifier: str) -> str:
    if trouble := id_trouble(identifier):
        raise ValueError(trouble)
    return identifier


Id = Annotated[str, AfterValidator(_checked), Field(max_length=200, json_schema_extra={"pattern": VISIBLE.pattern})]


class Guarded(Scoped):
    """Base of the parameters of an action on many, which a dry run counts first."""

    ids: tuple[Id, ...] = Field(
        (),
        max_length=MOST_IDS,
        description="Only these: ids of events (evt_…); of deliveries also their own (dlv_…), and ids of runs.",
    )
    dry_run: bool = Field(False, description="Change nothing: return the count, and what would change.")
    expect: int | None = Field(
        None,
        ge=0,
        le=2**63 - 1,
        description="Number that dry_run counted; 409 if another number matches. Required without ids.",
    )

    def require_count(self) -> None:
        """Raise Invalid for a change without ids and `expect`: it might be larger than intended."""
        if not (self.dry_run or self.ids) and self.expect is None:
            raise Invalid("expect: give the exact number, which the same call with dry_run counts; or give ids")


class Chosen(Guarded, Filtered):
    """Base of the parameters of an action on many: ids, or all matches of the filter."""


class OperationRow(Result):
    """An operation. The clock works on it step by step, across restarts."""

    id: str
    kind: str = Field(description="replay, cancel, move or move_back.")
    state: str = Field(description="running, done or cancelled.")
    source: str = Field(description="The source it is limited to; empty: all sources.")
    sink: str = Field(description="The target of a move.")
    selection: AskedFor = Field(description="What it selects.")
    force: bool
    rate: float = Field(description="Maximum per second; 0: no limit.")
    total: int
    done: int
    actor: str = Field(description="Who began it; empty: unknown.")
    created_at: Moment
    updated_at: Moment

    @classmethod
    def of(cls, operation: Operation) -> OperationRow:
        """Return the row of an operation."""
        kept = json.loads(operation.selection.to_json())
        names = cls.model_fields.keys() - {"selection"}
        return cls(selection=kept, **{name: getattr(operation, name) for name in names})


class TakenResult(Result):
    """The selection of an action, or with dry_run a preview of it."""

    dry_run: bool
    count: int
    examples: list[dict[str, Any]] = Field(description="Of a dry run: the first few.")
    until: Moment | None = Field(description="Give it with `expect`: later rows are then not selected.")
    operation: OperationRow | None = Field(
        description="The operation that does it; null for a dry run or if it is done."
    )
    left: dict[str, int] = Field(
        default_factory=dict, description="Of a dry run without matches: by state, the deliveries that match otherwise."
    )
    sinks: dict[str, int] = Field(default_factory=dict, description="Of a dry run: the count by sink.")
    orphaned: int = Field(0, description="Of a dry run: more that match, whose sinks are not in the config.")


def selection_of(chosen: Chosen, **more: Any) -> Selection:
    """Return the ledger's selection. `more`: members of it that the call adds."""
    return Selection(**{**asdict(chosen.filter()), **of_ids(chosen.ids), **more})


def of_ids(ids: Sequence[str]) -> dict[str, Any]:
    """Return the members of a selection with these ids."""
    return {
        "delivery_ids": tuple(each for each in ids if each.startswith("dlv_")),
        "event_ids": tuple(each for each in ids if each.startswith("evt_")),
        "run_ids": tuple(each for each in ids if not each.startswith(("dlv_", "evt_"))),
    }


def take(service: Service, actor: Actor, chosen: Chosen, operation: Operation, hint: str = "") -> TakenResult:
    """Preview or begin an operation.

    Raises Invalid for a filter without `expect`, for ids that are unknown in the actor's source or ambiguous, and for
    unknown names in the filter of an actor of all sources; NotAsExpected; and NotFound, with `hint`, for an id without
    a delivery that the operation takes.
    """
    operation = replace(operation, selection=with_whole_ids(service, operation.selection))

    def count(connection: Connection) -> TakenResult:
        result = preview(connection, operation)
        empty = not (result.count or result.left or result.orphaned)
        check_names(service, actor, connection, operation.selection, empty=empty)
        for identifier in () if result.count else chosen.ids:
            check_id(connection, "ids", identifier, actor.source)
        return result

    def require_each(connection: Connection) -> None:
        for identifier in chosen.ids:
            selection = replace(operation.selection, **of_ids([identifier]))
            if not replace(operation, selection=selection).count(connection):
                check_id(connection, "ids", identifier, actor.source)
                raise NotFound(f"{identifier}: there is nothing to {operation.kind} of it{hint}")

    if chosen.dry_run:
        return service.ledger.read(count)
    chosen.require_count()
    if chosen.expect is None:
        service.ledger.read(require_each)
    return begin(service, actor, operation, chosen.expect)


def with_whole_ids(service: Service, selection: Selection) -> Selection:
    """Return the selection with full ids in place of shortened ones, which might match new rows while the action runs.
    Raises Invalid for an ambiguous one."""
    named = {
        "event_id": tuple(filter(None, [selection.event_id])),
        "ids": (*selection.delivery_ids, *selection.event_ids),
    }
    if all(len(each) >= FULL_ID for ids in named.values() for each in ids):
        return selection

    def find(connection: Connection) -> dict[str, str]:
        return {each: whole_id(connection, name, each, selection.source) for name, ids in named.items() for each in ids}

    whole = service.ledger.read(find)
    return replace(
        selection,
        delivery_ids=tuple(whole[each] for each in selection.delivery_ids),
        event_ids=tuple(whole[each] for each in selection.event_ids),
        event_id=whole.get(selection.event_id, ""),
    )


def preview(connection: Connection, operation: Operation) -> TakenResult:
    """Count what an operation would select now."""
    now, selection = database_now(connection), operation.selection
    until = now if selection.until is None else min(now, selection.until)
    if not selection.has_ids:
        selection = replace(selection, until=until)
        operation = replace(operation, selection=selection)
    sinks = operation.by_sink(connection)
    count = sum(sinks.values())
    of_all_sinks = replace(operation, selection=replace(selection, sinks=()))
    return TakenResult(
        dry_run=True,
        count=count,
        sinks=dict(sorted(sinks.items())),
        examples=operation.examples(connection, EXAMPLES),
        until=until,
        operation=None,
        left={} if count else selection.by_state(connection),
        orphaned=of_all_sinks.count(connection) - count if selection.sinks else 0,
    )


def begin(
    service: Service, actor: Actor, operation: Operation, expect: int | None = None, name: str = ""
) -> TakenResult:
    """Begin an operation, with its line in the audit. Without a rate, its first step runs at once.

    `name`: in the audit, by default its kind. Raises NotAsExpected.
    """

    def write(connection: Connection) -> Operation:
        now = database_now(connection)
        begun = operations.create(
            connection, f"op_{secrets.token_hex(8)}", operation, now, expect=expect, actor=actor.name
        )
        selection = {name: value for name, value in json.loads(begun.selection.to_json()).items() if name != "sinks"}
        selection |= {name: value for name, value in (("into", begun.sink), ("force", begun.force)) if value}
        record_action(
            connection, actor, name or begun.kind, selection, begun.total, source=begun.source, detail=begun.id
        )
        return begun if begun.rate else operations.take_step(connection, begun, now)

    begun = service.ledger.write(write)
    until = begun.selection.until
    return TakenResult(dry_run=False, count=begun.total, examples=[], until=until, operation=OperationRow.of(begun))


class OperationsParameters(PageParameters):
    """Which operations."""

    state: tuple[Literal["running", "done", "cancelled"], ...] = Field(
        (), max_length=MAX_VALUES, description="Filter by state."
    )


class OperationParameters(Scoped):
    """Which operation."""

    id: str = Field(max_length=100, description="Its id, op_….")


def list_operations(service: Service, _actor: Actor, parameters: OperationsParameters) -> Page[OperationRow]:
    """List operations, newest first."""
    read = functools.partial(operations.list_operations, state=parameters.state)
    found, following = paged(service, "operations", parameters, read, created_at=float, id=str)
    return Page(items=[OperationRow.of(each) for each in found], next=following)


def get_operation(service: Service, _actor: Actor, parameters: OperationParameters) -> OperationRow:
    """Return one operation and its progress."""
    return OperationRow.of(find_operation(service, parameters))


def find_operation(service: Service, parameters: OperationParameters) -> Operation:
    """Return the operation. Raises NotFound, also for one of another source."""
    operation = service.ledger.read(lambda it: operations.get(it, parameters.id))
    if operation is None or parameters.source not in ("", operation.source):
        raise none_such("operation", parameters.id)
    return operation


def cancel_operation(service: Service, actor: Actor, parameters: OperationParameters) -> OperationRow:
    """Stop a running operation. What it has done stays done."""
    found = find_operation(service, parameters)

    def stop(connection: Connection) -> bool:
        stopped = operations.cancel(connection, parameters.id, database_now(connection))
        if stopped:
            record_action(connection, actor, "operation.cancel", {"operation": parameters.id}, 1, source=found.source)
        return stopped

    if not service.ledger.write(stop):
        raise Conflict(f"operation {parameters.id}: it is {find_operation(service, parameters).state}, not running")
    return OperationRow.of(find_operation(service, parameters))


LIST_OPERATIONS: Final = call("GET", "/operations", VIEW, list_operations)
GET_OPERATION: Final = call("GET", "/operations/{id}", VIEW, get_operation)
CANCEL_OPERATION: Final = call("POST", "/operations/{id}/cancel", OPERATE, cancel_operation)
