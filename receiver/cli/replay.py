"""`runhook replay`, `resubmit` and `operations`: sending deliveries again, submitting failed runs again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from receiver.api.actions.deliveries import (
    BACKFILL_SINK,
    REPLAY_DELIVERIES,
    RESUBMIT_RUNS,
    BackfillParameters,
    ReplayParameters,
    ResubmitParameters,
)
from receiver.api.operations import LIST_OPERATIONS
from receiver.cli.api_options import option_of
from receiver.cli.client import Client, with_client
from receiver.cli.commands import COMMANDS
from receiver.cli.listing import list_command
from receiver.cli.on_many import How, act, on_many, require_choice
from receiver.cli.output import show_time, show_when
from receiver.domain.delivery import DeliveryState
from receiver.errors import UsageError


def _replay(
    client: Client,
    ids: Sequence[str],
    asked: dict[str, Any],
    how: How,
    backfill: Annotated[
        str | None,
        typer.Option(
            "--backfill", metavar="SINK", help="Give a sink all old results, by no rule. `reroute` asks the rules."
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Without any other choice: all dead letters.")] = False,
) -> None:
    if backfill == "":
        raise UsageError("--backfill: is empty; name the sink that gets old results")
    if backfill is None:
        require_choice(ids, asked, "replay", everything=everything)
        again = bool(asked.get("force")) or DeliveryState.DELIVERED in asked.get("state", ())
        act(client, REPLAY_DELIVERIES, ids, asked, how, for_good=again)
        return
    if others := asked.keys() - BackfillParameters.model_fields.keys():
        raise UsageError(f"--backfill makes new deliveries, and {option_of(min(others))} chooses among those there are")
    note = f"{backfill} gets every result of the selection: a backfill knows no rules; `runhook reroute` does"
    act(client, BACKFILL_SINK, ids, {**asked, "into": backfill}, how, for_good=False, note=note)


def _resubmit(client: Client, ids: Sequence[str], asked: dict[str, Any], how: How) -> None:
    require_choice(ids, {name: value for name, value in asked.items() if name != "into"}, "resubmit")
    act(client, RESUBMIT_RUNS, ids, asked, how)


_replay.__doc__ = f"""{COMMANDS["replay"].help}

What waits for its next attempt is tried now with `--state waiting`. Deliveries of sinks that are not in the config are
left, for nobody would send them.
"""
_resubmit.__doc__ = f"""{COMMANDS["resubmit"].help}

A run that Skyvern itself will try again, or that has come right meanwhile, is left.
"""
replay = with_client(on_many(ReplayParameters, "DELIVERY|EVENT|RUN", "Ids: dlv_…, evt_… or a run's.")(_replay))
resubmit = with_client(on_many(ResubmitParameters, "EVENT|RUN", "Ids: evt_… or a run's.")(_resubmit))


def _selection_text(found: Mapping[str, Any]) -> str:
    shown = {name: show_time(value) if name in ("since", "until") else value for name, value in found.items()}
    return " ".join(f"{name}={','.join(value) if isinstance(value, list) else value}" for name, value in shown.items())


operations = list_command(
    LIST_OPERATIONS,
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
