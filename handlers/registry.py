"""Find sink types by name, and build sinks from their options. Imports a sink's class only on demand.

The built-in types are listed here. Other distributions add theirs by an entry point in the group `runhook.sinks`
(docs/how-to/writing-a-sink.md), which can't replace a built-in type.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from handlers.contract import Services, Sink, SinkError, SinkOptions

GROUP = "runhook.sinks"

BUILT_IN: Mapping[str, str] = {
    "database": "handlers.database:DatabaseSink",
    "files": "handlers.files:FilesSink",
    "http": "handlers.http:HttpSink",
    "notify": "handlers.notify:NotifySink",
    "queue": "handlers.queue:QueueSink",
    "resubmit": "handlers.resubmit:ResubmitSink",
    "s3": "handlers.s3:S3Sink",
    "slack": "handlers.slack:SlackSink",
}


class UnknownSinkType(KeyError):
    """No sink type has this name. `suggestion`: a known name that is close, or None."""

    def __init__(self, name: str, types: list[str]) -> None:
        close = get_close_matches(name, types, n=1)
        self.suggestion = close[0] if close else None
        hint = f"did you mean {self.suggestion}?" if self.suggestion else f"known: {', '.join(types)}"
        self.message = f"unknown sink type {name!r}; {hint}"
        super().__init__(self.message)

    def __str__(self) -> str:  # KeyError would show it in quotes
        return self.message


class BrokenSinkType(ImportError):
    """The sink type's code can't be used. The message names the entry point and the reason."""


def names() -> list[str]:
    """Return the names of all sink types, sorted, without importing them."""
    return sorted(BUILT_IN.keys() | entry_points(group=GROUP).names)


def sink_type(name: str) -> type[Sink[Any]]:
    """Return the class of the sink type `name`. Raises UnknownSinkType or BrokenSinkType."""
    if name in BUILT_IN:  # listing the installed ones reads each distribution
        return _load(EntryPoint(name, BUILT_IN[name], GROUP))
    points = list({point.value: point for point in entry_points(group=GROUP, name=name)}.values())
    if not points:
        raise UnknownSinkType(name, names())
    if len(points) > 1:
        raise BrokenSinkType(f"sink type {name!r} is claimed by {' and '.join(map(_where, points))}: uninstall one")
    return _load(points[0])


def sink_types() -> dict[str, type[Sink[Any]]]:
    """Return every sink type that can be imported, by name. A broken one is left out; `sink_type` raises why."""
    types: dict[str, type[Sink[Any]]] = {}
    for name in names():
        try:
            types[name] = sink_type(name)
        except BrokenSinkType:
            continue
    return types


def build(name: str, type: str, options: Mapping[str, Any], services: Services) -> Sink[Any]:  # noqa: A002
    """Build the sink `name` of type `type`. Opens no connection and no file.

    Raises UnknownSinkType (a KeyError), BrokenSinkType (an ImportError), or pydantic.ValidationError for the options.
    A constructor that calls sys.exit raises SinkError: it must end neither a command nor a thread.
    """
    cls = sink_type(type)
    try:
        return cls(name, cls.Options.model_validate(dict(options)), services)
    except SystemExit as error:
        raise SinkError(f"the constructor of sink type {type!r} calls sys.exit({error.code!r})") from None


def _load(point: EntryPoint) -> type[Sink[Any]]:
    broken = f"sink type {point.name!r} ({_where(point)})"
    try:
        cls = point.load()
    except Exception as error:  # a third party's module may raise anything when imported
        words = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(":")
        raise BrokenSinkType(f"{broken} can't be imported: {words}") from error
    if not (isinstance(cls, type) and issubclass(cls, Sink)):
        raise BrokenSinkType(f"{broken} is not a subclass of handlers.contract.Sink")
    options = getattr(cls, "Options", None)
    if not (isinstance(options, type) and issubclass(options, SinkOptions)):
        raise BrokenSinkType(f"{broken}: its Options must be a subclass of SinkOptions")
    return cls


def _where(point: EntryPoint) -> str:
    return f"{point.value} of {point.dist.name} {point.dist.version}" if point.dist else point.value
