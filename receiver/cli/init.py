"""`runhook init`: write a first config file, its variables, and the JSON Schema for editors into a folder."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from importlib.metadata import metadata
from pathlib import Path
from typing import Annotated, Final

import typer
from pydantic import ValidationError

from handlers.registry import sink_type
from handlers.support.url import http_parts
from receiver.cli.output import clean
from receiver.config.json_schema import json_schema
from receiver.config.messages import describe
from receiver.config.starter import DESTINATIONS, config_text, dotenv_text, rendered
from receiver.config.variables import process_variables
from receiver.errors import ConfigError, RunhookError, UsageError
from receiver.skyvern.client import SkyvernReader
from receiver.skyvern.responses import Answered, Patience, listed_runs

CLOUD: Final = "https://api.skyvern.com"
CONFIG, DOTENV, SCHEMA = "runhook.yaml", ".env", "runhook.schema.json"
# Seconds for the one call that tries the key.
_LIMIT: Final = 10.0


def init(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Skip the questions; read the environment.")] = False,
    with_: Annotated[
        str,
        typer.Option("--with", metavar="NAMES", help=f"More destinations: {', '.join(DESTINATIONS)}; comma-separated."),
    ] = "",
    skyvern_url: Annotated[
        str, typer.Option("--skyvern-url", metavar="URL", help="Your own Skyvern server (SKYVERN_BASE_URL).")
    ] = "",
    directory: Annotated[
        Path, typer.Option("--directory", exists=True, file_okay=False, help="Write the files there.")
    ] = Path(),
) -> None:
    """Write a first config: runhook.yaml, .env and a JSON Schema for editors. Existing files are never overwritten."""
    chosen = _destinations(with_)
    _refuse_existing(directory)
    if not yes and not sys.stdin.isatty():
        raise UsageError("no terminal to ask on. Use `runhook init --yes`, and --with for more destinations")
    environ = process_variables()
    base = skyvern_url or environ.get("SKYVERN_BASE_URL", "")
    if base and (problem := _url_problem(base)):
        raise UsageError(f"{'--skyvern-url' if skyvern_url else 'SKYVERN_BASE_URL'}: {problem}")
    if yes:
        values = _given(chosen, environ)
    else:
        if not base and typer.confirm("Do you run your own Skyvern server?", default=False):
            base = _ask("URL of its API, such as http://localhost:8000", _url_problem)
        values = {"SKYVERN_API_KEY": _ask_key(base or CLOUD)}
        chosen = chosen or _ask_destinations()
        for name in chosen:
            each = DESTINATIONS[name]
            values[each.variable] = _ask(
                f"{each.question}; Enter to set it later", _value_check(name), hidden=each.hidden
            )
    values["SKYVERN_BASE_URL"] = base
    later = [name for name in chosen if not values.get(DESTINATIONS[name].variable)]
    schema = json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"
    texts = {CONFIG: config_text(chosen, later), DOTENV: dotenv_text(chosen, values), SCHEMA: schema}
    _write(directory, texts)
    facts = {
        "directory": directory,
        "cd": shlex.quote(str(directory)),
        "exposed": _is_exposed(directory),
        "later": later,
        "docs": _documentation(),
    }
    typer.echo(rendered("next.txt.j2", **facts, has_key=bool(values["SKYVERN_API_KEY"])), nl=False)


def _destinations(text: str) -> list[str]:
    """Return the destinations in a list of names or numbers, in the order of the file. Raises UsageError."""
    known = dict(zip(map(str, range(1, len(DESTINATIONS) + 1)), DESTINATIONS, strict=True))
    names = [known.get(word, word) for word in text.lower().replace(",", " ").split()]
    if unknown := sorted(set(names) - set(DESTINATIONS)):
        raise UsageError(f"{clean(unknown[0])}: unknown destination. Use {', '.join(DESTINATIONS)}")
    return [name for name in DESTINATIONS if name in names]


def _given(chosen: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """Return the values that the environment has. Raises UsageError for one of the wrong form."""
    checks: dict[str, Callable[[str], str]] = {"SKYVERN_API_KEY": _text_problem, "PUBLIC_URL": _url_problem}
    checks |= {DESTINATIONS[name].variable: _value_check(name) for name in chosen}
    values = {name: environ.get(name, "").strip() for name in checks}
    for name, value in values.items():
        if value and (problem := checks[name](value)):
            raise UsageError(f"{name}: {problem}")
    return values


# --- Questions


def _ask(question: str, check: Callable[[str], str], *, hidden: bool = False) -> str:
    """Return the answer, or "" for none; ask again while `check` returns what is wrong."""
    while True:
        value = str(typer.prompt(question, default="", show_default=False, hide_input=hidden)).strip()
        problem = check(value) if value else ""
        if not problem:
            return value
        typer.echo(f"  {problem}")


def _ask_key(base: str) -> str:
    """Return an API key that was tried, that the user keeps although it fails, or "" for later."""
    while key := _ask("Skyvern API key (hidden; Enter to set it later)", _text_problem, hidden=True):
        problem = _key_problem(base, key)
        if not problem:
            typer.echo("  Skyvern accepts the key.")
            return key
        typer.echo(f"  {problem}")
        if typer.confirm("Keep this key anyway?", default=False):
            return key
    return ""


def _key_problem(base: str, key: str) -> str:
    """Return why a key can't be used, or "". Makes one cheap call: a page of one run."""
    try:
        with closing(SkyvernReader(base, key, patience=Patience(tries=1, limit=_LIMIT))) as reader:
            answer = reader.list_runs(page_size=1)
    except ConfigError as error:
        return str(error)
    if not isinstance(answer, Answered):
        return f"The key was not tested: {clean(answer.reason)}."
    if answer.status in (401, 403):
        return f"Wrong key: {base} responds {answer.status}. Copy the key from Skyvern's settings."
    if not answer.ok or listed_runs(answer) is None:
        return f"The key was not tested: {base} responds {answer.status}, not with a list of runs."
    return ""


