"""`runhook sink list|pause|resume|test`: the destinations, and whether anything goes to them now."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from receiver.cli import _output
from receiver.cli.lists import Data, Json, ask, tell
from receiver.config import Config, load
from receiver.errors import RunhookError, UsageError
from receiver.ledger import Connection, lanes, queries
from receiver.settings import Settings

app = typer.Typer(help="List, pause, resume and test sinks.", no_args_is_help=True)

ConfigFile = Annotated[Path | None, typer.Option("--config", help="The config file (RUNHOOK_CONFIG).")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The sink's name.")]


def require_sink(config: Config, name: str) -> None:
    """Raise UsageError when the config has no sink `name`."""
    if name not in config.destinations:
        raise UsageError(f"no sink is called {name}; the config has {', '.join(config.destinations) or 'none'}")


def load_config(config: Path | None, data: Path | None) -> tuple[Settings, Config]:
    """The settings and the config that the options name. Raises ConfigError."""
    settings = Settings.from_env(config=config, data=data)
    return settings, load(settings.config, settings.environ)


@app.command("list")
def list_sinks(config: ConfigFile = None, data: Data = None, as_json: Json = False) -> None:
    """List the sinks with their breakers and the counts of their deliveries."""
    _, loaded = load_config(config, data)

    def question(connection: Connection) -> tuple[list[dict[str, object]], dict[str, dict[str, int]]]:
        gates = {lane.lane: lane for lane in lanes.every(connection)}
        counts: dict[str, dict[str, int]] = {}
        for row in queries.counts(connection):
            counts.setdefault(row["sink"], {})[row["state"]] = row["count"]
        found: list[dict[str, object]] = []
        for name, sink in loaded.sinks.items():
            gate = gates.get(name)
            found.append(
                {
                    "name": name,
                    "type": sink.type,
                    "paused": bool(gate and gate.paused),
                    "breaker": gate.breaker if gate else "closed",
                    "reason": gate.reason if gate else "",
                    "deliveries": counts.get(name, {}),
                }
            )
        return found, counts

    found, counts = ask(data, question)
    if as_json:
        _output.print_json(found)
        return
    _output.print_table(
        "",
        ["sink", "type", "state", "deliveries", "why"],
        [
            (
                row["name"],
                row["type"],
                "paused" if row["paused"] else {"closed": "open for traffic"}.get(str(row["breaker"]), "breaker open"),
                ", ".join(f"{count} {state}" for state, count in sorted(counts.get(str(row["name"]), {}).items())),
                row["reason"],
            )
            for row in found
        ],
        "the config has no sinks",
    )


@app.command()
def pause(name: Name, config: ConfigFile = None, data: Data = None) -> None:
    """Send nothing more to a sink; its deliveries wait."""
    require_sink(load_config(config, data)[1], name)
    tell(data, lambda connection: lanes.set_paused(connection, name, True, time.time()))
    _output.out().print(f"{name} is paused; runhook sink resume {name} lets its deliveries go on")


@app.command()
def resume(name: Name, config: ConfigFile = None, data: Data = None) -> None:
    """Let a paused sink go on. The clock wakes it within a second."""
    require_sink(load_config(config, data)[1], name)
    tell(data, lambda connection: lanes.set_paused(connection, name, False, time.time()))
    _output.out().print(f"{name} goes on")


@app.command("test")
def send_sample(name: Name, config: ConfigFile = None, data: Data = None) -> None:
    """Send one marked sample to a sink, now and from here, and show its receipt."""
    from handlers import SinkError, registry
    from receiver.parcel import sample_delivery
    from receiver.services import SourceServices

    settings, loaded = load_config(config, data)
    require_sink(loaded, name)
    chosen = loaded.sinks[name]
    sink = registry.build(name, chosen.type, chosen.options, SourceServices(loaded, settings.skyvern_base_url))
    try:
        receipt = sink.send(sample_delivery(name, next(iter(loaded.sources)), time.time()))
    except SinkError as error:
        raise RunhookError(f"{name}: {type(error).__name__.lower()}: {error}") from None
    finally:
        sink.close()
    _output.out().print(f"{name}: accepted: {_output.clean(receipt.id)}")
    for key in receipt.keys:
        _output.out().print(f"  {_output.clean(key)}")
    if receipt.note:
        _output.out().print(f"  {_output.clean(receipt.note)}")
