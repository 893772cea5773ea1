"""`runhook dead`, `attempts`, `replay` and `operations`: deliveries that failed, and sending them again."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from receiver.api import operations as api_operations
from receiver.api.actions import chosen
from receiver.api.actions.deliveries import ENDPOINTS as ACTIONS
from receiver.api.actions.deliveries import REPLAYABLE
from receiver.api.service import Actor
from receiver.cli.client import Client, LocalClient, endpoint_called, with_client
from receiver.cli.commands import COMMANDS
from receiver.cli.filters import (
    check_filter,
    check_form,
    check_id,
    require_live_sink,
    require_sink,
)
from receiver.cli.ledger_access import read_ledger, write_ledger
from receiver.cli.listing import list_command
from receiver.cli.options import (
    DataDirectory,
    Since,
    SourceName,
    Statuses,
    Until,
    Yes,
    confirm,
    load_config,
    parse_time_range,
)
from receiver.cli.output import clean, out, show_time, show_when
from receiver.cli.progress import ProgressLine
from receiver.cli.remote_actions import act
from receiver.domain.callback import CALLBACK
from receiver.domain.delivery import DeliveryState
from receiver.errors import RunhookError, UsageError
from receiver.ledger import Connection, replays, selection
from receiver.ledger.replays import Operation
from receiver.ledger.selection import Selection

# What a replay leaves by its state, and what takes it.
_LEFT: Final = {
    DeliveryState.DEAD: "`--state dead`, which is the default, takes those",
    DeliveryState.DELIVERED: "--force sends those again",
    DeliveryState.WAITING: "--state waiting tries those now",
    DeliveryState.CANCELLED: "`runhook cancel --undo` brings those back",
    DeliveryState.HELD: "they go on by themselves",
    DeliveryState.QUEUED: "they are sent soon, or wait for a sink that is paused or down: `runhook sink list`",
    DeliveryState.SENDING: "they are being sent",
}


@with_client
def replay(
    client: Client,
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="DELIVERY|EVENT|RUN", help="Ids: dlv_…, evt_… or a run's.")
    ] = None,
    sink: Annotated[str, typer.Option("--sink", help="Only deliveries to this sink.")] = "",
    state: Annotated[
        list[str] | None,
        typer.Option(
            "--state", help="Only in this state: dead (the default), delivered, or waiting: those are tried now."
        ),
    ] = None,
    source: SourceName = "",
    status: Statuses = None,
    since: Since = "",
    until: Until = "",
    backfill: Annotated[
        str,
        typer.Option(
            "--backfill", metavar="SINK", help="Give a sink all old results, by no rule. `reroute` asks the rules."
        ),
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="Also what was delivered already.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Without any other choice: all dead letters.")] = False,
    rate: Annotated[float, typer.Option("--rate", min=0, help="So many a second at the most; 0: no limit.")] = 0.0,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Show progress until it is done.")] = False,
    yes: Yes = False,
) -> None:
    """Send deliveries again, under the same idempotency key. The clock does it step by step, across restarts.

    What waits for its next attempt is tried now with `--state waiting`. Deliveries of sinks that are not in the config
    are left, for nobody would send them.
    """
    if not (ids or sink or state or source or status or since or until or backfill or everything):
        raise UsageError(
            "say what to replay: ids, --sink, --state, --status, --since, --until, or --all for all dead letters"
        )
    _check_kind(state or (), backfill)
    if not isinstance(client, LocalClient):
        given: dict[str, Any] = {"ids": ids, "source": source, "status": status, "since": since, "until": until}
        given |= {"rate": rate} | ({"into": backfill} if backfill else {"sink": sink, "state": state, "force": force})
        kind = "backfill" if backfill else "replay"
        again = force or DeliveryState.DELIVERED in (state or ())
        call = endpoint_called(kind, ACTIONS)
        act(client, call, given, kind, dry_run=dry_run, yes=yes, wait=wait, for_good=again)
        return
    config, data = client.config, client.data
    sinks = _sinks(config, data, sink, backfill)
    force = force or DeliveryState.DELIVERED in (state or ())
    kind = "backfill" if backfill else "replay"
    wanted = Selection(
        sink=sink, state=tuple(state or ()), source=source, status=tuple(status or ()), **parse_time_range(since, until)
    )
    if not backfill:
        wanted = replace(wanted, sinks=sinks)
    selections = [_narrowed(wanted, identifier) for identifier in ids or ()] or [wanted]

    counts = read_ledger(
        data,
        partial(_count, kind=kind, selections=selections, ids=ids or (), sink=backfill, force=force, data=data),
        tell=None if dry_run else True,
    )
    if backfill:
        out().print(f"{backfill} gets every result of the selection: a backfill knows no rules; `runhook reroute` does")
    else:
        _tell_of_orphans(data, selections, force=force)
    why = _why_nothing(data, kind, ids or (), selections, counts, backfill)
    if dry_run:
        out().print(f"{sum(counts)} deliveries would be {'made' if backfill else 'replayed'}\n{why}".rstrip())
        return
    if why:
        raise RunhookError(why)
    if force:
        confirm(sum(counts), f"Send {sum(counts)} deliveries again, delivered ones too?", yes=yes)
    else:
        confirm(sum(counts), f"{kind.capitalize()} {sum(counts)} deliveries?", yes=yes, for_good=False)

    def create(connection: Connection) -> list[Operation]:
        return [
            chosen.begin(connection, Actor.local(), kind, each, sink=backfill, force=force, rate=rate)
            for each in selections
        ]

    made = write_ledger(data, create)
    for operation in made:
        out().print(f"{operation.id}: {operation.total} deliveries to {kind}")
    if wait:
        _watch(data, made)


def _check_kind(state: Sequence[str], backfill: str) -> None:
    """Raise UsageError for a state that no replay takes, and for a backfill of callers' webhooks."""
    if unknown := set(state) - set(REPLAYABLE):
        raise UsageError(f"--state {min(unknown)}: only dead, delivered and waiting ones can be replayed")
    if backfill == CALLBACK:
        raise UsageError(f"--backfill {backfill}: callers' webhooks are made for their own runs, and not afterwards")