def _ask_destinations() -> list[str]:
    typer.echo("Where should results go? A SQLite table and a folder of files are always on. Add any of these:")
    for number, (name, each) in enumerate(DESTINATIONS.items(), 1):
        typer.echo(f"  {number}  {name:9} {each.what}")

    def check(text: str) -> str:
        try:
            _destinations(text)
        except UsageError as error:
            return str(error)
        return ""

    return _destinations(_ask("Numbers or names; Enter to finish", check))


# --- What is right


def _text_problem(value: str) -> str:
    return "" if value.isprintable() else "must be printable characters on one line"


def _url_problem(value: str) -> str:
    fits = http_parts(value) is not None and value.isprintable()
    return "" if fits else "must be a URL such as https://skyvern.example.com"


def _value_check(name: str) -> Callable[[str], str]:
    """Return what checks the value of a destination, in the words of its sink."""
    each = DESTINATIONS[name]

    def check(value: str) -> str:
        if name == "postgres" and not value.startswith("postgresql"):
            return "must begin with postgresql://"
        options, model = {each.option: value}, sink_type(each.type).Options
        if "table" in model.model_fields:
            options["table"] = "runs"
        try:
            model.model_validate(options)
        except ValidationError as error:
            return "; ".join(text for _, text in describe(error, model, options))
        return _text_problem(value)

    return check


# --- Files


def _refuse_existing(directory: Path) -> None:
    if there := [str(directory / name) for name in (CONFIG, DOTENV, SCHEMA) if os.path.lexists(directory / name)]:
        what, it = ("already exists", "it") if len(there) == 1 else ("already exist", "them")
        raise RunhookError(
            f"{', '.join(there)}: {what}. Nothing was written. Move {it} away, or name another folder with --directory"
        )


def _write(directory: Path, texts: Mapping[str, str]) -> None:
    """Write all files, or none. Raises RunhookError."""
    written: list[Path] = []
    path = directory
    try:
        for name, text in texts.items():
            path = directory / name
            mode = 0o600 if name == DOTENV else 0o666
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
                written.append(path)
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
    except BaseException as error:
        for each in written:
            each.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        _refuse_existing(directory)  # another process has just created it
        raise RunhookError(f"{path}: cannot be written: {error.strerror}. Nothing was written") from None


def _documentation() -> str:
    """Return the URL of the documentation from the package's metadata, or "" if it has none."""
    urls = (line.split(", ", 1) for line in metadata("runhook").get_all("Project-URL") or ())
    return str(dict(urls).get("Documentation", ""))


def _is_exposed(directory: Path) -> bool:
    """Whether git would offer the .env file for a commit. False without git, and outside a repository."""
    command = ["git", "-C", str(directory), "check-ignore", "--quiet", DOTENV]
    try:
        return subprocess.run(command, check=False, capture_output=True).returncode == 1  # noqa: S603
    except OSError:
        return False
