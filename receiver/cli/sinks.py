"""`runhook sink list|pause|resume|move|test|columns`: the sinks, their breakers, and whether they are paused."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final

import typer

from handlers import Refused, SinkError, Unavailable
from receiver.api.actions import sinks as actions
from receiver.api.actions.moves import MOVE_SINK
from receiver.api.actions.sinks import PAUSE_SINK, RESUME_SINK, TEST_SINK
from receiver.api.sinks import LIST_SINKS
from receiver.cli import output
from receiver.cli.acting import audited_here
from receiver.cli.client import Client, LocalClient, with_client
from receiver.cli.listing import list_command
from receiver.cli.names import require_live_sink, require_sink
from receiver.cli.options import (
    ConfigFile,
    DataDirectory,
    Json,
    Yes,
    confirm,
    load_config,
)
from receiver.cli.profiles import here_only
from receiver.cli.progress import ProgressLine
from receiver.config.models import Config
from receiver.domain.counting import counted
from receiver.errors import Invalid, RunhookError, UsageError
from receiver.status.problem import ago

# Origins with an open breaker whose reason the table shows; --json shows all.
SHOWN: Final = 3

# How the answer of a sink to a sample is told.
_ANSWERS: Final = ((Refused, "refused"), (Unavailable, "not available now"))

app = typer.Typer(no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The sink's name.")]


def _why(row: Mapping[str, Any]) -> str:
    shut = (row["origins"] or {}).get("shut", [])
    more = [f"and {len(shut) - SHOWN} more"] if len(shut) > SHOWN else []
    return "; ".join([*(f"{each['origin']}: {each['reason']}" for each in shut[:SHOWN]), *more]) or str(row["reason"])


def _state(row: Mapping[str, Any], now: float) -> str:
    if row["orphaned"]:
        return "not in the config"
    found = []
    if row["paused"]:
        found.append("paused" + (f" for {ago(now - row['paused_at'])}" if row["paused_at"] else ""))
    if (origins := row["origins"]) and origins["shut"]:
        count = len(origins["shut"])
        found.append(f"{count} origin{'' if count == 1 else 's'} shut")
    if row["breaker"] != "closed":
        left = row["probe_at"] - now
        since = f" for {ago(now - row['opened_at'])}" if row["opened_at"] else ""
        found.append(f"breaker {row['breaker']}{since}, next probe {f'in {ago(left)}' if left > 0 else 'due'}")
    return "; ".join(found) or "open for traffic"


list_sinks = list_command(
    LIST_SINKS,
    {
        "sink": "name",
        "type": "type",
        "state": lambda row: _state(row, now=time.time()),
        "deliveries": lambda row: output.show_counts(row["deliveries"] or {}),
        "why": _why,
    },
    "the config has no sinks",
    doc="""List the sinks with their breakers and the counts of their deliveries; callers' own webhooks as callback.

        Deliveries that are done are not counted. A sink that is not in the config any more is listed as long as it has
        deliveries that nobody would send.
        """,
)
app.command("list")(list_sinks)


@app.command()
@with_client
def pause(client: Client, name: Name) -> None:
    """Send nothing more to a sink; its deliveries wait."""
    client.tell = True
    client.call(PAUSE_SINK, PAUSE_SINK.validated({"sink": name}))
    output.out().print(f"{name} is paused; runhook sink resume {name} lets its deliveries go on")


@app.command()
@with_client
def resume(client: Client, name: Name) -> None:
    """Let a paused sink go on. If its breaker is open, it is probed at once. The clock wakes it within a second."""
    client.tell = True
    told = client.call(RESUME_SINK, RESUME_SINK.validated({"sink": name}))
    output.out().print(f"{name} goes on" if told.was_paused else f"{name} was not paused")
    if told.probed:
        own = told.sink.breaker != "closed"
        shut = told.sink.origins.shut if told.sink.origins else []
        reason = told.sink.reason if own or not shut else shut[0].reason
        what = "its breaker is" if own else f"the breakers of {told.probed} origins are"
        output.out().print(
            f"{what} still open ({output.clean(reason, 200)}): one delivery is tried now, and closes it when "
            "it is taken; the others wait until then"
        )


@app.command()
@with_client
def move(
    client: Client,
    old: Annotated[str, typer.Argument(metavar="OLD", help="The sink that is not in the config any more.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="The sink that gets its deliveries.")],
    delivered: Annotated[
        bool,
        typer.Option("--delivered", help="Also what OLD has delivered: NEW is the same sink, and is not told again."),
    ] = False,
    undo: Annotated[
        bool, typer.Option("--undo", help="Give back what NEW got from OLD and has not delivered.")
    ] = False,
    yes: Yes = False,
) -> None:
    """Give the deliveries of a sink that was removed or renamed to another one, under the same idempotency keys.

    What waits is due at once; dead letters and cancelled ones stay so, and `runhook replay` takes them. What NEW has a
    delivery of already is left.
    """
    client.tell = True
    giver, taker = (new, old) if undo else (old, new)
    wanted = MOVE_SINK.validated({"sink": old, "into": new, "delivered": delivered, "undo": undo})
    try:
        total = client.call(MOVE_SINK, wanted.model_copy(update={"dry_run": True})).count
    except Invalid as problem:
        raise UsageError(output.clean(problem.message)) from None
    confirm(total, f"Move the deliveries of {giver} to {taker}?", yes=yes)
    moved, left = 0, 0
    after: str | None = ""
    with ProgressLine("deliveries", total) as progress:
        while after is not None:
            told = client.call(MOVE_SINK, wanted.model_copy(update={"after": after}))
            moved, left, after = moved + told.count, left + told.left, told.next
            progress.show(moved + left)
    output.out().print(f"now with {taker}: {counted(moved, 'delivery', 'deliveries')} of {giver}")
    if left:
        output.out().print(
            f"left: {left}, for {taker} has deliveries of the same events; `runhook cancel --sink {giver}` ends them"
        )
    if not undo:
        output.out().print(f"`runhook sink move {old} {new} --undo` gives back what {new} has not delivered by then")


@app.command("test")
@with_client
def send_sample(client: Client, name: Name) -> None:
    """Send one marked sample to a sink, now and from here, or from the remote service, and show its receipt."""
    if not isinstance(client, LocalClient):
        told = client.call(TEST_SINK, TEST_SINK.validated({"sink": name}))
        if told.outcome != "accepted":
            raise RunhookError(f"{name}: {told.outcome}: {output.clean(told.reason)}")
        _print_receipt(name, told.id, told.keys, told.note)
        return
    config, data = client.config, client.data
    settings, loaded = load_config(config, data)
    require_live_sink(loaded, name, data)
    sys.stderr.write(f"runhook: config: {settings.config.absolute()}; data directory: {settings.data.absolute()}\n")
    try:
        actions.require_testable(loaded, name)
    except Invalid as problem:
        raise UsageError(problem.message) from None
    with audited_here(settings, actions.TEST, {"sink": name}) as done:
        try:
            receipt = actions.send_sample(loaded, settings.skyvern_base_url, name)
        except SinkError as error:
            answer = next((text for kind, text in _ANSWERS if isinstance(error, kind)), "not taken")
            raise RunhookError(f"{name}: {answer}: {error}") from None
        done.count = 1
    _print_receipt(name, receipt.id, receipt.keys, receipt.note)


def _print_receipt(name: str, receipt_id: str, keys: Iterable[str], note: str) -> None:
    output.out().print(f"{name}: accepted: {output.clean(receipt_id)}")
    for line in [*keys, *([note] if note else [])]:
        output.out().print(f"  {output.clean(line)}")


@app.command()
@here_only
def columns(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The sink's name. Default: all database sinks.")] = "",
    apply: Annotated[bool, typer.Option("--apply", help="Add them. Without it, only the SQL is shown.")] = False,
    config: ConfigFile = None,
    data: DataDirectory = None,
    as_json: Json = False,
) -> None:
    """Show the SQL that gives a database sink's table the columns that it lacks, and run it with --apply.

    A table that exists gets the columns of a new release in no other way. Rows are written without them until then.
    """
    settings, loaded = load_config(config, data)
    databases = [each for each, sink in loaded.sinks.items() if sink.type == "database"]
    if name:
        require_sink(loaded, name)
        if name not in databases:
            raise UsageError(f"{name} is no database sink; those here are {', '.join(databases) or 'none'}")
    elif apply and len(databases) != 1:
        raise UsageError(f"--apply needs the name of one sink; those here are {', '.join(databases) or 'none'}")
    found = [_columns_of(loaded, settings.skyvern_base_url, each, apply) for each in ([name] if name else databases)]
    if as_json:
        output.print_json(found)
    else:
        for each in found:
            _print_columns(each)
    if any(each["error"] for each in found):
        raise typer.Exit(RunhookError.exit_code)


def _columns_of(config: Config, default_base: str, name: str, apply: bool) -> dict[str, Any]:
    """Return the statements that the tables of a sink lack, those that were run, and why not, or ""."""
    from handlers import SinkError, registry
    from handlers.database import DatabaseSink
    from receiver.delivery.sink_services import SourceServices

    chosen = config.sinks[name]
    sink = registry.build(name, chosen.type, chosen.options, SourceServices(config, default_base))
    assert isinstance(sink, DatabaseSink)
    found: dict[str, Any] = {"sink": name, "missing": [], "applied": [], "error": ""}
    try:
        found["missing"] = sink.missing_columns()
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
        lines = statement.expandtabs(4).splitlines()  # a table is made again by a statement of many
        output.out().print("\n".join(map(output.clean, lines)) + ";")
    if found["error"]:
        whose = "; the table's owner can run the statements above" if missing else ""
        output.out().print(f"{name}: {output.clean(found['error'])}{whose}")
    elif applied:
        output.out().print(
            f"{name}: done; workers that run use them within a minute, and a replay fills them in older rows"
        )
    elif missing:
        output.out().print(f"{name}: nothing was changed; `runhook sink columns {name} --apply` does this")
    else:
        output.out().print(f"{name}: nothing is missing")
