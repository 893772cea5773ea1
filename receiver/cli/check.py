"""`runhook check`, `schema` and `config show`: the config file, where bodies would go, and the values in force."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from receiver.checks.config import warnings
from receiver.cli.options import ConfigFile, DataDirectory, Json, new_app, parse_pairs
from receiver.cli.output import clean, print_json, print_table
from receiver.config.loader import Loaded, load_file
from receiver.config.settings import OTHER_VARIABLES, Settings, show_value
from receiver.config.variables import DEFAULT
from receiver.domain.database_url import check_database_url
from receiver.errors import ConfigError, UsageError
from receiver.routing.mapping import show as show_rule
from receiver.routing.route import RouteConfig

# The variable that `runhook dev` creates if it is not set.
_KEY: Final = "SKYVERN_API_KEY"

config_app = new_app()


def check(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE", help="Config file. Default: RUNHOOK_CONFIG, else runhook.yaml, else config/runhook.yaml."
        ),
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against",
            metavar="BODY.json ...",
            help="Show which routes match a webhook's body: files, - for standard input, or samples by name.",
        ),
    ] = None,
    source: Annotated[
        str, typer.Option("--source", metavar="NAME", help="Source of the bodies. Default: the first one.")
    ] = "",
    label: Annotated[
        list[str] | None, typer.Option("--label", metavar="NAME=VALUE", help="Label of their submission; repeatable.")
    ] = None,
    allow_unset: Annotated[
        bool, typer.Option("--allow-unset", help="Allow unset variables, as in CI; check the rest.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if there are warnings.")] = False,
    config: ConfigFile = None,
    data: DataDirectory = None,
    as_json: Json = False,
) -> None:
    """Check the config file, and show where webhook bodies would go, each as the first event of its run.

    Exits with 2 if the file is invalid, with one line for each problem.
    """
    file, bodies = _split_paths(paths or [], against or [])
    if file and config:
        raise UsageError(f"{file} and --config {config} are mutually exclusive")
    settings = Settings.from_env(config=file or config, data=data)
    try:
        check_database_url(settings.database_url)
        loaded = load_file(settings.config, settings.environ, allow_unset=None if allow_unset else [_KEY])
    except ConfigError as error:
        if not as_json:
            raise
        print_json({"ok": False, "file": str(settings.config), "problems": list(error.problems)})
        raise typer.Exit(error.exit_code) from None
    if loaded.unset and not allow_unset:
        loaded.warnings.append(
            f"{_KEY} is not set: `runhook dev` creates one for this machine, and other processes do not start. "
            "For real results, set it in .env or in the environment"
        )
    if settings.public_url or not allow_unset:  # all of them are about PUBLIC_URL
        loaded.warnings.extend(warnings(settings, loaded.config))
    labels = parse_pairs("--label ", label)
    sources = loaded.config.sources
    if source and source not in sources:
        raise UsageError(f"--source {source}: not found; {settings.config} has {', '.join(sources)}")
    trials = [_explain(loaded, name, source or next(iter(sources)), labels) for name in bodies]
    ok = not (strict and loaded.warnings)
    if as_json:
        unset, file_name = sorted(loaded.unset), str(loaded.document.path)
        print_json({"ok": ok, "file": file_name, "warnings": loaded.warnings, "unset": unset, "against": trials})
    else:
        _print_config(loaded)
        for trial in trials:
            print_trial(trial)
    if not ok:
        raise typer.Exit(1)


def schema(
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write to this file.")] = None,
    docs: Annotated[bool, typer.Option("--docs", help="Print all keys with descriptions, as Markdown.")] = False,
) -> None:
    """Print the JSON Schema of the config file, for completion and validation in editors."""
    from receiver.config.json_schema import json_schema, reference

    text = reference() if docs else json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"
    if output is None:
        sys.stdout.write(text)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--output {output}: cannot be written: {error.strerror}") from None
    typer.echo(f"wrote {output}")


def _split_paths(paths: Sequence[str], against: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Return the config file and the bodies; a shell's * puts more bodies after the first of --against."""
    more = [path for path in paths if against and not path.endswith((".yaml", ".yml"))]
    files = [path for path in paths if path not in more]
    if len(files) > 1:
        raise UsageError(f"{len(files)} config files given: pass one; with --against it ends in .yaml or .yml")
    return (Path(files[0]) if files else None), [*against, *more]


def _print_config(loaded: Loaded) -> None:
    config = loaded.config
    typer.echo(f"{loaded.document.path}: ok\n")
    bases = {name: each.api_base or "SKYVERN_BASE_URL" for name, each in config.sources.items()}
    sources = [
        [name, f"/webhooks/{name}", bases[name] if each.api_key else "not called: no api_key"]
        for name, each in config.sources.items()
    ]
    print_table(["source", "webhooks", "API"], sources, "")
    typer.echo("")
    print_table(["sink", "type"], [[name, each.type] for name, each in config.sinks.items()], "no sinks")
    typer.echo("")
    print_table(["route", "when", "to"], [[each.name, _when(each), _to(each)] for each in config.routes], "no routes")
    if loaded.unset:
        typer.echo(f"\nunset, therefore not checked: {', '.join(sorted(loaded.unset))}")
    for warning in loaded.warnings:
        typer.echo(f"\nwarning: {warning}")