def _sinks(config: Path | None, data: Path | None, sink: str, backfill: str) -> tuple[str, ...]:
    """Return the sinks of the config; none if it can't be read, is not needed, and was not named.

    Raises UsageError for a sink to which no worker would ever send anything.
    """
    try:
        loaded = load_config(config, data)[1]
    except (RunhookError, OSError):
        if config or sink or backfill:
            raise
        return ()
    if backfill:
        require_sink(loaded, backfill)
    if sink:
        require_live_sink(loaded, sink, data, "--sink")
    return tuple(loaded.destinations)


def _why_nothing(
    data: Path | None, kind: str, ids: Sequence[str], selections: Sequence[Selection], counts: Sequence[int], sink: str
) -> str:
    """Return why there is nothing to do, for one of `ids` or at all; "" when there is: what moves nothing is no
    operation."""
    empty = [number for number, found in enumerate(counts) if not found]
    if not empty or (any(counts) and not ids):
        return ""
    of = f" of {', '.join(clean(ids[number], 60) for number in empty)}" if ids else ""
    if sink:
        return f"nothing to {kind}{of}: {clean(sink, 60)} has a delivery of every result that matches, or none matches"

    def count(connection: Connection) -> Counter[str]:
        counted = (Counter(selection.count_states(connection, selections[number])) for number in empty)
        return sum(counted, Counter[str]())

    left = [
        f"{number} {state}: {_LEFT[DeliveryState(state)]}"
        for state, number in sorted(read_ledger(data, count, tell=False).items())
    ]
    return f"nothing to {kind}{of}: {'; '.join(left) or 'no delivery matches'}"


def _tell_of_orphans(data: Path | None, selections: Sequence[Selection], *, force: bool) -> None:
    """Say how many deliveries a replay leaves, for their sinks are not in the config."""

    def count(connection: Connection) -> int:
        every = (replace(each, sinks=()) for each in selections)
        taken = sum(selection.count(connection, "replay", each, force=force) for each in selections)
        return sum(selection.count(connection, "replay", each, force=force) for each in every) - taken

    if any(each.sinks for each in selections) and (left := read_ledger(data, count, tell=False)):
        out().print(
            f"{left} deliveries are left, for their sinks are not in the config: `runhook sink list` shows those that "
            "wait, `runhook sink move OLD NEW` gives them and dead letters to another sink"
        )


def _count(
    connection: Connection,
    kind: str,
    selections: Sequence[Selection],
    ids: Sequence[str],
    sink: str,
    force: bool,
    data: Path | None,
) -> list[int]:
    """Count what each selection takes. Raises UsageError for an id or a name that is not there."""
    found = [selection.count(connection, kind, each, sink, force=force) for each in selections]
    for identifier, number in zip(ids, found, strict=False):
        if not number:
            check_id(connection, identifier)
    # Ids were checked just now, and the sink's name is checked by the config that it is in.
    rest = replace(selections[0], sink="", run_id="", event_id="")
    check_filter(connection, rest, data, empty=not sum(found))
    return found


def _narrowed(wanted: Selection, identifier: str) -> Selection:
    check_form(identifier)
    return replace(wanted, **chosen.of_ids([identifier]))


def _watch(data: DataDirectory, made: list[Operation]) -> None:
    """Show the progress of each until all of them have ended."""
    for operation in made:
        with ProgressLine(operation.id, operation.total, every=True) as progress:
            while True:
                now = read_ledger(data, partial(replays.get, operation_id=operation.id), tell=False)
                if now is not None:
                    progress.show(now.done)
                if now is None or now.state != "running":
                    break
                time.sleep(0.5)


def _selection_text(found: Mapping[str, Any]) -> str:
    shown = {name: show_time(value) if name in ("since", "until") else value for name, value in found.items()}
    return " ".join(f"{name}={','.join(value) if isinstance(value, list) else value}" for name, value in shown.items())


operations = list_command(
    endpoint_called("list_operations", api_operations.ENDPOINTS),
    {
        "operation": "id",
        "kind": "kind",
        "state": "state",
        "done": "done",
        "of": "total",
        "began": lambda row: show_when(row["created_at"]),
        "selects": lambda row: _selection_text(row["selection"]),
    },
    "no such operations",
    doc=COMMANDS["operations"].help,
    nothing="no operations",
)
