"""`runhook check`: check the config, and show where bodies would go. `runhook schema`: the file's JSON Schema."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import SecretStr, ValidationError

from handlers.support.url import STARS, hide_password
from receiver.cli.options import ConfigFile, DataDirectory, Json, parse_labels
from receiver.cli.output import clean, print_json, print_table
from receiver.config.advice import warnings
from receiver.config.destinations import RouteConfig, SinkConfig
from receiver.config.loader import Loaded, load_file
from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.config.yaml_file import Key
from receiver.errors import ConfigError, UsageError
from receiver.routing.mapping import show


def check(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE",
            help="The config file. Default: that of RUNHOOK_CONFIG, else runhook.yaml, else config/runhook.yaml.",
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
    source: Annotated[str, typer.Option("--source", help="Source of the bodies. Default: the first one.")] = "",
    label: Annotated[
        list[str] | None, typer.Option("--label", metavar="NAME=VALUE", help="Label of their submission; repeatable.")
    ] = None,
    allow_unset: Annotated[
        bool, typer.Option("--allow-unset", help="Allow variables that are not set, as in CI; check the rest.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="End with 1 when there are warnings.")] = False,
    config: ConfigFile = None,
    data: DataDirectory = None,
    as_json: Json = False,
) -> None:
    """Check the config file, and show where bodies would go, each as the first event of its run.

    Ends with 2 when something is wrong, one line for each problem.
    """
    file, bodies = _split_paths(paths or [], against or [])
    if file and config:
        raise UsageError(f"{file} and --config {config}: one of them")
    file = file or config
    settings = Settings.from_env(config=file, data=data)
    try:
        # The one that ships with Runhook needs a key, which `runhook dev` makes.
        loaded = load_file(settings.config, settings.environ, allow_unset=allow_unset or settings.packaged_config)
    except ConfigError as error:
        if not as_json:
            raise
        print_json({"ok": False, "file": str(settings.config), "problems": list(error.problems)})
        raise typer.Exit(error.exit_code) from None
    if settings.public_url or not allow_unset:  # all of them are about PUBLIC_URL
        loaded.warnings.extend(warnings(settings, loaded.config))
    labels = parse_labels(label)
    if source and source not in loaded.config.sources:
        raise UsageError(f"--source {source}: {settings.config} has {', '.join(loaded.config.sources)}")
    trials = [_try(loaded, name, source or next(iter(loaded.config.sources)), labels) for name in bodies]
    failed = strict and bool(loaded.warnings)
    if as_json:
        print_json({"ok": not failed, **_summary(loaded), "against": trials})
    else:
        _print_summary(loaded)
        for trial in trials:
            _print_trial(trial)
    if failed:
        raise typer.Exit(1)


def schema(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file.")] = None,
    docs: Annotated[
        bool,
        typer.Option(
            "--docs", help="The reference in Markdown instead; in an --output that has its marks, between them."
        ),
    ] = False,
) -> None:
    """Print the JSON Schema of the config file, so that editors complete it and mark mistakes."""
    from receiver.config.json_schema import json_schema, put_reference, reference

    text = reference() if docs else json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"
    if output is None:
        sys.stdout.write(text)
        return
    try:
        if docs and output.exists():
            text = put_reference(output.read_text(encoding="utf-8"), text)
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--output {output}: can't be written: {error.strerror}") from None
    typer.echo(f"wrote {output}")


def _split_paths(paths: Sequence[str], against: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Return the config file and the bodies, of which more may follow after --against, as a shell's * gives them."""
    more = [path for path in paths if against and (path.endswith(".json") or _sample(path) is not None)]
    files = [path for path in paths if path not in more]
    if len(files) > 1:
        raise UsageError(f"one config file at a time, not {len(files)}; bodies come after --against and end in .json")
    return (Path(files[0]) if files else None), [*against, *more]


# --- What is configured


def _summary(loaded: Loaded) -> dict[str, Any]:
    config = loaded.config
    return {
        "file": str(loaded.document.path),
        "sources": [
            {
                "name": name,
                "url": f"/webhooks/{name}",
                "secrets": [STARS] * len(each.secrets),
                "api_base": each.api_base,
                "api_key": STARS if each.api_key else None,
            }
            for name, each in config.sources.items()
        ],
        "sinks": [
            {
                "name": name,
                "type": each.type,
                "options": _options(loaded, name, each.options),
                "concurrency": each.concurrency,
                "rate": each.rate,
                "attempts": each.retry.attempts,
            }
            for name, each in config.sinks.items()
        ],
        "routes": [
            {
                "name": route.name,
                "when": route.when,
                "to": [{"sink": target.sink, "after": target.after} for target in route.targets],
                **{
                    flag: True
                    for flag in ("interim", "updates", "repeats", "superseded", "test", "stop")
                    if getattr(route, flag)
                },
            }
            for route in config.routes
        ],
        "warnings": loaded.warnings,
        "unset": sorted(loaded.unset),
    }


