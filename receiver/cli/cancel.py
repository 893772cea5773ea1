"""`runhook cancel`: end deliveries that wait, and operations that run; bring cancelled deliveries back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any

import typer

from receiver.api.actions.audited import note
from receiver.api.actions.deliveries import ENDPOINTS as ACTIONS
from receiver.api.actions.operations import ENDPOINTS as OPERATION_ACTIONS
from receiver.api.actions.operations import stop
from receiver.api.service import Actor
from receiver.cli.acting import audited_here
from receiver.cli.client import Client, LocalClient, endpoint_called, with_client
from receiver.cli.filters import check_form
from receiver.cli.ledger_access import read_ledger, write_ledger
from receiver.cli.options import Yes, confirm
from receiver.cli.output import clean, out
from receiver.cli.remote_actions import act
from receiver.config.settings import Settings
from receiver.domain.delivery import DeliveryMove, states_before
from receiver.errors import RunhookError, UsageError
from receiver.ledger import Connection, names, replays, stats
from receiver.ledger.database_clock import database_now
from receiver.ledger.deliveries import cancellation
from receiver.ledger.selection import CANCEL, RESTORE


@with_client
def cancel(
    client: Client,
    ids: Annotated[list[str] | None, typer.Argument(metavar="DELIVERY|OPERATION", help="Ids: dlv_… or op_….")] = None,
    sink: Annotated[
        str, typer.Option("--sink", metavar="NAME", help="All that waits for this sink, also one not in the config.")
    ] = "",
    undo: Annotated[
        bool, typer.Option("--undo", help="Bring back deliveries by id, or what was cancelled with --sink.")
    ] = False,
    yes: Yes = False,
) -> None:
    """Cancel deliveries that wait, or operations that are running; `--undo` brings cancelled deliveries back.

    What is brought back is due at once, with all of its attempts. `runhook replay` takes no cancelled ones.
    """
    if bool(ids) == bool(sink):
        raise UsageError("say what to cancel: either ids, or --sink NAME for all that waits for it")
    if sink and isinstance(client, LocalClient):
        _all_of(sink, undo, client.data, yes=yes)
        return
    for identifier in ids or ():
        check_form(identifier)
        if not identifier.startswith(("op_", "dlv_")):
            raise UsageError(
                f"{clean(identifier, 60)}: only a delivery (dlv_…) or an operation (op_…) can be cancelled; "
                "`runhook deliveries --json` shows the ids of a run's deliveries"
            )
        if undo and identifier.startswith("op_"):
            raise UsageError(f"{clean(identifier, 60)}: an operation can't be brought back; give the replay once more")
    if not isinstance(client, LocalClient):
        _remotely(client, ids or (), sink, undo, yes=yes)
        return
    data = client.data
    if not undo:
        confirm(len(ids or ()), f"Cancel {len(ids or ())} of them?", yes=yes)
    failed = []
    for number, identifier in enumerate(ids or ()):
        if write_ledger(data, partial(_change, identifier=identifier, undo=undo), tell=not number):
            out().print(f"{identifier}: {'brought back' if undo else 'cancelled'}")
        else:
            failed.append(f"{identifier} ({read_ledger(data, partial(_why_not, identifier=identifier), tell=False)})")
    if failed:
        raise RunhookError(f"not {'brought back' if undo else 'cancelled'}: {', '.join(failed)}")


def _remotely(client: Client, ids: Sequence[str], sink: str, undo: bool, *, yes: bool) -> None:
    """Cancel or bring back what a remote service has."""
    stop_one = endpoint_called("cancel_operation", OPERATION_ACTIONS)
    for identifier in (each for each in ids if each.startswith("op_")):
        client.call(stop_one, stop_one.validated({"id": identifier}))
        out().print(f"{identifier}: cancelled")
    chosen: dict[str, Any] = {"ids": [each for each in ids if not each.startswith("op_")], "sink": sink}
    if sink and undo:
        chosen["reason"] = f"{cancellation.ONE}, with"  # each reason of those that were cancelled together
    if chosen["ids"] or sink:
        kind = RESTORE if undo else CANCEL
        act(client, endpoint_called(kind, ACTIONS), chosen, kind, yes=yes)


def _change(connection: Connection, identifier: str, *, undo: bool) -> bool:
    if identifier.startswith("op_"):
        return stop(connection, Actor.local(), identifier)
    change = cancellation.restore if undo else cancellation.cancel
    changed = change(connection, [identifier], database_now(connection))
    if changed:
        note(connection, Actor.local(), RESTORE if undo else CANCEL, {"delivery_ids": changed}, len(changed))
    return bool(changed)


def _why_not(connection: Connection, identifier: str) -> str:
    """Return why what has this id could not be cancelled, or brought back."""
    if identifier.startswith("op_"):
        operation = replays.get(connection, identifier)
        return "there is no such operation" if operation is None else f"it is {operation.state}"
    found = replays.states_of(connection, identifier)
    return f"it is {found[0]}" if found else "there is no such delivery"


def _all_of(sink: str, undo: bool, data: Any, *, yes: bool) -> None:
    """Cancel all that waits for a sink now, or bring back what was cancelled so."""
    began = read_ledger(data, database_now, tell=True)
    waiting = [state.value for state in states_before(DeliveryMove.CANCEL)]

    def count(connection: Connection) -> int:
        counted = stats.count_all(connection)
        if not any(name == sink for name, _ in counted):
            known = ", ".join(clean(each, 60) for each in names.sinks(connection)) or "none"
            raise UsageError(f"--sink {clean(sink, 60)}: no delivery goes to it; there are {known}")
        return sum(number for (name, state), number in counted.items() if name == sink and state in waiting)

    found = read_ledger(data, count, tell=False)
    if undo:
        step: Callable[[Connection], int] = partial(cancellation.restore_all, sink=sink, now=began)
        done, hint = "brought back", ""
    else:
        if not found:
            raise RunhookError(f"nothing waits for {clean(sink, 60)}")
        confirm(found, f"Cancel {found} deliveries to {clean(sink, 60)}?", yes=yes)
        step = partial(cancellation.cancel_all, sink=sink, before=began, now=began)
        done, hint = "cancelled", f"; `runhook cancel --sink {clean(sink, 60)} --undo` brings them back"
    total = 0
    with audited_here(Settings.from_env(data=data), RESTORE if undo else CANCEL, {"sink": sink}) as told:
        while changed := write_ledger(data, step):
            told.count = total = total + changed
    if not total:
        raise RunhookError(f"nothing was {done}: no delivery to {clean(sink, 60)} is cancelled with --sink")
    out().print(f"{total} deliveries to {clean(sink, 60)}: {done}{hint}")
