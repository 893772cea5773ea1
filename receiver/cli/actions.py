"""`runhook replay`, `resubmit` and `cancel`: actions on many deliveries, selected by id or by the filter of the lists.

What matches is counted first, confirmed on a terminal, and then changed with that count as a guard.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, NamedTuple

import typer

from receiver.api.deliveries import CANCEL_DELIVERIES, REPLAY_DELIVERIES, DeliverySelection, ReplayParameters
from receiver.api.endpoint import Endpoint
from receiver.api.operations import CANCEL_OPERATION, GET_OPERATION, OperationRow, TakenResult
from receiver.api.reroutes import RESUBMIT_RUNS, ResubmitParameters
from receiver.cli.client import Client
from receiver.cli.completion import completer
from receiver.cli.options import Yes, check_id, confirm
from receiver.cli.output import clean, out, progress, warn
from receiver.cli.parameters import check_times, named_options, with_filter
from receiver.domain.counting import counted
from receiver.domain.delivery import DeliveryState
from receiver.errors import NotFound, RunhookError, UsageError
from receiver.ledger.verbs import TOGETHER

# Seconds between two looks at an operation, and without progress until a hint is printed.
_LOOK_EVERY: Final = 0.5
PATIENCE: Final = 10.0

# What a replay skips, by state, and how to include it.
_SKIPPED: Final = {
    DeliveryState.DEAD: "use `--state dead`, the default",
    DeliveryState.DELIVERED: "use --force to send them again",
    DeliveryState.WAITING: "use `--state waiting` to retry them now",
    DeliveryState.CANCELLED: "use `--state cancelled` to restore them",
    DeliveryState.HELD: "they continue automatically",
    DeliveryState.QUEUED: "they are sent soon, or `runhook sink list` shows that their sink is paused or down",
    DeliveryState.SENDING: "they are being sent",
}

_OWN: Final = frozenset({"ids", "dry_run", "expect"})  # parameters that are options of these commands already
Ids = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="DELIVERY|EVENT|RUN", help="Ids: dlv_…, evt_…, or of a run.", autocompletion=completer("run")
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Count only.")]
Expect = Annotated[
    int | None, typer.Option("--expect", metavar="N", min=0, help="Run only if exactly N match; no prompt.")
]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is done.")]


class How(NamedTuple):
    """How an action is carried out. `expect`: how many must match; None for any number."""

    dry_run: bool
    expect: int | None
    wait: bool
    yes: bool


@with_filter(ReplayParameters, without=_OWN)
def replay(
    client: Client,
    ids: Ids = None,
    *,
    asked: dict[str, Any],
    everything: Annotated[bool, typer.Option("--all", help="Select all dead letters.")] = False,
    dry_run: DryRun = False,
    expect: Expect = None,
    wait: Wait = False,
    yes: Yes = False,
) -> None:
    """Send deliveries again, with the same idempotency keys. The clock does it step by step, across restarts.

    `--state waiting` retries waiting deliveries now, `--state cancelled` restores cancelled ones. Skips removed sinks.
    """
    how = How(dry_run, expect, wait, yes)
    require_selection("replay", ids, asked, everything=everything)
    final = bool(asked.get("force"))
    if DeliveryState.DELIVERED in asked.get("state", ()) and not final:
        raise UsageError("--state delivered would send results again that have arrived: add --force")
    alone = not (ids or final or "state" in asked)
    note = " (dead letters only; --state waiting or cancelled, or --force, selects others)" if alone else ""
    act(client, REPLAY_DELIVERIES, ids, asked, how, final=final, note=note)


@with_filter(ResubmitParameters, without=_OWN)
def resubmit(
    client: Client,
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="EVENT|RUN", help="Ids: evt_…, or of a run.", autocompletion=completer("run")),
    ] = None,
    *,
    asked: dict[str, Any],
    dry_run: DryRun = False,
    expect: Expect = None,
    yes: Yes = False,
) -> None:
    """Submit failed runs again, once each, through a sink of type resubmit.

    Runs that Skyvern retries itself, or that have completed since, are skipped.
    """
    require_selection("resubmit", ids, {name: value for name, value in asked.items() if name != "into"})
    act(client, RESUBMIT_RUNS, ids, asked, How(dry_run, expect, wait=False, yes=yes))


@with_filter(DeliverySelection, without=_OWN)
def cancel(
    client: Client,
    ids: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DELIVERY|EVENT|RUN|OPERATION",
            help="Ids: dlv_…, evt_…, of a run, or op_….",
            autocompletion=completer("run"),
        ),
    ] = None,
    *,
    asked: dict[str, Any],
    undo: Annotated[
        bool, typer.Option("--undo", help="Replay cancelled ones, by id, or those that these options cancelled.")
    ] = False,
    dry_run: DryRun = False,
    expect: Expect = None,
    wait: Wait = False,
    yes: Yes = False,
) -> None:
    """Cancel pending deliveries or running operations; --undo restores deliveries.

    A restored delivery is due at once, with all of its attempts, as by `runhook replay --state cancelled`.
    """
    require_selection("cancel", ids, asked)
    if operations := [each for each in ids or () if each.startswith("op_")]:
        if undo:
            raise UsageError(f"{clean(operations[0], 60)}: an operation cannot be restored; start the replay again")
        if asked or dry_run or expect is not None or len(operations) < len(ids or ()):
            raise UsageError("cancel operations by id only, without options or other ids")
        client.announce = True
        for each in operations:
            client.call(CANCEL_OPERATION, CANCEL_OPERATION.validated({"id": each}))
            out().print(f"{each}: cancelled")
        return
    how = How(dry_run, expect, wait, yes)
    if undo:
        together = {} if ids else {"reason": TOGETHER}
        act(client, REPLAY_DELIVERIES, ids, {**together, **asked, "state": (DeliveryState.CANCELLED,)}, how)
    elif act(client, CANCEL_DELIVERIES, ids, asked, how):
        out().print("to restore them, run the same command with --undo")


def require_selection(
    verb: str, ids: Sequence[str] | None, asked: Mapping[str, Any], *, everything: bool = False
) -> None:
    """Raise UsageError if nothing is selected, or an id is cut too short."""
    for each in ids or ():
        check_id(each)
    if not ids and not asked and not everything:
        raise UsageError(
            f"nothing selected to {verb}: pass ids, or filters such as --sink, --status, --since or --until"
        )


def act(
    client: Client,
    endpoint: Endpoint[Any, TakenResult],
    ids: Sequence[str] | None,
    asked: Mapping[str, Any],
    how: How,
    *,
    final: bool = True,
    note: str = "",
) -> bool:
    """Count what matches, ask, and start the action with that count. Returns whether it was started.

    `final`: as for `confirm`. `note`: follows the count. Raises RunhookError if nothing matches or other than
    `how.expect`, and what the call raises.
    """
    verb, client.announce = endpoint.name, not how.dry_run
    with named_options(asked, {"ids"}):
        parameters = endpoint.validated({**asked, "ids": ids or ()})  # once: "2h" is the same moment in both calls
        check_times(parameters, asked)
        preview = client.call(endpoint, parameters.model_copy(update={"dry_run": True}))
        if preview.orphaned:
            out().print(
                f"skipped: {_deliveries(preview.orphaned)} of removed sinks; `runhook sink list` shows them and "
                "`runhook sink move OLD NEW` moves them to another sink"
            )
        sinks = f": {', '.join(f'{count} of {clean(sink)}' for sink, count in preview.sinks.items())}"
        nothing = "" if preview.count else _nothing(verb, preview.left)
        if how.dry_run:
            out().print(f"{_deliveries(preview.count)} to {verb}{'' if nothing else note + sinks}\n{nothing}".rstrip())
        if how.expect not in (None, preview.count):
            raise RunhookError(f"--expect {how.expect}: {preview.count} match now; nothing changed")
        if how.dry_run:
            return False
        if nothing:
            raise RunhookError(nothing)
        question = f"{verb.capitalize()} {_deliveries(preview.count)}?"
        confirm(preview.count, question, yes=how.yes or how.expect is not None, final=final)
        guard = {"expect": how.expect} if ids else {"expect": preview.count, "until": preview.until}
        try:
            result = client.call(endpoint, parameters.model_copy(update=guard))
        except NotFound as problem:  # of one of several ids
            raise RunhookError(problem.message) from None
    begun = f"{result.operation.id}: " if result.operation else ""
    out().print(f"{begun}{_deliveries(result.count)} to {verb}{note}")
    if how.wait and result.operation:
        watch(client, result.operation)
    return True


def _deliveries(count: int) -> str:
    return counted(count, "delivery", "deliveries")


def _nothing(verb: str, skipped: Mapping[str, int]) -> str:
    """Return why there is nothing to do. `skipped`: what matches and is not taken, by state."""
    hints = _SKIPPED if verb == "replay" else {}
    lines = [
        f"{count} {state}" + (f" ({hint})" if (hint := hints.get(DeliveryState(state))) else "")
        for state, count in sorted(skipped.items())
    ]
    return f"nothing to {verb}: {'; '.join(lines) or 'nothing matches'}"


def watch(client: Client, operation: OperationRow) -> OperationRow:
    """Show the progress of an operation until it ends, and return how it ended."""
    since: float | None = time.monotonic()
    printed = -1
    with progress(operation.id, operation.total) as show:
        while operation.state == "running":
            show(operation.done)
            if operation.done != printed and not sys.stdout.isatty():
                printed = operation.done
                out().print(f"{operation.id}: {printed} of {operation.total}")
            time.sleep(_LOOK_EVERY)
            done, operation = operation.done, client.call(GET_OPERATION, GET_OPERATION.validated({"id": operation.id}))
            if operation.done != done:
                since = time.monotonic()
            elif since is not None and time.monotonic() - since > PATIENCE:
                since = None
                warn(
                    f"{operation.id}: no progress for {PATIENCE:g} s; is the clock running? See `runhook status`. "
                    "Ctrl-C stops waiting, not the operation"
                )
        show(operation.done)
    end = "" if operation.state == "done" else f", {operation.state}"
    out().print(f"{operation.id}: {operation.done} of {operation.total}{end}")
    return operation
