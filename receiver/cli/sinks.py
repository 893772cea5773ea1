"""`runhook sink list|pause|resume|move|test|columns`: the sinks, their breakers, and whether they are paused."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any, Final

import typer

from handlers import SinkError
from receiver.api.sink_samples import TEST_SINK
from receiver.api.sinks import LIST_SINKS, MOVE_SINK, PAUSE_SINK, RESUME_SINK, require_sink
from receiver.cli.actions import watch
from receiver.cli.client import Client
from receiver.cli.completion import completer
from receiver.cli.lists import list_command
from receiver.cli.options import ConfigFile, DataDirectory, Json, Yes, confirm, load_config, new_app
from receiver.cli.output import clean, out, print_json, show_counts
from receiver.cli.parameters import with_client
from receiver.cli.profiles import here_only
from receiver.cli.status import READY, lane_state, show_drained
from receiver.config.models import Config
from receiver.domain.counting import counted
from receiver.errors import Invalid, RunhookError, UsageError
from receiver.ledger.stats import COUNT_LIMIT

# Origins with an open breaker whose reason the table shows; --json shows all.
SHOWN: Final = 3

app = new_app()

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the sink.", autocompletion=completer("sink"))]


def _why(row: Mapping[str, Any]) -> str:
    shut = (row["origins"] or {}).get("shut", [])
    more = [f"and {len(shut) - SHOWN} more"] if len(shut) > SHOWN else []
    return "; ".join([*(f"{each['origin']}: {each['reason']}" for each in shut[:SHOWN]), *more]) or str(row["reason"])


def _state(row: Mapping[str, Any]) -> str:
    if row["orphaned"]:
        return "removed from the config"
    shut = (row["origins"] or {}).get("shut", [])
    state = lane_state(row, time.time(), row["worker"])
    opened = f"{counted(len(shut), 'breaker', 'breakers')} open"
    return state if not shut else opened if state == READY else f"{state}; {opened}"


def _deliveries(row: Mapping[str, Any]) -> str:
    """Return the counts of a sink, and when they will be sent at the present rate."""
    counts = row["deliveries"] or {}
    return "; ".join(filter(None, [show_counts(counts, COUNT_LIMIT), show_drained(counts, row["drained_in"])]))


list_sinks = list_command(
    LIST_SINKS,
    "sink=name type",
    {"state": _state, "deliveries": _deliveries, "why": _why},
    empty="the config has no sinks",
    doc="""List sinks with their breakers and open deliveries; `callback` stands for callers' webhooks.

        A sink that was removed from the config is listed while it has pending deliveries.
        """,
)
app.command("list")(list_sinks)


@app.command()
@with_client
def pause(client: Client, name: Name) -> None:
    """Pause a sink; its deliveries wait."""
    client.announce = True
    client.call(PAUSE_SINK, PAUSE_SINK.validated({"sink": name}))
    out().print(f"{name} paused, also across restarts: its deliveries wait, and their time limits do not run")
    out().print(f"`runhook sink resume {name}` resumes delivery")


@app.command()
@with_client
def resume(client: Client, name: Name) -> None:
    """Resume a paused sink. If its breaker is open, one delivery is tried at once."""
    client.announce = True
    found = client.call(RESUME_SINK, RESUME_SINK.validated({"sink": name}))
    out().print(f"{name} resumed" if found.was_paused else f"{name} was not paused")
    if found.probed:
        own = found.sink.breaker != "closed"
        shut = found.sink.origins.shut if found.sink.origins else []
        reason = found.sink.reason if own or not shut else shut[0].reason
        what = "its breaker is" if own else f"the breakers of {found.probed} origins are"
        out().print(
            f"{what} still open ({clean(reason, 200)}): one delivery is tried now, and closes it if it succeeds"
        )


@app.command()
@with_client
def move(
    client: Client,
    old: Annotated[str, typer.Argument(metavar="OLD", help="Removed or renamed sink.")],
    new: Annotated[
        str, typer.Argument(metavar="NEW", help="New sink of its deliveries.", autocompletion=completer("sink"))
    ],
    undo: Annotated[bool, typer.Option("--undo", help="Return what NEW got from OLD and has not delivered.")] = False,
    yes: Yes = False,
) -> None:
    """Move the deliveries of a removed or renamed sink to another one, with the same idempotency keys.

    Pending deliveries are due at once; dead and cancelled ones keep their state. Events of which NEW already has a
    delivery are skipped.
    """
    client.announce = True
    giver, taker = (new, old) if undo else (old, new)
    parameters = MOVE_SINK.validated({"sink": old, "into": new, "undo": undo})
    try:
        total = client.call(MOVE_SINK, parameters.model_copy(update={"dry_run": True})).count
    except Invalid as problem:
        raise UsageError(clean(problem.message)) from None
    confirm(total, f"Move the deliveries of {giver} to {taker}?", yes=yes)
    operation = client.call(MOVE_SINK, parameters).operation
    assert operation is not None
    moved = watch(client, operation).done
    out().print(f"moved to {taker}: {counted(moved, 'delivery', 'deliveries')} of {giver}")
    if (skipped := total - moved) and not undo:
        out().print(f"skipped: {skipped} of events that {taker} has already; `runhook cancel --sink {giver}` ends them")
    if not undo:
        out().print(f"`runhook sink move {old} {new} --undo` gives back what {new} has not delivered by then")


@app.command("test")
@with_client
def send_sample(client: Client, name: Name) -> None:
    """Send a marked sample to a sink, from here or from the remote service, and print its receipt."""
    client.create = client.announce = True
    found = client.call(TEST_SINK, TEST_SINK.validated({"sink": name}))
    if found.outcome != "accepted":
        raise RunhookError(f"{name}: {found.outcome}: {clean(found.reason)}")
    out().print(f"{name}: accepted: {clean(found.id)}")
    for line in filter(None, [*found.keys, found.note]):
        out().print(f"  {clean(line)}")


@app.command()
@here_only
def columns(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the sink. Default: all database sinks.")] = "",
    apply: Annotated[bool, typer.Option("--apply", help="Add the columns. Default: only print the SQL.")] = False,
    config: ConfigFile = None,
    data: DataDirectory = None,
    as_json: Json = False,
) -> None:
    """Print the SQL that adds missing columns to a database sink's table, and run it with --apply.

    An existing table gets the columns of a new release only this way. Until then rows are written without them.
    """
    settings, loaded = load_config(config, data)
    databases = [each for each, sink in loaded.sinks.items() if sink.type == "database"]
    if name:
        try:
            require_sink(loaded, name)
        except Invalid as problem:
            raise UsageError(problem.message) from None
    if (name and name not in databases) or (apply and not name and len(databases) != 1):
        raise UsageError(f"{name or '--apply'}: name one database sink of: {', '.join(databases) or 'none'}")
    found = [_columns_of(loaded, settings.skyvern_base_url, each, apply) for each in ([name] if name else databases)]
    if as_json:
        print_json(found)
    else:
        for each in found:
            _print_columns(each)
    if any(each["error"] for each in found):
        raise typer.Exit(RunhookError.exit_code)


def _columns_of(config: Config, default_base: str, name: str, apply: bool) -> dict[str, Any]:
    """Return the statements that the tables of a sink lack, those that were run, and an error or ""."""
    from handlers import registry
    from handlers.database import DatabaseSink
    from receiver.delivery.sink_services import SourceServices

    chosen = config.sinks[name]
    sink = registry.build(name, chosen.type, chosen.options, SourceServices(config, default_base))
    assert isinstance(sink, DatabaseSink)
    found: dict[str, Any] = {"sink": name, "missing": [], "unfilled": [], "applied": [], "error": ""}
    try:
        found["missing"], found["unfilled"] = sink.missing_columns(), sink.unfilled_columns()
        if apply and found["missing"]:
            found["applied"] = sink.add_columns()
            found["missing"] = []
    except SinkError as error:
        found["error"] = str(error)
    finally:
        sink.close()
    return found


def _print_columns(found: Mapping[str, Any]) -> None:
    name, missing, applied = found["sink"], found["missing"], found["applied"]
    for statement in applied or missing:
        lines = statement.expandtabs(4).splitlines()  # recreating a table takes several lines
        out().print("\n".join(map(clean, lines)) + ";")
    for column in found["unfilled"]:
        why = "is NOT NULL without a default, and Runhook does not fill it"
        out().print(f"{name}: {clean(column)} {why}: rows are refused until it has a default")
    if found["error"]:
        hint = "; the table's owner can run the statements above" if missing else ""
        out().print(f"{name}: {clean(found['error'])}{hint}")
    elif applied:
        out().print(f"{name}: done; workers use them within a minute, and a replay fills them in older rows")
    elif missing:
        out().print(f"{name}: nothing changed; `runhook sink columns {name} --apply` runs these statements")
    else:
        out().print(f"{name}: no column is missing")
