"""Read a file into a checked Config, and report every problem of it at once. The YAML itself is read by yaml_file."""

from __future__ import annotations

import hashlib
import json
import re
from collections import ChainMap
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import SecretStr, ValidationError

from receiver.config.destinations import SinkConfig
from receiver.config.messages import describe, unknown
from receiver.config.models import Config
from receiver.config.yaml_file import Document, Key, parse, read, spell
from receiver.domain.callback import CALLBACK
from receiver.errors import ConfigError, suggest
from receiver.routing.route import RouteConfig
from receiver.routing.validation import order_problems, order_warnings, rule_problems, rule_warnings

# A variable without a default, and the placeholder for an unset one when only names are collected.
_NEEDED = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_OPENS_NOTHING = "https://not-set.invalid"


class Loaded(NamedTuple):
    """A file without problems. `document` has its lines, and its texts before variables were replaced.

    `unset`: the variables that are not set, and so were not checked.
    """

    config: Config
    document: Document
    warnings: list[str]
    unset: frozenset[str] = frozenset()


def load_file(path: Path, environ: Mapping[str, str], *, allow_unset: Collection[str] | None = ()) -> Loaded:
    """Read and check the file. Raises ConfigError with all its problems, in the order of the file.

    `allow_unset`: variables that may be unset, which leaves their values unchecked; None: any.
    """
    document, unset = _read_any(path, environ, allow_unset)
    document.lost |= {key for key, used in document.substituted.items() if unset & used.keys()}
    _drop_anchors(document)
    raw = document.value
    if not isinstance(raw, dict):
        document.complain((), "must be a mapping with sources, sinks and routes")
        document.raise_problems()
    config = _validated(document)
    sinks = raw["sinks"] if isinstance(raw.get("sinks"), dict) else {}
    for name, sink in sinks.items():
        if name == CALLBACK:
            document.complain(("sinks", name), "this name is reserved for callers' own webhooks; choose another")
        if isinstance(sink, dict):
            _check_sink(document, name, sink)
    routes = raw["routes"] if isinstance(raw.get("routes"), list) else []
    # Where the sinks could not be read at all, that is reported already, and not each route that names one.
    unread = not sinks and any(len(key) == 1 for _, key, _ in document.problems)
    _check_routes(document, routes, None if unread else list(sinks))
    if config is not None and not unread:
        _check_alerts(document, config)
    document.raise_problems()
    config = _with_key(config or _fitting(document), environ.get("RUNHOOK_DEV_KEY", ""))
    return Loaded(config, document, _warnings(config, document), unset)


def _with_key(config: Config, key: str) -> Config:
    """Return the config with one more secret of each source, that of a `runhook dev`; as it is without one."""
    if not key:
        return config
    sources = {
        name: source.model_copy(update={"secrets": [*source.secrets, SecretStr(key)]})
        for name, source in config.sources.items()
    }
    return config.model_copy(update={"sources": sources})


def _drop_anchors(document: Document) -> None:
    if isinstance(document.value, dict):  # x-… at the top is a place for anchors
        document.value = {key: value for key, value in document.value.items() if not key.startswith("x-")}


