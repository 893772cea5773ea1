"""`runhook dead`, `attempts`, `replay`, `cancel` and `operations`: putting right what did not arrive."""

from __future__ import annotations

import re
import secrets
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from receiver.cli import output
from receiver.cli.list import Data, Json, Limit, Since, Source, Status, Until, ask, span, tell
from receiver.cli.sinks import load_config, require_sink
from receiver.domain.callback import CALLBACK
from receiver.domain.delivery import DeliveryState
from receiver.errors import RunhookError, UsageError
from receiver.ledger import queries, replays
from receiver.ledger.replays import Operation, Selection

_ID = re.compile(r"(dlv|evt)_[0-9a-f]{8,32}")

REPLAYABLE = (DeliveryState.DEAD, DeliveryState.DELIVERED)


def dead(
    data: Data = None,
    sink: Annotated[str, typer.Option("--sink", help="Only this sink.")] = "",
    status: Status = None,
    since: Since = "",
    until: Until = "",
    limit: Limit = queries.LIMIT,
    as_json: Json = False,
) -> None:
    """List the dead letters, with the reason of each. `runhook replay` sends them again."""
    wanted = queries.Filter(
        sink=sink, state=(DeliveryState.DEAD,), status=status or (), **span(since, until), limit=limit
    )
    found = ask(data, lambda connection: queries.list_deliveries(connection, wanted))
    if as_json:
        output.print_json([output.with_iso_times(row) for row in found])
        return
    output.print_table(
        "",
        ["delivery", "run", "status", "sink", "tries", "why"],
        [
            (output.short(row["id"]), row["run_id"], row["status"], row["sink"], row["attempts"], row["reason"])
            for row in found
        ],
        "no dead letters",
    )


def attempts(
    thing: Annotated[str, typer.Argument(metavar="DELIVERY|EVENT|RUN", help="Its id: dlv_…, evt_… or a run's.")],
    data: Data = None,
    as_json: Json = False,
) -> None:
    """List every attempt of one delivery, or of all that an event or a run has."""
    _check_id(thing)
    found = ask(data, lambda connection: queries.list_attempts(connection, thing))
    if as_json:
        output.print_json([output.with_iso_times(row) for row in found])
        return
    output.print_table(
        "",
        ["delivery", "sink", "attempt", "outcome", "began", "seconds", "worker", "receipt or reason"],
        [
            (
                output.short(row["delivery_id"]),
                row["sink"],
                row["number"],
                row["outcome"],
                output.when(row["started_at"]),
                f"{row['ended_at'] - row['started_at']:.3f}",
                row["worker"],
                output.near(row["receipt"]["id"]) if row["receipt"] else row["reason"],
            )
            for row in found
        ],
        f"no attempts of {output.clean(thing, 60)}",
    )


def replay(
    things: Annotated[
        list[str] | None, typer.Argument(metavar="[DELIVERY|EVENT|RUN]…", help="Ids: dlv_…, evt_… or a run's.")
    ] = None,
    data: Data = None,
    sink: Annotated[str, typer.Option("--sink", help="Only deliveries to this sink.")] = "",
    state: Annotated[
        list[str] | None, typer.Option("--state", help="Only in this state: dead (the default) or delivered.")
    ] = None,
    source: Source = "",
    status: Status = None,
    since: Since = "",
    until: Until = "",
    backfill: Annotated[
        str, typer.Option("--backfill", metavar="SINK", help="Make deliveries of old events for a sink that had none.")
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="Also what was delivered already.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Without any other choice: all dead letters.")] = False,
    rate: Annotated[float, typer.Option("--rate", min=0, help="So many a second at the most; 0: no limit.")] = 0.0,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Show progress until it is done.")] = False,
    config: Annotated[Path | None, typer.Option("--config", help="The config file (RUNHOOK_CONFIG).")] = None,
) -> None:
    """Send deliveries again, under the same idempotency key. The clock works it off, whatever is restarted."""
    if unknown := set(state or ()) - set(REPLAYABLE):
        raise UsageError(f"--state {min(unknown)}: only dead and delivered ones can be replayed")
    if not (things or sink or state or source or status or since or until or backfill or everything):
        raise UsageError(
            "say what to replay: ids, --sink, --state, --status, --since, --until, or --all for all dead letters"
        )
    if backfill == CALLBACK:
        raise UsageError(f"--backfill {backfill}: callers' webhooks are made for their own runs, and not afterwards")
    if backfill:
        require_sink(load_config(config, data)[1], backfill)  # nobody would ever work off what an unknown one gets
    force = force or DeliveryState.DELIVERED in (state or ())
    kind = "backfill" if backfill else "replay"
    chosen = Selection(
        sink=sink, state=tuple(state or ()), source=source, status=tuple(status or ()), **span(since, until)
    )
    selections = [_narrowed(chosen, thing) for thing in things or ()] or [chosen]

    def count(connection: Any) -> list[int]:
        return [replays.count(connection, kind, each, backfill, force=force) for each in selections]

    counts = ask(data, count)
    if sink and not sum(counts):
        require_sink(load_config(config, data)[1], sink)  # a misspelt name must not look like success
    if dry_run:
        output.out().print(f"{sum(counts)} deliveries would be {'made' if backfill else 'replayed'}")
        return
    if empty := [output.clean(thing, 60) for thing, found in zip(things or (), counts, strict=False) if not found]:
        more = "" if force or backfill else "; what was delivered already is sent again with --force"
        raise RunhookError(f"nothing to {kind} of {', '.join(empty)}{more}")

    def create(connection: Any) -> list[Operation]:
        return [
            replays.create(
                connection,
                f"op_{secrets.token_hex(8)}",
                kind,
                each,
                time.time(),
                sink=backfill,
                force=force,
                rate=rate,
            )
            for each in selections
        ]

    made = tell(data, create)
    for operation in made:
        output.out().print(f"{operation.id}: {operation.total} deliveries to {kind}")
    if wait:
        _watch(data, made)


