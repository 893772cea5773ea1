"""Log lines of all processes: one line for each event, to standard error, as logfmt or as JSON.

    2026-11-24T09:30:00.123Z WARNING runhook.ingest ingest.redis_away reason="no answer in time" note="events go to …"

Time, level, logger and event, then fields as logfmt has them: key=value, a value in double quotes where it holds
spaces, quotes or "=", with \\" \\\\ and \\n escaped. Text after the fields is the field `note`; a line without an
event, such as that of a library, is the field `msg`; a traceback is the field `traceback`. As JSON the event or the
text is `message`, and numbers are numbers. Code writes `log.warning("part.event key=%s other=%d: some text", …)`. This
module splits it, and structlog renders the line; structlog is imported for the first line.
"""

from __future__ import annotations

import logging
import math
import re
import sys
import time
from collections.abc import Mapping, MutableMapping
from functools import cached_property
from typing import Any, Final

from handlers.support.url import hide_secrets

ERROR: Final = logging.ERROR
_EVENT: Final = re.compile(r"[a-z]\w*(\.\w+)+$")
_CONVERSION: Final = re.compile(r"%(?:%|[-#0 +]*\d*(?:\.\d+)?[a-zA-Z])")
_VALUE: Final = "\0"  # stands for a value while a message is taken apart
_FIELD: Final = re.compile(rf"\s*(?:(\w[\w.]*)=({_VALUE}|[^\s%\"=:{_VALUE}]+(?=\s|$))|{_VALUE})")
_PLAIN: Final = re.compile(r"[^\s\"=\\]+")
_ESCAPES: Final = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
# Libraries whose lines below a warning do not help an operator; some contain URLs with secrets.
_QUIET: Final = ("httpx2", "httpcore2", "httpx", "botocore", "boto3", "s3transfer", "urllib3", "alembic", "rq.worker")

# The text of each value as it was formatted, and the value.
Pieces = list[tuple[str, object]]


def quoted(value: object) -> str:
    """Return `value` as logfmt has it: as it is where that is one plain word, else in double quotes with escapes."""
    text = str(value)
    if _PLAIN.fullmatch(text) and text.isprintable():
        return text
    escaped = "".join(_ESCAPES.get(each) or (each if each.isprintable() else f"\\u{ord(each):04x}") for each in text)
    return f'"{escaped}"'


class Fields(dict[str, object]):
    """Fields of a log line whose names are not known where it is written; given as an argument for `%s`."""

    def __str__(self) -> str:
        return " ".join(f"{name}={quoted(value)}" for name, value in self.items())


class Formatter(logging.Formatter):
    """Makes the lines, as "logfmt" or "json". Never raises for a message whose arguments do not fit it."""

    def __init__(self, form: str = "logfmt") -> None:
        super().__init__()
        self.form = form

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of `record`."""
        return self.chain.format(record)

    @cached_property
    def chain(self) -> logging.Formatter:
        """The formatter of structlog."""
        from structlog import processors, stdlib

        return stdlib.ProcessorFormatter(
            processors=[
                stdlib.add_log_level,
                stdlib.add_logger_name,
                processors.format_exc_info,
                _take_apart,
                *([_as_json, processors.JSONRenderer()] if self.form == "json" else [_as_logfmt]),
            ],
            use_get_message=False,
            pass_foreign_args=True,
        )


def _as_logfmt(_logger: Any, _name: str, line: MutableMapping[str, Any]) -> str:
    head = [line["time"], line["level"].upper(), line["logger"], *filter(None, [line["event"]])]
    return " ".join([*head, *(f"{name}={quoted(text)}" for name, (text, _) in line["fields"].items())])


def _as_json(_logger: Any, _name: str, line: MutableMapping[str, Any]) -> dict[str, object]:
    """Return the members. Numbers, truth values and null are themselves, anything else is its text."""
    members: dict[str, object] = {name: line[name] for name in ("time", "level", "logger")}
    members["message"] = line["event"] or line["fields"].pop("msg")[0]
    for name, (text, value) in line["fields"].items():
        rounded = isinstance(value, float) and math.isfinite(value)
        plain = value is None or isinstance(value, int)
        members.setdefault(name, float(text) if rounded else value if plain else text)
    return members


def _take_apart(_logger: Any, _name: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Split the message into event and fields."""
    record: logging.LogRecord = line["_record"]
    at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    line["time"] = f"{at}.{int(record.msecs):03d}Z"
    template = str(line["event"]).replace(_VALUE, "\\0")
    own = record.name.partition(".")[0] == "runhook"
    line["event"], line["fields"] = _event_and_fields(template, line.get("positional_args") or (), own=own)
    if trace := line.pop("exception", ""):
        line["fields"]["traceback"] = (hide_secrets(trace), "")
    return line