def _when(route: RouteConfig) -> str:
    flags = [flag for flag in ("interim", "updates", "repeats", "superseded", "test") if getattr(route, flag)]
    also = f" (also {', '.join(flags)})" if flags else ""
    if isinstance(route.when, dict):
        return " and ".join(f"{path} is {_value(value)}" for path, value in route.when.items()) + also
    return (" ".join(route.when.split()) if route.when else "always") + also


def _value(value: Any) -> str:
    if isinstance(value, list):
        return " or ".join(show_rule(each) for each in value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _to(route: RouteConfig) -> str:
    return ", ".join(_after(each.sink, each.after) for each in route.targets) + (", then stop" if route.stop else "")


def _after(sink: str, others: Sequence[str]) -> str:
    return sink + (f" (after {', '.join(others)})" if others else "")


def _explain(loaded: Loaded, name: str, source: str, labels: Mapping[str, str]) -> dict[str, Any]:
    from receiver.api.routes import explain

    return {"body": name, **explain(loaded.config, source, _body(name), labels, time.time()).model_dump()}


def _body(name: str) -> bytes:
    from receiver.cli.trigger import sample

    try:
        return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        if (found := sample(name)) is not None:
            return found
        if isinstance(error, FileNotFoundError):
            hint = "`runhook trigger --list` lists samples; for a recorded event or run, use `runhook explain ID`"
            raise UsageError(f"--against {name}: neither a file nor a sample. {hint}") from None
        raise UsageError(f"--against {name}: cannot be read: {error.strerror}") from None


def print_trial(trial: Mapping[str, Any], sink: str = "") -> None:
    """Print what happens to a body. `sink`: the only one whose routes are listed."""
    typer.echo("")
    if trial["problem"]:
        typer.echo(
            f"{trial['body']}: unreadable: {trial['problem']}. Such a body is stored and listed, never routed. "
            "`runhook reconcile --since 1d --import --now` fetches the run's result"
        )
        return
    outcome = trial["outcome"] + (f" (sent as {trial['status']})" if trial["status"] != trial["outcome"] else "")
    what = f"{trial['run_type'] or 'run'} {clean(trial['run_id'])} {clean(outcome)}"
    masked = "; `redact` masks fields" if trial["redacted"] else ""
    first = "" if trial["body"].startswith("evt_") else "as the first event of its run: "
    typer.echo(f"{trial['body']}: {what}; {first}{trial['disposition']}{masked}")
    rows = [[each["route"], "yes" if each["matched"] else "no", each["why"]] for each in trial["routes"]]
    print_table(["route", "match", "why"], rows, "no routes")
    sinks = [_after(each["sink"], each["after"]) for each in trial["deliveries"]]
    nothing = f"→ nothing for {sink}" if sink else "→ unrouted: stored, sent to no sink"
    typer.echo(f"→ {', '.join(sinks)}" if sinks else nothing)


@config_app.callback()
def _config() -> None:
    """Keep `show` a subcommand."""


@config_app.command()
def show(config: ConfigFile = None, data: DataDirectory = None, as_json: Json = False) -> None:
    """Print the config file in force, and each variable with its value and origin. Secrets are masked."""
    settings = Settings.from_env(config=config, data=data)
    values = settings.summary()
    for name in OTHER_VARIABLES:
        values.setdefault(name, show_value(name, settings.environ.text(name)))
    rows = [_variable(settings, name, value) for name, value in values.items()]
    problem = None
    try:
        loaded = load_file(settings.config, settings.environ, allow_unset=None)
        # Variables of the file may hold secrets under any name: only whether they are set is shown.
        names = {name for used in loaded.document.substituted.values() for name in used} - values.keys()
        rows += [_variable(settings, name, "" if name in loaded.unset else "set") for name in sorted(names)]
    except ConfigError as error:
        problem = error
    origin = "ships with Runhook" if settings.packaged_config else _variable(settings, "RUNHOOK_CONFIG", "")["origin"]
    if as_json:
        print_json({"config": str(settings.config), "origin": origin, "variables": rows})
    else:
        typer.echo(f"config: {settings.config} ({origin})\n")
        table = [[row["name"], row["value"] or "not set", row["origin"]] for row in rows]
        print_table(["variable", "value", "origin"], table, "")
    if problem:
        raise problem


def _variable(settings: Settings, name: str, shown: str) -> dict[str, Any]:
    """Return the row of a variable. `shown`: its value for output, or ""."""
    variable = settings.environ.find(name)
    origin = variable.origin if variable and variable.value.strip() else DEFAULT
    return {"name": name, "value": shown or None, "origin": origin}
