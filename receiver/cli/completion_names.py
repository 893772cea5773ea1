"""Names that a shell completes: sinks, sources and runs, of the config and the ledger.

This asks SQLite without SQLAlchemy, whose import alone takes as long as a person at a key waits. What it asks for is
bounded by indexes, and it only reads.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final

# Rows that are looked at, and seconds that a server has.
_NEWEST: Final = 1000
_PATIENCE: Final = 1.0

_STATES: Final = ("held", "queued", "sending", "waiting", "delivered", "dead", "cancelled")
_RUNS: Final = f"SELECT run_id, outcome FROM runs WHERE events > 0 ORDER BY updated_at DESC LIMIT {_NEWEST}"  # noqa: S608
# The newest of each state: to ask for all would read all.
_NEWEST_OF_STATE: Final = (
    "SELECT sink FROM (SELECT sink FROM deliveries WHERE state = '{0}' ORDER BY updated_at DESC LIMIT 200) AS s_{0}"
)
_SINKS: Final = " UNION ".join(map(_NEWEST_OF_STATE.format, _STATES))


def find(kind: str, beginning: str, context: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yield names of this kind with what they are. `context`: values of --config, --data, --url and --profile."""
    with suppress(Exception):  # a config or a ledger that can't be read has no names
        for name, told in _FINDERS[kind](beginning, context):
            if not name.startswith("-"):  # no name may become an option
                yield name, told


def _sinks(_: str, context: dict[str, str]) -> Iterator[tuple[str, str]]:
    seen = set()
    with suppress(Exception):
        for name, options in _configured("sinks", context).items():
            seen.add(name)
            yield name, str(options.get("type", "")) if isinstance(options, dict) else ""
    for (name,) in _rows(_SINKS, context):
        if name not in seen:
            yield name, "in the ledger"


def _sources(_: str, context: dict[str, str]) -> Iterator[tuple[str, str]]:
    for name in _configured("sources", context):
        yield name, ""


def _runs(beginning: str, context: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the newest runs, the newest first."""
    for run_id, outcome in _rows(_RUNS, context):
        if run_id.startswith(beginning):
            yield run_id, outcome


def _profiles(_: str, __: dict[str, str]) -> Iterator[tuple[str, str]]:
    from receiver.cli.profiles import profile_names

    for name in profile_names():
        yield name, ""


_FINDERS: Final[dict[str, Callable[[str, dict[str, str]], Iterator[tuple[str, str]]]]] = {
    "sinks": _sinks,
    "sources": _sources,
    "runs": _runs,
    "profiles": _profiles,
}


def _settings(context: dict[str, str]) -> Any:
    from receiver.config.settings import Settings

    return Settings.from_env(config=context.get("config"), data=context.get("data"))


def _configured(what: str, context: dict[str, str]) -> dict[str, Any]:
    """Return what the config file has, right or wrong, without its variables."""
    from receiver.config.yaml_file import read

    found = read(_settings(context).config, {}).value[what]
    return found if isinstance(found, dict) else {}


def _rows(query: str, context: dict[str, str]) -> list[tuple[Any, ...]]:
    """Return what the ledger of this machine answers; nothing where a remote service is meant."""
    from receiver.config.variables import process_variables

    if context.get("url") or context.get("profile") or process_variables().text("RUNHOOK_URL"):
        return []
    url = _settings(context).database_url
    scheme, _, rest = url.partition(":")
    if scheme.startswith("sqlite"):
        path = Path(rest.removeprefix("///").partition("?")[0])
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_PATIENCE)) as connection:
            return connection.execute(query).fetchall()
    import psycopg

    with psycopg.connect(f"postgresql:{rest}", connect_timeout=2) as server:
        server.execute(f"SET statement_timeout = {_PATIENCE * 1000:.0f}")
        return server.execute(query).fetchall()
