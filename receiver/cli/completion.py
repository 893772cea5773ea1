"""Values that shells complete: sinks, sources, runs and profiles, and the words of an option.

Names of the ledger come from the API, so that they are completed on a remote service too. An error completes nothing.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr, suppress
from enum import EnumType
from typing import Any, Final, Literal, get_args, get_origin

import typer

Words = Iterable[str | tuple[str, str]]

# A word that a shell takes as it is: a name from a payload must not act on the command line.
_HARMLESS: Final = re.compile(r"[A-Za-z0-9._@%+,/:][A-Za-z0-9._@%+,/:-]*")
_NEWEST: Final = 100
# The options that select a client.
WHERE: Final = ("url", "key", "profile", "config", "data")


def completer(name: str, field: Any = None) -> Any:
    """Return the function that completes a parameter of this name, or None. `field`: its member in the API's model."""
    (kind, *_) = get_args(getattr(field, "annotation", None)) or (None,)
    if isinstance(kind, EnumType):
        members: Iterable[Any] = kind
        words = [str(each.value) for each in members]
    elif get_origin(kind) is Literal:
        words = list(get_args(kind))
    elif name == "status":
        from receiver.domain.attention import ACTIVE
        from receiver.domain.run import FINAL

        words = [*sorted(FINAL), *ACTIVE]
    else:
        lookup = _LOOKUPS.get(name)
        return None if lookup is None else _completion(lookup)
    return lambda incomplete: [each for each in words if each.startswith(incomplete)]


def _completion(lookup: Callable[[Any, str], Words]) -> Callable[[typer.Context, str], list[tuple[str, str]]]:
    def complete(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        with suppress(Exception), redirect_stderr(io.StringIO()):
            from receiver.cli.client import open_client

            with open_client(**{name: ctx.params.get(name) for name in WHERE}) as client:
                for word in lookup(client, incomplete):
                    text, note = word if isinstance(word, tuple) else (word, "")
                    if text.startswith(incomplete) and _HARMLESS.fullmatch(text):
                        found.append((text, note if note.isprintable() else ""))
        return found

    return complete


def _runs(client: Any, incomplete: str) -> Words:
    from receiver.api.runs import LIST_RUNS

    asked = LIST_RUNS.validated({"run_prefix": incomplete, "limit": _NEWEST})
    return [(each.run_id, each.outcome) for each in client.call(LIST_RUNS, asked).items]


def _sinks(client: Any, _: str) -> Words:
    from receiver.api.sinks import LIST_SINKS

    return [(each.name, each.type or "") for each in client.call(LIST_SINKS, LIST_SINKS.validated({})).items]


def _sources(client: Any, _: str) -> Words:
    from receiver.config.loader import load_without_secrets

    return list(load_without_secrets(client.settings.config, client.settings.environ).sources)


_LOOKUPS: Final = {"run": _runs, "sink": _sinks, "into": _sinks, "source": _sources}


def profile_names(incomplete: str) -> list[str]:
    """Return the profiles that begin with `incomplete`."""
    from receiver.cli.profiles import read_profiles

    with suppress(Exception):
        return [each for each in sorted(read_profiles()) if each.startswith(incomplete) and _HARMLESS.fullmatch(each)]
    return []
