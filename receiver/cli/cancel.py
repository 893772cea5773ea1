"""`runhook cancel`: end deliveries that wait, and operations that run; bring cancelled deliveries back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from receiver.api.actions.deliveries import CANCEL_DELIVERIES, RESTORE_DELIVERIES, DeliverySelection
from receiver.api.actions.operations import CANCEL_OPERATION
from receiver.cli.client import Client, with_client
from receiver.cli.commands import COMMANDS
from receiver.cli.on_many import How, act, on_many, require_choice
from receiver.cli.output import clean, out
from receiver.errors import UsageError
from receiver.ledger.deliveries.cancellation import TOGETHER


def _cancel(
    client: Client,
    ids: Sequence[str],
    asked: dict[str, Any],
    how: How,
    undo: Annotated[
        bool, typer.Option("--undo", help="Bring back deliveries by id, or what a cancel with these options ended.")
    ] = False,
) -> None:
    require_choice(ids, asked, "cancel")
    operations = [each for each in ids if each.startswith("op_")]
    if operations:
        if undo:
            raise UsageError(
                f"{clean(operations[0], 60)}: an operation can't be brought back; give the replay once more"
            )
        if asked or how.dry_run or how.expect is not None or len(operations) < len(ids):
            raise UsageError("operations are cancelled by their ids, and with nothing else")
        _stop(client, operations)
        return
    if undo and not ids and "reason" not in asked:
        asked["reason"] = TOGETHER
    if act(client, RESTORE_DELIVERIES if undo else CANCEL_DELIVERIES, ids, asked, how) and not undo:
        out().print("the same command with --undo brings them back")


def _stop(client: Client, operations: Sequence[str]) -> None:
    client.tell = True
    for each in operations:
        client.call(CANCEL_OPERATION, CANCEL_OPERATION.validated({"id": each}))
        out().print(f"{each}: cancelled")


_cancel.__doc__ = f"""{COMMANDS["cancel"].help}

What is brought back is due at once, with all of its attempts. `runhook replay` takes no cancelled ones.
"""
cancel = with_client(
    on_many(DeliverySelection, "DELIVERY|EVENT|RUN|OPERATION", "Ids: dlv_…, evt_…, a run's, or op_….")(_cancel)
)
