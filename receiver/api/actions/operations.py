"""Actions on operations: cancel one that runs."""

from __future__ import annotations

from receiver.api.actions import audited
from receiver.api.endpoint import Endpoint
from receiver.api.operations import OperationParameters, OperationRow, find_operation
from receiver.api.service import Actor, Service
from receiver.domain.api_key import OPERATE
from receiver.errors import Conflict
from receiver.ledger import Connection, actions
from receiver.ledger.database_clock import database_now


def cancel_operation(service: Service, actor: Actor, wanted: OperationParameters) -> OperationRow:
    """Stop an operation that runs. What it has done stays done."""
    found = find_operation(service, wanted)

    def stop(connection: Connection) -> bool:
        stopped = actions.cancel(connection, wanted.id, database_now(connection))
        if stopped:
            told = {"operation": wanted.id}
            audited.note(connection, actor, "operation.cancel", told, 1, source=found.source)
        return stopped

    if not service.ledger.write(stop):
        raise Conflict(f"operation {wanted.id}: it is {find_operation(service, wanted).state}, and does not run")
    return OperationRow.of(find_operation(service, wanted))


CANCEL_OPERATION = Endpoint(
    "cancel_operation", "POST", "/operations/{id}/cancel", OPERATE, OperationParameters, OperationRow, cancel_operation
)
ENDPOINTS = (CANCEL_OPERATION,)