def _event_and_fields(template: str, arguments: Any, *, own: bool) -> tuple[str, dict[str, tuple[str, object]]]:
    """Return the event, "" for a text without one, and the fields."""
    try:
        text, values = _pieces(template, (arguments,) if isinstance(arguments, Mapping) else arguments)
    except (TypeError, ValueError, IndexError):
        return "", {"msg": (template, ""), "arguments": (repr(arguments), "")}
    event, _, rest = text.lstrip().partition(" ")
    head, values = values[: event.count(_VALUE)], values[event.count(_VALUE) :]
    name = _filled(event, head).removesuffix(":")
    if not own or not _EVENT.match(name):
        return "", {"msg": (_filled(text, [*head, *values]), "")}
    fields: dict[str, tuple[str, object]] = {}
    while found := _FIELD.match(rest):
        key, literal = found.groups()
        if literal == _VALUE:
            fields[key] = values.pop(0)
        elif key:
            fields[key] = (literal, "")
        elif values and isinstance(values[0][1], Fields):
            fields |= {each: (str(value), value) for each, value in values.pop(0)[1].items()}  # type: ignore[attr-defined]
        else:
            break
        rest = rest[found.end() :]
    note = _filled(rest, values).strip().removeprefix(":").strip()
    return name, fields | ({"note": (note, "")} if note else {})


def _pieces(template: str, arguments: tuple[object, ...]) -> tuple[str, Pieces]:
    """Return the message with _VALUE in place of each value, and the values. Raises when they do not fit it."""
    left, done = list(arguments), Pieces()

    def put(found: re.Match[str]) -> str:
        if found[0] == "%%":
            return "%"
        value = left.pop(0)
        done.append((found[0] % (value,), value))
        return _VALUE

    text = _CONVERSION.sub(put, template) if arguments else template
    if left:
        raise TypeError("not all arguments converted")
    return text, done


def _filled(text: str, values: Pieces) -> str:
    """Return `text` with its values in their places."""
    rest = iter(values)
    return re.sub(_VALUE, lambda _: next(rest)[0], text)


def set_up(level: str = "info", form: str = "logfmt") -> None:
    """Log to standard error from now on, lines of at least this level; of libraries, only warnings and errors."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter(form))
    root, least = logging.getLogger(), logging.getLevelNamesMapping()[level.upper()]
    root.handlers[:] = [handler]
    root.setLevel(max(least, logging.INFO))
    logging.getLogger("runhook").setLevel(least)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(least, logging.WARNING))


def prepare() -> None:
    """Import structlog now, so that the first line does not have to."""
    _ = Formatter().chain


def say(text: str, level: int = logging.INFO) -> None:
    """Print a line about the start or end of a process, whatever its log level; as JSON if the process logs so."""
    formatters = [each.formatter for each in logging.getLogger().handlers]
    if any(isinstance(each, Formatter) and each.form == "json" for each in formatters):
        logging.getLogger("runhook").handle(logging.LogRecord("runhook", level, "", 0, "%s", (text,), None))
    else:
        sys.stderr.write(f"runhook: {text}\n")
