"""Log lines of all processes: one line for each event, to standard error, as logfmt or as JSON.

    2026-11-24T09:30:00.123Z WARNING runhook.ingest ingest.redis_away reason="no answer in time" note="events go to …"

Time, level, logger and event, then fields: key=value, a value in double quotes with JSON's escapes where it holds
spaces, quotes or "=". Text after the fields is the field `note`; a line without an event, such as that of a library, is
the field `msg`; a traceback is the field `traceback`. As JSON the event or the text is `message`, and numbers are
numbers. Code writes `log.warning("process.event key=%s other=%d: some text", …)`. structlog renders the line, and is
imported for the first one.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Mapping, MutableMapping
from functools import cached_property
from typing import Any, Final

from handlers.support.url import hide_secrets

ERROR: Final = logging.ERROR
_EVENT: Final = re.compile(r"\s*(\0?[a-z]\w*(?:\.\0?\w+)+):?(?=\s|$)")
_CONVERSION: Final = re.compile(r"(=?)(%[-#0 +]*\d*(?:\.\d+)?([a-zA-Z%]))")
_FIELD: Final = re.compile(r'\s*(\w[\w.]*)=("(?:[^"\\]|\\.)*"|[^\s"=]+?)(?=:?(?:\s|$))')
_PLAIN: Final = re.compile(r"[^\s\"=\\]*[^\s\"=\\:]")  # a colon at its end would begin the note
_NUMBER: Final = re.compile(r"-?(?:0|[1-9]\d{0,17})(?:\.\d{1,9})?", re.ASCII)
_TEXT: Final = "\0"  # begins a value that is part of a text, and so never a field
# Libraries whose lines below a warning do not help an operator; some contain URLs with secrets.
_QUIET: Final = ("httpx2", "httpcore2", "httpx", "botocore", "boto3", "s3transfer", "urllib3", "alembic", "rq.worker")


def quoted(value: object) -> str:
    """Return `value` as logfmt has it: a number or one plain word as it is, else in double quotes with escapes."""
    text = str(value)
    is_text = isinstance(value, str) and _NUMBER.fullmatch(text)
    if _PLAIN.fullmatch(text) and text.isprintable() and not is_text:
        return text
    shown = json.dumps(text, ensure_ascii=False)[1:-1]
    return f'"{"".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in shown)}"'


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
                _members,
                *([_as_json, processors.JSONRenderer()] if self.form == "json" else [_as_logfmt]),
            ],
            use_get_message=False,
            pass_foreign_args=True,
        )


def _members(_logger: Any, _name: str, line: MutableMapping[str, Any]) -> dict[str, Any]:
    """Return the members of a line in their order: time, level, logger, message ("" without an event), its fields."""
    record, arguments = line["_record"], line.get("positional_args") or ()
    fields: dict[str, Any]
    try:
        if record.name.partition(".")[0] == "runhook":
            event, fields = _event_and_fields(_filled(line["event"], arguments))
        else:
            event, fields = "", {"msg": line["event"] % arguments if arguments else line["event"]}
    except (TypeError, ValueError, IndexError):
        event, fields = "", {"msg": line["event"], "arguments": repr(arguments)}
    if trace := line.get("exception"):
        fields["traceback"] = hide_secrets(trace)
    at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    head = {"time": f"{at}.{int(record.msecs):03d}Z", "level": line["level"], "logger": line["logger"]}
    return {**head, "message": event, **{name: value for name, value in fields.items() if name not in head}}


def _as_logfmt(_logger: Any, _name: str, line: MutableMapping[str, Any]) -> str:
    at, level, logger, event, *_ = line.values()
    return " ".join(filter(None, (at, level.upper(), logger, event, str(Fields(list(line.items())[4:])))))


def _as_json(_logger: Any, _name: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    line["message"] = line["message"] or line.pop("msg")
    return line


def _filled(template: str, arguments: Any) -> str:
    """Return the message. A text that follows "=" is quoted; any other is marked, so that it never becomes a field."""
    values = [arguments] if isinstance(arguments, Mapping) else list(arguments)

    def put(found: re.Match[str]) -> str:
        equals, conversion, kind = found.groups()
        value = values.pop(0) if kind != "%" else ""
        text = "%" if kind == "%" else str(conversion % (value,))
        if kind == "%" or isinstance(value, Fields):
            return equals + text
        if not equals:
            return _TEXT + text
        return f"={text if isinstance(value, (int, float)) else quoted(text)}"

    text = _CONVERSION.sub(put, template) if values else template
    if values:
        raise TypeError("not all arguments converted")
    return text


def _event_and_fields(text: str) -> tuple[str, dict[str, Any]]:
    """Return the event, "" for a text without one, and the fields."""
    event = _EVENT.match(text)
    if not event:
        return "", {"msg": text.replace(_TEXT, "")}
    at, fields = event.end(), dict[str, Any]()
    while found := _FIELD.match(text, at):
        name, value = found.groups()
        plain = value[0] != '"' and not _NUMBER.fullmatch(value)
        fields.setdefault(name, value if plain else json.loads(value))
        at = found.end()
    if note := text[at:].replace(_TEXT, "").strip().removeprefix(":").strip():
        fields["note"] = note
    return event[1].replace(_TEXT, ""), fields


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
