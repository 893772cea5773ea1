"""What a filter names must exist: a list that is empty because of a typing mistake must not look like one that is empty
because all is well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from receiver.domain.attention import ACTIVE
from receiver.domain.run import FINAL
from receiver.errors import Invalid, NotFound, RunhookError, suggest
from receiver.ledger import Connection, names
from receiver.ledger.filters import Filter

if TYPE_CHECKING:
    from receiver.config.models import Config

_LONGEST: Final = 60  # characters of a name that a message repeats
_MOST: Final = 30  # names that a message lists

# By the beginning of an id: what it is the id of.
_KINDS: Final = {"evt_": "event", "dlv_": "delivery", "sub_": "submission", "op_": "operation"}
# Why there may be nothing, although somebody has the id.
_WHY: Final = {
    "run": "no webhook of it is recorded. One that was refused is in the quarantine; what is older than "
    "retention.events has been removed",
    "event": "what is older than retention.events has been removed",
    "delivery": "what is older than retention.events has been removed",
}


def none_such(kind: str, identifier: str) -> NotFound:
    """Return the error for a thing that there is not, with where to look. `kind`: what it would be, such as "run"."""
    other = next((each for prefix, each in _KINDS.items() if identifier.startswith(prefix)), kind)
    article = "an" if other[0] in "aeiou" else "a"
    why = _WHY.get(kind, "") if other == kind else f"it is the id of {article} {other}"
    return NotFound(f"{kind} {identifier}: there is none" + (f"; {why}" if why else ""))


def check_names(config: Callable[[], Config], connection: Connection, wanted: Filter, *, empty: bool) -> None:
    """Raise Invalid for a name in the filter that neither the ledger nor the config knows, with what would be right.

    Only for one who may see all sources, for it tells what there is. `config`: returns it, or raises what reading it
    raises. `empty`: nothing was found; only then all names are looked up.
    """
    for status in wanted.status:
        if status not in FINAL and status not in ACTIVE and not names.has_status(connection, status):
            known = [*sorted(FINAL), *ACTIVE, *names.statuses(connection)]
            raise unknown("status", status, "no run ended so", known)
    if not empty:
        return
    if wanted.source:
        ours = _configured(config, "sources")
        if wanted.source not in ours and not names.has_source(connection, wanted.source):
            raise unknown("source", wanted.source, "there is no such source", [*ours, *names.sources(connection)])
    if wanted.sink:
        ours = _configured(config, "destinations")
        if wanted.sink not in ours and not names.has_sink(connection, wanted.sink):
            raise unknown("sink", wanted.sink, "there is no such sink", [*ours, *names.sinks(connection)])
    if wanted.run_id and not names.has_run(connection, wanted.run_id):
        raise no_run(connection, wanted.run_id)
    if wanted.event_id and not names.has_event(connection, wanted.event_id):
        raise no_such("event_id", wanted.event_id, "event")


def no_such(name: str, value: str, what: str = "") -> Invalid:
    """Return the error for an id that nothing has. `name`: of the parameter; `what`: of the thing, where it differs."""
    return _wrong(name, value, f"there is no such {what or name}")


def no_run(connection: Connection, run_id: str, name: str = "run") -> Invalid:
    """Return the error for a run that there is not, with one that may be meant. `name`: of the parameter."""
    guess = names.run_beginning(connection, run_id) or suggest(run_id, names.recent_runs(connection), cutoff=0.8)
    return _wrong(name, run_id, "there is no such run" + (f"; did you mean {guess}?" if guess else ""))


def check_id(connection: Connection, name: str, identifier: str) -> None:
    """Raise Invalid when the ledger has no delivery, event or run of this id. `name`: of the parameter."""
    if identifier.startswith("dlv_"):
        if not names.has_delivery(connection, identifier):
            raise no_such(name, identifier, "delivery")
    elif identifier.startswith("evt_"):
        if not names.has_event(connection, identifier):
            raise no_such(name, identifier, "event")
    elif not names.has_run(connection, identifier):
        raise no_run(connection, identifier, name)


def _configured(config: Callable[[], Config], members: str) -> list[str]:
    """Return the names that the config has. One that can't be read has none."""
    try:
        return list(getattr(config(), members))
    except (RunhookError, OSError):
        return []


def unknown(name: str, value: str, problem: str, known: Sequence[str]) -> Invalid:
    """Return the error for a name of which there is nothing: with the one of `known` that may be meant, or all."""
    guess = suggest(value, known)
    listed = ", ".join(each[:_LONGEST] for each in list(dict.fromkeys(known))[:_MOST])
    hint = f"did you mean {guess}?" if guess else f"there are {listed}" if listed else "there are none yet"
    return _wrong(name, value, f"{problem}; {hint}")


def _wrong(name: str, value: str, text: str) -> Invalid:
    message = f"{name}: {value[:_LONGEST]}: {text}"
    return Invalid(message, [{"name": name, "message": message}])
