"""Operations: actions on many that the clock works off. List, show, cancel."""

from __future__ import annotations

import functools
import json
from typing import Final, Literal

from pydantic import Field

from receiver.api.audit import record_action
from receiver.api.endpoint import call
from receiver.api.listing import paged
from receiver.api.models import MAX_VALUES, AskedFor, Moment, Page, PageParameters, Result, Scoped
from receiver.api.names import none_such
from receiver.api.service import Actor, Service
from receiver.domain.api_key import OPERATE, VIEW
from receiver.errors import Conflict
from receiver.ledger import Connection, actions
from receiver.ledger.actions import Operation
from receiver.ledger.database_clock import database_now


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
    read = functools.partial(actions.list_operations, state=parameters.state)
    found, following = paged(service, "operations", parameters, read, created_at=float, id=str)
    return Page(items=[OperationRow.of(each) for each in found], next=following)


def get_operation(service: Service, _actor: Actor, parameters: OperationParameters) -> OperationRow:
    """Return one operation and its progress."""
    return OperationRow.of(find_operation(service, parameters))


def find_operation(service: Service, parameters: OperationParameters) -> Operation:
    """Return the operation. Raises NotFound, also for one of another source."""
    operation = service.ledger.read(lambda it: actions.get(it, parameters.id))
    if operation is None or parameters.source not in ("", operation.source):
        raise none_such("operation", parameters.id)
    return operation


def cancel_operation(service: Service, actor: Actor, parameters: OperationParameters) -> OperationRow:
    """Stop a running operation. What it has done stays done."""
    found = find_operation(service, parameters)

    def stop(connection: Connection) -> bool:
        stopped = actions.cancel(connection, parameters.id, database_now(connection))
        if stopped:
            record_action(connection, actor, "operation.cancel", {"operation": parameters.id}, 1, source=found.source)
        return stopped

    if not service.ledger.write(stop):
        raise Conflict(f"operation {parameters.id}: it is {find_operation(service, parameters).state}, not running")
    return OperationRow.of(find_operation(service, parameters))


LIST_OPERATIONS: Final = call("GET", "/operations", VIEW, list_operations)
GET_OPERATION: Final = call("GET", "/operations/{id}", VIEW, get_operation)
CANCEL_OPERATION: Final = call("POST", "/operations/{id}/cancel", OPERATE, cancel_operation)
