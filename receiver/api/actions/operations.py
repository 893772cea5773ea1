"""Actions on operations: cancel one that runs."""

from __future__ import annotations

from receiver.api.actions import audited
from receiver.api.endpoint import Endpoint
from receiver.api.operations import OperationParameters, OperationRow, find_operation
from receiver.api.service import Actor, Service
from receiver.domain.api_key import OPERATE
from receiver.errors import Conflict
from receiver.ledger import Connection, replays
from receiver.ledger.database_clock import database_now


def stop(connection: Connection, actor: Actor, operation_id: str, source: str = "") -> bool:
    """Cancel an operation that runs, with its line in the audit. False when it does not run."""
    stopped = replays.cancel(connection, operation_id, database_now(connection))
    if stopped:
        audited.note(connection, actor, "operation.cancel", {"operation": operation_id}, 1, source=source)
    return stopped


def cancel_operation(service: Service, actor: Actor, wanted: OperationParameters) -> OperationRow:
    """Stop an operation that runs. What it has done stays done."""
    found = find_operation(service, wanted)
    if not service.ledger.write(lambda it: stop(it, actor, wanted.id, found.source)):
        raise Conflict(f"operation {wanted.id}: it is {find_operation(service, wanted).state}, and does not run")
    return OperationRow.of(find_operation(service, wanted))


ENDPOINTS = (
    Endpoint(
        "cancel_operation",
        "POST",
        "/operations/{id}/cancel",
        OPERATE,
        OperationParameters,
        OperationRow,
        cancel_operation,
    ),
)
