"""Names and ids in calls must exist: a list that is empty because of a typing mistake must not look complete."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from receiver.api.service import Actor, Service
from receiver.domain.attention import ACTIVE
from receiver.domain.run import FINAL
from receiver.errors import Invalid, NotFound, RunhookError, suggest
from receiver.ledger import Connection
from receiver.ledger.lists import names
from receiver.ledger.lists.filters import FULL_ID, Filter

if TYPE_CHECKING:
    from receiver.config.models import Config

_LONGEST: Final = 60  # characters of a name that a message repeats
_MOST: Final = 30  # names that a message lists

# By the beginning of an id: what it is the id of.
_KINDS: Final = {"evt_": "event", "dlv_": "delivery", "sub_": "submission", "op_": "operation"}
_REMOVED: Final = "what is older than retention.events has been removed"
# Why something may be missing although its id was valid.
_WHY: Final = {
    "run": f"{_REMOVED}. `runhook reconcile --import --now` fetches a missing result. Refused and unreadable webhooks: "
    "`runhook quarantine list`, `runhook events --disposition unreadable`",
    "event": _REMOVED,
    "delivery": _REMOVED,
    "submission": "what is older than retention.submissions has been removed",
}
# Members of a filter that are names of the config, and those names.
_NAMED: Final[Mapping[str, Callable[[Config], list[str]]]] = {
    "source": lambda config: list(config.sources),
    "sink": lambda config: list(config.destinations),
    "route": lambda config: [each.name for each in config.routes],
}


def none_such(kind: str, identifier: str) -> NotFound:
    """Return the error for an unknown id, with where to look. `kind`: of what, such as "run"."""
    other = _kind_of(identifier) or kind
    why = _WHY.get(kind, "") if other == kind else f"it is the id of {_a(other)}"
    return NotFound(f"{kind} {identifier}: not found" + (f"; {why}" if why else ""))


def check_names(service: Service, actor: Actor, connection: Connection, filters: Filter, *, empty: bool) -> None:
    """Raise Invalid for an unknown name in the filter, with the names that exist.

    An actor of one source gets no error, because it reveals what exists. `empty`: the list has no row; only then are
    names other than the status checked.
    """
    if actor.source:
        return
    for status in filters.status:
        if status not in FINAL and status not in ACTIVE and not names.has_status(connection, status):
            raise unknown("status", status, "unknown status", [*sorted(FINAL), *ACTIVE])
    if not empty:
        return
    check_config_names(service, connection, filters)
    named = (("run", filters.run_id, "run"), ("event_id", filters.event_id, "event"))
    for name, identifier, kind in (*named, ("delivery", filters.delivery, "delivery")):
        if identifier:
            check_id(connection, name, identifier, "", kind)


def check_config_names(service: Service, connection: Connection, filters: Filter) -> None:
    """Raise Invalid for a source, sink or route that is not in the config. A removed sink with pending or dead
    deliveries is valid, and so is any name if the config cannot be read."""
    given = {name: value for name in _NAMED if (value := getattr(filters, name))}
    try:
        known = {name: _NAMED[name](service.config) for name in given}
    except (RunhookError, OSError):
        return
    for name, value in given.items():
        if value not in known[name] and not (name == "sink" and names.has_sink(connection, value)):
            raise unknown(name, value, f"unknown {name}", known[name])


def _no_run(connection: Connection, run_id: str, name: str, source: str) -> Invalid:
    """Return the error for an unknown run, with one of `source` whose id begins with this one."""
    if other := _kind_of(run_id):
        return _wrong(name, run_id, f"unknown run; it is the id of {_a(other)}")
    guess = names.run_beginning(connection, run_id, source)
    return _wrong(name, run_id, "unknown run" + (f"; did you mean {guess}?" if guess else ""))


def check_id(connection: Connection, name: str, identifier: str, source: str, kind: str = "") -> None:
    """Raise Invalid when the ledger has no delivery, event or run with this id. `name`: of the parameter; `source`: the
    only one that the caller may see; "" for all; `kind`: of the id, by default as it begins."""
    kind = kind or {"dlv_": "delivery", "evt_": "event"}.get(identifier[:4], "run")
    if kind == "run" and not names.has_run(connection, identifier, source):
        raise _no_run(connection, identifier, name, source)
    if kind != "run" and not names.ids_beginning(connection, kind, identifier, source):
        raise _wrong(name, identifier, f"unknown {kind}")


def whole_id(connection: Connection, name: str, identifier: str, source: str) -> str:
    """Return the id of the delivery or event whose id begins with `identifier`; `identifier` if it is unknown.

    Raises Invalid when it is ambiguous. `name`: of the parameter; `source`: "" for all.
    """
    if len(identifier) >= FULL_ID:
        return identifier
    kind = "delivery" if identifier.startswith("dlv_") else "event"
    found = names.ids_beginning(connection, kind, identifier, source)
    if len(found) > 1:
        raise _wrong(name, identifier, _ambiguous(found))
    return found[0] if found else identifier


def only(kind: str, identifier: str, found: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the only row whose id begins with `identifier`. Raises NotFound, and Invalid for several."""
    if not found:
        raise none_such(kind, identifier)
    if len(found) > 1:
        raise Invalid(f"{kind} {identifier}: {_ambiguous([each['id'] for each in found])}")
    return found[0]


def _ambiguous(found: Sequence[str]) -> str:
    return f"ambiguous; matches {' and '.join(found[:2])}"


def unknown(name: str, value: str, problem: str, known: Sequence[str]) -> Invalid:
    """Return the error for an unknown name, with the most similar one of `known`, or all of them."""
    guess = suggest(value, known)
    listed = ", ".join(each[:_LONGEST] for each in list(dict.fromkeys(known))[:_MOST])
    hint = f"did you mean {guess}?" if guess else f"there are {listed}" if listed else "the config has no such names"
    return _wrong(name, value, f"{problem}; {hint}")


def _kind_of(identifier: str) -> str:
    return next((kind for prefix, kind in _KINDS.items() if identifier.startswith(prefix)), "")


def _a(thing: str) -> str:
    return f"{'an' if thing[0] in 'aeiou' else 'a'} {thing}"


def _wrong(name: str, value: str, text: str) -> Invalid:
    message = f"{name}: {value[:_LONGEST]}: {text}"
    return Invalid(message, [{"name": name, "message": message}])
