"""`runhook sink list|pause|resume|test`: the destinations, and whether anything goes to them now."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from handlers import Delivery
from receiver.cli import output
from receiver.cli.list import Data, Json, ask, tell
from receiver.config.loader import load
from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.domain.breaker import Lane
from receiver.domain.callback import CALLBACK
from receiver.domain.event import delivery_id, event_id
from receiver.domain.run import parse
from receiver.errors import RunhookError, UsageError
from receiver.ledger import Connection, queries
from receiver.ledger.deliveries import lanes
from receiver.skyvern import samples

SHOWN: Final = 3
"""Shut origins whose reason the table has room for; --json tells all."""

app = typer.Typer(help="List, pause, resume and test sinks.", no_args_is_help=True)

ConfigFile = Annotated[Path | None, typer.Option("--config", help="The config file (RUNHOOK_CONFIG).")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The sink's name.")]


def require_sink(config: Config, name: str) -> None:
    """Raise UsageError when the config has no sink `name`."""
    if name == CALLBACK and name not in config.destinations:
        raise UsageError(f"{name} serves the webhooks of those who submit runs here; no source has an api_key to do so")
    if name not in config.destinations:
        raise UsageError(f"no sink is called {name}; the config has {', '.join(config.destinations) or 'none'}")


def load_config(config: Path | None, data: Path | None) -> tuple[Settings, Config]:
    """The settings and the config that the options name. Raises ConfigError."""
    settings = Settings.from_env(config=config, data=data)
    return settings, load(settings.config, settings.environ)


@app.command("list")
def list_sinks(config: ConfigFile = None, data: Data = None, as_json: Json = False) -> None:
    """List the sinks with their breakers and the counts of their deliveries; callers' own webhooks as callback."""
    _, loaded = load_config(config, data)
    types = {name: sink.type for name, sink in loaded.sinks.items()}
    types |= {name: "callers' webhooks" for name in loaded.destinations if name not in types}

    def question(connection: Connection) -> list[dict[str, Any]]:
        gates = {lane.lane: lane for lane in lanes.every(connection)}
        counts: dict[str, dict[str, int]] = {}
        for row in queries.counts(connection):
            counts.setdefault(row["sink"], {})[row["state"]] = row["count"]
        found: list[dict[str, Any]] = []
        for name, kind in types.items():
            gate = gates.get(name)
            row = {
                "name": name,
                "type": kind,
                "paused": bool(gate and gate.paused),
                "breaker": gate.breaker if gate else "closed",
                "reason": gate.reason if gate else "",
                "deliveries": counts.get(name, {}),
            }
            if name == CALLBACK:
                row["origins"] = _origins(queries.lanes_of(connection, name), gates)
            found.append(row)
        return found

    found = ask(data, question)
    if as_json:
        output.print_json(found)
        return
    output.print_table(
        "",
        ["sink", "type", "state", "deliveries", "why"],
        [
            (
                row["name"],
                row["type"],
                _state(row),
                ", ".join(f"{count} {state}" for state, count in sorted(row["deliveries"].items())),
                _why(row),
            )
            for row in found
        ],
        "the config has no sinks",
    )


def _origins(open_ones: Mapping[str, int], gates: Mapping[str, Lane]) -> dict[str, Any]:
    """The addresses that callers' webhooks go to: how many there are, and those that are shut, the fullest first."""
    shut = [gate for gate in gates.values() if gate.sink == CALLBACK != gate.lane and gate.breaker != "closed"]
    return {
        "known": len({*open_ones, *(gate.lane for gate in shut)}),
        "shut": [
            {
                "origin": gate.lane.removeprefix(f"{CALLBACK} "),
                "breaker": gate.breaker,
                "until": output.iso(gate.until),
                "reason": gate.reason,
                "waiting": open_ones.get(gate.lane, 0),
            }
            for gate in sorted(shut, key=lambda gate: (-open_ones.get(gate.lane, 0), gate.lane))
        ],
    }


def _why(row: Mapping[str, Any]) -> str:
    shut = row.get("origins", {}).get("shut", [])
    more = [f"and {len(shut) - SHOWN} more"] if len(shut) > SHOWN else []
    return "; ".join([*(f"{each['origin']}: {each['reason']}" for each in shut[:SHOWN]), *more]) or str(row["reason"])


def _state(row: Mapping[str, Any]) -> str:
    if row["paused"]:
        return "paused"
    if (origins := row.get("origins")) and origins["shut"]:
        return f"{len(origins['shut'])} of {origins['known']} origins shut"
    return {"closed": "open for traffic"}.get(str(row["breaker"]), "breaker open")


@app.command()
def pause(name: Name, config: ConfigFile = None, data: Data = None) -> None:
    """Send nothing more to a sink; its deliveries wait."""
    require_sink(load_config(config, data)[1], name)
    tell(data, lambda connection: lanes.set_paused(connection, name, True, time.time()))
    output.out().print(f"{name} is paused; runhook sink resume {name} lets its deliveries go on")


@app.command()
def resume(name: Name, config: ConfigFile = None, data: Data = None) -> None:
    """Let a paused sink go on. The clock wakes it within a second."""
    require_sink(load_config(config, data)[1], name)
    tell(data, lambda connection: lanes.set_paused(connection, name, False, time.time()))
    output.out().print(f"{name} goes on")


@app.command("test")
def send_sample(name: Name, config: ConfigFile = None, data: Data = None) -> None:
    """Send one marked sample to a sink, now and from here, and show its receipt."""
    from handlers import SinkError, registry
    from receiver.delivery.sink_services import SourceServices

    settings, loaded = load_config(config, data)
    require_sink(loaded, name)
    if name == CALLBACK:
        raise UsageError(
            f"{name} can't be tested: it has no address of its own, for each delivery goes to the webhook_url that the "
            "run's caller gave; `runhook replay RUN --sink callback --force` sends a real one again"
        )
    chosen = loaded.sinks[name]
    sink = registry.build(name, chosen.type, chosen.options, SourceServices(loaded, settings.skyvern_base_url))
    try:
        receipt = sink.send(sample_delivery(name, next(iter(loaded.sources)), time.time()))
    except SinkError as error:
        raise RunhookError(f"{name}: {type(error).__name__.lower()}: {error}") from None
    finally:
        sink.close()
    output.out().print(f"{name}: accepted: {output.clean(receipt.id)}")
    for key in receipt.keys:
        output.out().print(f"  {output.clean(key)}")
    if receipt.note:
        output.out().print(f"  {output.clean(receipt.note)}")


def sample_delivery(sink: str, source: str, now: float) -> Delivery:
    """A delivery that is marked as a test, of a run that never was."""
    body = samples.build("completed", now=now, run_id=f"tsk_test_{int(now)}")
    run = parse(body)
    return Delivery(
        key=delivery_id(event_id(source, body), sink),
        event_id=event_id(source, body),
        sink=sink,
        attempt=1,
        source=source,
        run_id=run.run_id,
        run_type=run.run_type,
        status=run.outcome,
        received_at=datetime.fromtimestamp(now, UTC),
        body=body,
        run=run.data,
        route="test",
        test=True,
    )