def _narrowed(chosen: Selection, thing: str) -> Selection:
    _check_id(thing)
    if thing.startswith("dlv_"):
        return Selection(**{**_parts(chosen), "delivery_ids": (thing,)})
    if thing.startswith("evt_"):
        return Selection(**{**_parts(chosen), "event_id": thing})
    return Selection(**{**_parts(chosen), "run_id": thing})


def _check_id(thing: str) -> None:
    """Ids may be cut as tables cut them, but no further: one letter would mean all of them. Raises UsageError."""
    if not thing.strip():
        raise UsageError("an id is empty")
    if thing.startswith(("dlv_", "evt_")) and not _ID.fullmatch(thing):
        raise UsageError(f"{output.clean(thing, 60)}: an id has 8 to 32 hex digits after {thing[:4]}")


def _parts(chosen: Selection) -> dict[str, Any]:
    return {name: getattr(chosen, name) for name in Selection.__slots__}


def _watch(data: Data, made: list[Operation]) -> None:
    """Show progress until all of them have ended."""
    shown: dict[str, int] = {}
    while True:
        now = [ask(data, partial(replays.get, operation_id=each.id)) for each in made]
        for operation in now:
            if operation is not None and shown.get(operation.id) != operation.done:
                shown[operation.id] = operation.done
                output.out().print(f"{operation.id}: {operation.done} of {operation.total}")
        if all(operation is None or operation.state != "running" for operation in now):
            return
        time.sleep(0.5)


def cancel(
    things: Annotated[list[str], typer.Argument(metavar="DELIVERY|OPERATION…", help="Ids: dlv_… or op_….")],
    data: Data = None,
) -> None:
    """Cancel deliveries that wait, or operations that are running."""
    failed = []
    for thing in things:
        if thing.startswith("op_"):
            done = tell(data, partial(replays.cancel, operation_id=thing, now=time.time()))
        else:
            _check_id(thing)
            done = bool(tell(data, partial(replays.cancel_deliveries, ids=[thing], now=time.time())))
        if done:
            output.out().print(f"{thing}: cancelled")
        else:
            failed.append(thing)
    if failed:
        raise RunhookError(f"not cancelled, for it has ended, is being sent or is not there: {', '.join(failed)}")


def operations(data: Data = None, limit: Limit = queries.LIMIT, as_json: Json = False) -> None:
    """List replays and backfills, the newest first."""
    found = ask(data, lambda connection: replays.list_operations(connection, limit))
    if as_json:
        rows = [
            {name: getattr(each, name) for name in Operation.__slots__} | {"selection": each.selection.to_json()}
            for each in found
        ]
        output.print_json([output.with_iso_times(row) for row in rows])
        return
    output.print_table(
        "",
        ["operation", "kind", "state", "done", "of", "began", "takes"],
        [
            (
                each.id,
                each.kind,
                each.state,
                each.done,
                each.total,
                output.when(each.created_at),
                _selected(each.selection),
            )
            for each in found
        ],
        "no operations",
    )


def _selected(selection: Selection) -> str:
    """What an operation takes, as people read it."""
    found = {name: value for name, value in _parts(selection).items() if value}
    for name in ("since", "until"):
        if name in found:
            found[name] = output.when(found[name])
    return " ".join(f"{name}={','.join(value) if isinstance(value, tuple) else value}" for name, value in found.items())