def _options(loaded: Loaded, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as the file has them: not what variables hold, and stars for what the handler calls secret."""

    def shown(key: Key, value: Any, *, hidden: bool) -> Any:
        if isinstance(value, dict):
            return {each: shown((*key, each), item, hidden=hidden) for each, item in value.items()}
        if isinstance(value, list):
            return [shown((*key, index), item, hidden=hidden) for index, item in enumerate(value)]
        raw = loaded.document.raw.get(key, "" if hidden else value)
        if hidden:
            if raw.startswith("sqlite:"):  # a place on this machine
                return hide_password(raw)
            return raw if raw.startswith("${") and raw.endswith("}") and ":-" not in raw else STARS
        return hide_password(raw if "${" in raw else value) if isinstance(value, str) else value

    return {
        option: shown(("sinks", name, option), value, hidden=holds_secret(loaded.config, ("sinks", name, option)))
        for option, value in options.items()
    }


def holds_secret(config: Config, key: Key) -> bool:
    """Whether the value at `key` is a secret, or has one anywhere: a validator may have moved things. True in doubt."""
    from handlers.registry import sink_type

    value: Any = config
    part: Any
    try:
        if key[0] == "sinks" and key[2] not in SinkConfig.model_fields:
            sink = config.sinks[str(key[1])]
            value, key = sink_type(sink.type).Options.model_validate(dict(sink.options)), key[2:3]
        for part in key:
            value = value[part] if isinstance(value, Mapping | list | tuple) else getattr(value, str(part))
    except (ValidationError, LookupError, TypeError, AttributeError):
        return True
    return _is_secret(value)


def _is_secret(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_is_secret, value.values()))
    return isinstance(value, SecretStr) or (isinstance(value, list | tuple) and any(map(_is_secret, value)))


def _print_summary(loaded: Loaded) -> None:
    summary = _summary(loaded)
    typer.echo(f"{summary['file']}: ok\n")
    print_table(
        ["source", "posts to", "secrets", "API"],
        [[each["name"], each["url"], " ".join(each["secrets"]), _api(each)] for each in summary["sources"]],
        "",
    )
    typer.echo("")
    print_table(
        ["sink", "type", "options"],
        [
            [each["name"], each["type"], " ".join(f"{key}={_short(value)}" for key, value in each["options"].items())]
            for each in summary["sinks"]
        ],
        "no sinks",
    )
    typer.echo("")
    print_table(
        ["route", "when", "to"],
        [[route.name, _when(route), _to(route)] for route in loaded.config.routes],
        "no routes",
    )
    if loaded.unset:
        typer.echo(f"\nnot set, and so not checked: {', '.join(sorted(loaded.unset))}")
    for warning in loaded.warnings:
        typer.echo(f"\nwarning: {warning}")


def _api(source: Mapping[str, Any]) -> str:
    base = source["api_base"] or "SKYVERN_BASE_URL"
    return f"{base} with {source['api_key']}" if source["api_key"] else "not asked: no api_key"


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _when(route: RouteConfig) -> str:
    sees = [flag for flag in ("interim", "updates", "repeats", "superseded", "test") if getattr(route, flag)]
    also = f" (also {', '.join(sees)})" if sees else ""
    if isinstance(route.when, dict):
        return " and ".join(f"{path} is {_wanted(value)}" for path, value in route.when.items()) + also
    return (" ".join(route.when.split()) if route.when else "always") + also


def _wanted(value: Any) -> str:
    return " or ".join(show(each) for each in value) if isinstance(value, list) else _short(value)


def _to(route: RouteConfig) -> str:
    parts = [each.sink + (f" (after {', '.join(each.after)})" if each.after else "") for each in route.targets]
    return ", ".join(parts) + (", then stop" if route.stop else "")


# --- Where a body would go


def _try(loaded: Loaded, name: str, source: str, labels: Mapping[str, str]) -> dict[str, Any]:
    from receiver.api.explain import explain

    return {"body": name, **explain(loaded.config, source, _body(name), labels, time.time()).model_dump()}


def _body(name: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        if (sample := _sample(name)) is not None:
            return sample
        hint = "; `runhook trigger --list` shows the samples" if isinstance(error, FileNotFoundError) else ""
        raise UsageError(f"--against {name}: can't be read: {error.strerror}{hint}") from None


def _sample(name: str) -> bytes | None:
    from receiver.cli.trigger import sample

    return sample(name)


def _print_trial(trial: Mapping[str, Any]) -> None:
    typer.echo("")
    if trial["problem"]:
        typer.echo(f"{trial['body']}: unreadable: {trial['problem']}. It would be kept and shown, and not routed.")
        return
    outcome = trial["outcome"] + (f" (sent as {trial['status']})" if trial["status"] != trial["outcome"] else "")
    what = f"{trial['run_type'] or 'run'} {clean(trial['run_id'])} {clean(outcome)}"
    masked = "; fields are masked by `redact`" if trial["redacted"] else ""
    typer.echo(f"{trial['body']}: {what}; as the first event of its run: {trial['disposition']}{masked}")
    print_table(
        ["route", "match", "why"],
        [[each["route"], "yes" if each["matched"] else "no", each["why"]] for each in trial["routes"]],
        "no routes",
    )
    going = [
        each["sink"] + (f" (after {', '.join(each['after'])})" if each["after"] else "") for each in trial["deliveries"]
    ]
    typer.echo(f"→ {', '.join(going)}" if going else "→ unrouted: kept, and goes nowhere")
