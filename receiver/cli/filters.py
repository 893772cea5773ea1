"""What the filters of lists name must exist: a list that is empty because of a typing mistake must not look like one
that is empty because all is well."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from receiver.cli.ledger_access import read_ledger
from receiver.cli.options import Form
from receiver.cli.output import clean
from receiver.config.advice import local_key
from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.domain.attention import ACTIVE
from receiver.domain.callback import CALLBACK
from receiver.domain.run import FINAL
from receiver.errors import ConfigError, Invalid, RunhookError, UsageError, suggest
from receiver.ledger import Connection, names
from receiver.ledger.filters import Filter

if TYPE_CHECKING:
    from receiver.reconcile.source import PolledSource

_ID = re.compile(r"(dlv|evt)_[0-9a-f]{8,32}")
_LONGEST = 60  # characters of a name that a message repeats


def check_filter(connection: Connection, wanted: Filter, data: Path | None, *, empty: bool) -> None:
    """Raise UsageError for a name in the filter that neither the ledger nor the config knows, with what would be right.

    `data`: the data directory, if one was named. `empty`: nothing was found; only then are ids looked up.
    """
    for status in wanted.status:
        if status not in FINAL and status not in ACTIVE and not names.has_status(connection, status):
            _unknown("--status", status, "no run ended so", [*sorted(FINAL), *ACTIVE, *names.statuses(connection)])
    if not empty:
        return
    if wanted.source and not names.has_source(connection, wanted.source):
        _not_configured("--source", wanted.source, "source", data, lambda: names.sources(connection))
    if wanted.sink and not names.has_sink(connection, wanted.sink):
        _not_configured("--sink", wanted.sink, "sink", data, lambda: names.sinks(connection))
    if wanted.run_id:
        check_id(connection, wanted.run_id, "--run")
    if wanted.event_id:
        check_id(connection, wanted.event_id, "--event")


def find_rows(
    data: Path | None,
    wanted: Filter,
    query: Callable[[Connection, Filter], list[dict[str, Any]]],
    *,
    form: Form,
) -> list[dict[str, Any]]:
    """Return the rows of a list. Raises UsageError for a filter that names what is not there, and NotStarted."""

    def read(connection: Connection) -> list[dict[str, Any]]:
        rows = query(connection, wanted)
        check_filter(connection, wanted, data, empty=not rows)
        return rows

    return read_ledger(data, read, tell=form is Form.TABLE)


def check_form(identifier: str) -> None:
    """Raise UsageError for an id cut shorter than tables cut it: one letter would mean all of them."""
    if not identifier.strip():
        raise UsageError("an id is empty")
    if identifier.startswith(("dlv_", "evt_")) and not _ID.fullmatch(identifier):
        raise UsageError(f"{clean(identifier, _LONGEST)}: an id has 8 to 32 hex digits after {identifier[:4]}")


def check_id(connection: Connection, identifier: str, option: str = "") -> None:
    """Raise UsageError when the ledger has no delivery, event or run of this id. `option`: where it was written."""
    before = f"{option} " if option else ""
    said = f"{before}{clean(identifier, _LONGEST)}"
    if identifier.startswith("dlv_"):
        if not names.has_delivery(connection, identifier):
            raise UsageError(f"{said}: there is no such delivery; `runhook deliveries --json` shows their ids")
    elif identifier.startswith("evt_"):
        if not names.has_event(connection, identifier):
            raise UsageError(f"{said}: there is no such event; `runhook events` lists them")
    elif not names.has_run(connection, identifier):
        guess = names.run_beginning(connection, identifier)
        guess = guess or suggest(identifier, names.recent_runs(connection), cutoff=0.8)
        raise UsageError(
            f"{said}: there is no such run"
            + (f"; did you mean {clean(guess)}?" if guess else "; `runhook runs` lists them")
        )


def require_sink(config: Config, name: str) -> None:
    """Raise UsageError when the config has no sink `name`."""
    from receiver.api import sinks  # not needed by lists

    try:
        sinks.require_sink(config, name)
    except Invalid as problem:
        raise UsageError(problem.message) from None


def require_live_sink(config: Config, name: str, data: Path | None, option: str = "") -> None:
    """Raise UsageError when the config has no sink `name`, with what helps when it had one that deliveries go to.

    `option`: where the name was written. The ledger need not be there.
    """
    if name in config.destinations or name == CALLBACK:
        require_sink(config, name)
        return
    left = False
    with suppress(RunhookError):
        left = read_ledger(data, partial(names.has_sink, name=name), tell=False)
    if left:
        shown = clean(name, 60)
        raise UsageError(
            f"{option}{' ' if option else ''}{shown}: it is not in the config any more, so nobody would send to it; "
            f"`runhook sink move {shown} NAME` gives its deliveries to another one, `runhook cancel --sink {shown}` "
            "ends those that wait"
        )
    require_sink(config, name)


def _not_configured(option: str, name: str, what: str, data: Path | None, known: Callable[[], list[str]]) -> None:
    """Raise UsageError unless the config, which need not be there, has `name`."""
    configured = _configured(what, data)
    if name not in configured:
        _unknown(option, name, f"there is no such {what}", [*configured, *known()])


def _configured(what: str, data: Path | None) -> list[str]:
    from receiver.cli.options import load_config

    try:
        _, config = load_config(None, data)
    except (RunhookError, OSError):
        return []
    return config.destinations if what == "sink" else list(config.sources)


def _unknown(option: str, name: str, problem: str, known: Sequence[str]) -> None:
    guess = suggest(name, known)
    listed = ", ".join(clean(each, _LONGEST) for each in dict.fromkeys(known))
    hint = f"did you mean {clean(guess)}?" if guess else f"there are {listed}" if listed else "there are none yet"
    raise UsageError(f"{option} {clean(name, _LONGEST)}: {problem}; {hint}")


def chosen_sources(
    found: Sequence[PolledSource], name: str | None, config: Config, settings: Settings
) -> list[PolledSource]:
    """Return the sources that Skyvern can be asked for: the one called `name`, or all.

    Raises UsageError for a name that the config has not, ConfigError when none can be asked.
    """
    if name is not None and name not in config.sources:
        _unknown("--source", name, "there is no such source", list(config.sources))
    chosen = [each for each in found if name in (None, each.name)]
    if not chosen:
        raise ConfigError(
            local_key(settings) or f"{settings.config}: no api_key of {name or 'any source'}, so Skyvern can't be asked"
        )
    return chosen
