"""What a filter names must exist: a list that is empty because of a typing mistake must not look like one that is empty
because all is well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from receiver.domain.attention import ACTIVE
from receiver.domain.run import FINAL
from receiver.errors import Invalid, NotFound, RunhookError, suggest
from receiver.ledger import Connection, names
from receiver.ledger.filters import FULL_ID, Filter

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


# Members of a filter that name what the config has: the names there, and whether the ledger still has this one.
_NAMED: Final[Mapping[str, tuple[Callable[[Config], list[str]], Callable[[Connection, str, str], bool]]]] = {
    "source": (lambda config: list(config.sources), names.has_source),
    "sink": (lambda config: list(config.destinations), names.has_sink),
    "route": (lambda config: [each.name for each in config.routes], names.has_route),
}


def none_such(kind: str, identifier: str) -> NotFound:
    """Return the error for a thing that there is not, with where to look. `kind`: what it would be, such as "run"."""
    other = next((each for prefix, each in _KINDS.items() if identifier.startswith(prefix)), kind)
    why = _WHY.get(kind, "") if other == kind else f"it is the id of {_a(other)}"
    return NotFound(f"{kind} {identifier}: there is none" + (f"; {why}" if why else ""))


def check_names(config: Callable[[], Config], connection: Connection, wanted: Filter, *, empty: bool) -> None:
    """Raise Invalid for a name in the filter that is not known, with what would be right.

    Only for one who may see all sources, for it tells what there is. `config`: returns it, or raises what reading it
    raises. `empty`: nothing was found; only then all names are looked up.
    """
    for status in wanted.status:
        if status not in FINAL and status not in ACTIVE and not names.has_status(connection, status):
            raise unknown("status", status, "no run ended so", [*sorted(FINAL), *ACTIVE])
    if not empty:
        return
    check_may_come(config, connection, wanted)
    if wanted.run_id and not names.has_run(connection, wanted.run_id):
        raise no_run(connection, wanted.run_id)
    if wanted.event_id and not names.events_beginning(connection, wanted.event_id):
        raise no_such("event_id", wanted.event_id, "event")


def check_may_come(config: Callable[[], Config], connection: Connection, wanted: Filter, source: str = "") -> None:
    """Raise Invalid for a source, sink or route that neither the config nor the ledger knows, with those of the config:
    who follows events would wait for ever. A run, a workflow or a label may come any time.

    `config`: as of `check_names`; where it can't be read, all are taken for known. `source`: the only one that the
    caller may see; "" for all.
    """
    asked = {name: value for name in _NAMED if (value := getattr(wanted, name))}
    if not asked:
        return
    try:
        known = config()
    except (RunhookError, OSError):
        return
    for name, value in asked.items():
        configured, is_known = _NAMED[name]
        if value not in (there := configured(known)) and not is_known(connection, value, source):
            raise unknown(name, value, f"there is no such {name}", there)


def no_such(name: str, value: str, what: str = "") -> Invalid:
    """Return the error for an id that nothing has. `name`: of the parameter; `what`: of the thing, where it differs."""
    return _wrong(name, value, f"there is no such {what or name}")


def no_run(connection: Connection, run_id: str, name: str = "run", source: str = "") -> Invalid:
    """Return the error for a run that there is not, with one that may be meant. `name`: of the parameter; `source`: the
    only one whose runs are told."""
    if other := next((kind for prefix, kind in _KINDS.items() if run_id.startswith(prefix)), ""):
        return _wrong(name, run_id, f"there is no such run; it is the id of {_a(other)}")
    guess = names.run_beginning(connection, run_id, source)
    guess = guess or suggest(run_id, names.recent_runs(connection, source), cutoff=0.8)
    return _wrong(name, run_id, "there is no such run" + (f"; did you mean {guess}?" if guess else ""))


def check_id(connection: Connection, name: str, identifier: str, source: str) -> None:
    """Raise Invalid when the ledger has no delivery, event or run of this id. `name`: of the parameter; `source`: the
    only one that the caller may see; one of another source is as none."""
    if identifier.startswith("dlv_"):
        if not names.deliveries_beginning(connection, identifier, source):
            raise no_such(name, identifier, "delivery")
    elif identifier.startswith("evt_"):
        if not names.events_beginning(connection, identifier, source):
            raise no_such(name, identifier, "event")
    elif not names.has_run(connection, identifier, source):
        raise no_run(connection, identifier, name, source)


def whole_id(connection: Connection, name: str, identifier: str, source: str) -> str:
    """Return the id of the delivery or event that begins so; `identifier` where there is none. Raises Invalid when
    several begin so. `name`: of the parameter; `source`: the only one that is meant; "" for all."""
    if len(identifier) >= FULL_ID:
        return identifier
    find = names.deliveries_beginning if identifier.startswith("dlv_") else names.events_beginning
    found = find(connection, identifier, source)
    if len(found) > 1:
        raise _wrong(name, identifier, several_begin_so(found))
    return found[0] if found else identifier


def several_begin_so(found: Sequence[str]) -> str:
    """Return what is wrong with an id that is cut so short that these, and maybe more, begin so."""
    return f"several begin so, such as {' and '.join(found[:2])}"


def _a(thing: str) -> str:
    return f"{'an' if thing[0] in 'aeiou' else 'a'} {thing}"


def unknown(name: str, value: str, problem: str, known: Sequence[str]) -> Invalid:
    """Return the error for a name of which there is nothing: with the one of `known` that may be meant, or all."""
    guess = suggest(value, known)
    listed = ", ".join(each[:_LONGEST] for each in list(dict.fromkeys(known))[:_MOST])
    hint = f"did you mean {guess}?" if guess else f"there are {listed}" if listed else "there are none yet"
    return _wrong(name, value, f"{problem}; {hint}")


def _wrong(name: str, value: str, text: str) -> Invalid:
    message = f"{name}: {value[:_LONGEST]}: {text}"
    return Invalid(message, [{"name": name, "message": message}])
