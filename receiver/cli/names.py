"""What commands name must exist: ids have their form, sinks and sources are in the config.

What the filter of a call names is checked by the call: see receiver/api/names.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from receiver.api.names import unknown
from receiver.cli.api_options import named_options
from receiver.cli.ledger_access import read_ledger
from receiver.cli.output import clean
from receiver.domain.callback import CALLBACK
from receiver.errors import ConfigError, Invalid, RunhookError, UsageError
from receiver.ledger import names
from receiver.ledger.filters import id_trouble

if TYPE_CHECKING:
    from receiver.config.models import Config
    from receiver.config.settings import Settings
    from receiver.reconcile.source import PolledSource

_LONGEST = 60  # characters of a name that a message repeats


def check_form(identifier: str) -> None:
    """Raise UsageError for what is no id, or one that is cut too short."""
    if trouble := id_trouble(identifier):
        shown = clean(identifier, _LONGEST)
        raise UsageError(f"{shown}: {trouble}" if shown.strip() else trouble)


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
    from receiver.api import sinks  # not needed by lists

    left = False
    with suppress(RunhookError):
        left = read_ledger(data, partial(names.has_sink, name=name), tell=False)
    if left:
        raise UsageError(f"{option}{' ' if option else ''}{clean(sinks.sink_gone(name).message)}")
    require_sink(config, name)


def chosen_sources(
    found: Sequence[PolledSource], name: str | None, config: Config, settings: Settings
) -> list[PolledSource]:
    """Return the sources that Skyvern can be asked for: the one called `name`, or all.

    Raises UsageError for a name that the config has not, ConfigError when none can be asked.
    """
    if name is not None and name not in config.sources:
        with named_options({}):
            raise unknown("source", name, "there is no such source", list(config.sources))
    chosen = [each for each in found if name in (None, each.name)]
    if not chosen:
        from receiver.config.advice import missing_api_key  # lists need nothing of the config

        raise ConfigError(missing_api_key(settings, config, name or next(iter(config.sources))))
    return chosen