def _read_any(
    path: Path, environ: Mapping[str, str], allowed: Collection[str] | None = None
) -> tuple[Document, frozenset[str]]:
    """Read the file. Returns also which `allowed` variables (None: any) it needs that are not set: a value that opens
    nothing replaces them. Raises ConfigError."""
    try:
        needed = set(_NEEDED.findall(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError):
        needed = set()  # reading it as usual reports what is wrong
    may_lack = needed if allowed is None else needed.intersection(allowed)
    unset = {name for name in may_lack if not environ.get(name, "").strip()}
    document = read(path, ChainMap(dict.fromkeys(unset, _OPENS_NOTHING), environ))  # type: ignore[arg-type]
    return document, frozenset(unset & {name for used in document.substituted.values() for name in used})


def _fitting(document: Document) -> Config:
    """Return the config without the entries that the values which stand for unset variables do not fit into."""
    value = document.value
    try:
        return Config.model_validate(value)
    except ValidationError as error:
        for *section, entry in sorted({key[:2] for key, _ in describe(error, Config, value)}, key=str, reverse=True):
            del (value[section[0]] if section else value)[entry]
    if (config := _validated(document)) is None:
        raise ConfigError("the file can't be checked while a variable that stands for a whole section is not set")
    return config


def _validated(document: Document) -> Config | None:
    try:
        return Config.model_validate(document.value)
    except ValidationError as error:
        for key, text in describe(error, Config, document.value):
            hint = '; write `sources: {skyvern: {secrets: ["${SKYVERN_API_KEY}"]}}`' if key == ("sources",) else ""
            _complain(document, key, text + hint)
    return None


def _complain(document: Document, key: Key, text: str) -> None:
    """Note a problem, unless it is about the value at `key` and that is of a variable which is not set."""
    if text.startswith("unknown key") or not any(key[: len(lost)] == lost for lost in document.lost):
        document.complain(key, text)


def _check_sink(document: Document, name: str, sink: Mapping[str, Any]) -> None:
    """Check a sink's options by its handler, and build the sink once: a template in it may be wrong."""
    from handlers.contract import Services, SinkError
    from handlers.registry import BrokenSinkType, UnknownSinkType, build, sink_type

    here: Key = ("sinks", name)
    own = set(SinkConfig.model_fields) - {"options"}
    kind = sink.get("type")
    if not isinstance(kind, str):
        return
    if "options" in sink:
        document.complain((*here, "options"), "unknown key; write the options of the type beside `type`")
        return
    options = {key: value for key, value in sink.items() if key not in own}
    try:
        cls = sink_type(kind)
        build(name, kind, options, Services()).close()
    except (UnknownSinkType, BrokenSinkType) as error:
        _complain(document, (*here, "type"), str(error))
    except ValidationError as error:
        for key, text in describe(error, cls.Options, options):
            is_top = len(key) == 1 and text.startswith("unknown key")
            words = _unknown_option(name, str(key[0]), [*cls.Options.model_fields, *own]) if is_top else text
            if key or not _incomplete(document, here):
                _complain(document, (*here, *key), words)
    except (ValueError, SinkError) as error:
        if not _incomplete(document, here):
            _complain(document, here, " ".join(str(error).split()))


def _unknown_option(sink: str, key: str, known: list[str]) -> str:
    if key == "after":  # as examples of a sink show it, beside its options
        return f"unknown key; a route says it: to: [{{sink: {sink}, after: …}}]"
    return unknown(key, known)


def _check_routes(document: Document, raw: list[Any], sinks: list[str] | None) -> None:
    names: dict[str, int] = {}
    routes: list[RouteConfig] = []
    places: list[int] = []
    for index, route in enumerate(raw):
        if not isinstance(route, dict):
            continue
        here: Key = ("routes", index)
        name = route.get("name")
        if isinstance(name, str) and name in names:
            _complain(document, (*here, "name"), f"routes[{names[name]}] has this name already; names must be unique")
        elif isinstance(name, str):
            names[name] = index
        when = route.get("when")
        if isinstance(when, str | dict) and not _incomplete(document, (*here, "when")):
            for key, text in rule_problems(when):
                document.complain((*here, "when", *key), text)
        if sinks is not None:
            _check_targets(document, (*here, "to"), route.get("to"), sinks)
        try:
            routes.append(RouteConfig.model_validate({**route, "when": None}))
            places.append(index)
        except ValidationError:
            continue  # reported already
    for (position, *rest), text in order_problems(routes, sinks):
        _complain(document, ("routes", places[int(position)], *rest), text)


def _incomplete(document: Document, key: Key) -> bool:
    """Whether a value at or below `key` could not be made."""
    return any(lost[: len(key)] == key for lost in document.lost)


def _check_targets(document: Document, here: Key, targets: Any, sinks: list[str]) -> None:
    """Each sink that is named must exist, and be named once."""
    seen: set[str] = set()
    for index, target in enumerate(targets if isinstance(targets, list) else []):
        place: Key = (*here, index)
        name = target
        if isinstance(target, dict):
            name = target.get("sink")
            after = target.get("after")
            for number, other in enumerate(after if isinstance(after, list) else [after]):
                if isinstance(other, str) and other not in sinks:
                    key: Key = (*place, "after", number) if isinstance(after, list) else (*place, "after")
                    _complain(document, key, _no_sink(other, sinks))
        if not isinstance(name, str):
            continue
        if name not in sinks:
            _complain(document, (*place, "sink") if isinstance(target, dict) else place, _no_sink(name, sinks))
        elif name in seen:
            _complain(document, place, f"{name} is named twice; one event makes one delivery to it")
        seen.add(name)


def _check_alerts(document: Document, config: Config) -> None:
    """Each sink that alerts go to must exist, and be of a type that can send them."""
    from handlers.registry import BrokenSinkType, UnknownSinkType, sink_type

    for index, name in enumerate(config.alerts.to):
        here: Key = ("alerts", "to", index)
        if name not in config.sinks:
            _complain(document, here, _no_sink(name, list(config.sinks)))
            continue
        kind = config.sinks[name].type
        with suppress(UnknownSinkType, BrokenSinkType):  # reported already
            if not sink_type(kind).notifies:
                _complain(document, here, f"a sink of type {kind} can't send alerts; slack, http and notify can")


def _no_sink(name: str, sinks: list[str]) -> str:
    guess = suggest(name, sinks)
    if guess:
        return f"there is no sink {name}; did you mean {guess}?"
    return (
        f"there is no sink {name}; there are {', '.join(sinks)}"
        if sinks
        else f"there is no sink {name}: add it to sinks"
    )


def _warnings(config: Config, document: Document) -> list[str]:
    """Return what is allowed and yet probably a mistake."""
    used = {target.sink for route in config.routes for target in route.targets}
    unused = [name for name in config.sinks if name not in used and name not in config.alerts.to]
    warnings: list[tuple[Key, str]] = [
        (("sinks", name), f"no route names the sink {name}, so nothing gets there") for name in unused
    ]
    if not config.routes:
        warnings.append(((), "there are no routes: every event is kept, and goes nowhere"))
    for name, source in config.sources.items():
        reason = "" if config.reconcile.enabled else "reconcile.enabled is false"
        if source.watch and (reason := reason if source.api_key else "it has no api_key"):
            watch: Key = ("sources", name, "watch")
            warnings.append((watch, f"{spell(watch)}: its runs are not watched, for {reason}"))
    warnings += _route_warnings(config)
    return [f"{document.path}:{document.line(key)}: {document.masked(key, text)}" for key, text in warnings]


def _route_warnings(config: Config) -> list[tuple[Key, str]]:
    warnings: list[tuple[Key, str]] = []
    for index, route in enumerate(config.routes):
        key: Key = ("routes", index, "when")
        warnings += [(key, f"{spell(key)}: {text}") for text in rule_warnings(route)]
    return warnings + [(("routes", index), f"routes[{index}]: {text}") for index, text in order_warnings(config.routes)]


def load(path: Path, environ: Mapping[str, str]) -> Config:
    """Return the config in the YAML file `path`, with `${VAR}` and `${VAR:-default}` taken from `environ`.

    Raises ConfigError with every problem of the file, each with file, line and key.
    """
    return load_file(path, environ).config


def load_without_secrets(path: Path, environ: Mapping[str, str]) -> Config:
    """Return the config as `load` does, though variables are not set that it needs: for what only looks.

    They have a value that opens nothing. The options of sinks are not checked. Raises ConfigError.
    """
    document, _ = _read_any(path, environ)
    _drop_anchors(document)
    config = _validated(document)
    document.raise_problems()
    assert config is not None
    return config


def file_sections(path: Path) -> dict[str, str]:
    """Return two hashes of each section of the config file, and of each source and sink; {} if it is unreadable.

    8 hex digits each; the second, which `portable` returns, ignores what may differ between hosts: `server` and
    absolute paths. Variables that have no default count as missing.
    """
    try:
        value = parse(path.read_text(encoding="utf-8"), path, {}).value
        entries = {name: value[name] for name in value if name not in ("sources", "sinks")}
        entries |= {f"{name}.{key}": each for name in ("sources", "sinks") for key, each in value.get(name, {}).items()}
        return {
            name: _hash(each) + _hash("" if name == "server" else _without_paths(each))
            for name, each in entries.items()
        }
    except (OSError, ValueError, TypeError, AttributeError, ConfigError):
        return {}


def portable(sections: Mapping[str, str]) -> dict[str, str]:
    """Return the hashes of `file_sections` that do not depend on the host."""
    return {name: both[-8:] for name, both in sections.items() if name != "server"}


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:8]


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_paths(each) for name, each in value.items()}
    return "" if isinstance(value, str) and value.startswith(("/", "sqlite:////")) else value


def file_hash(path: Path) -> str:
    """Return a hash of the config file: 12 hex digits, or "" if it is unreadable."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    except OSError:
        return ""
