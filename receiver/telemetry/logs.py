"""How every process logs: one line an occasion, to standard error, that people read and programs parse.

    2026-11-24T09:30:00.123Z WARNING runhook.ingest ingest.redis_away reason="no answer in time" note="events go to …"

Time, level, logger and event, then fields as logfmt has them: key=value, a value in double quotes where it holds
spaces, quotes or "=", with \\" \\\\ and \\n escaped. What is said besides is the field `note`; what has no event, such
as a line of a library, is the field `msg`; a traceback is the field `traceback`. Who logs writes
`log.warning("part.event key=%s other=%d: what follows", …)`, and this module does the rest.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Mapping
from typing import Any, Final

_EVENT: Final = re.compile(r"[a-z]\w*(\.\w+)+$")
_CONVERSION: Final = re.compile(r"%(?:%|[-#0 +]*\d*(?:\.\d+)?[a-zA-Z])")
_KEY: Final = re.compile(r"\s*(\w[\w.]*)=$")
_LITERAL_FIELD: Final = re.compile(r"\s*(\w[\w.]*)=([^\s%\"=:]+)(?=\s|$)")
_PLAIN: Final = re.compile(r"[^\s\"=\\\x00-\x1f\x7f]+")
_ESCAPES: Final = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def quoted(value: object) -> str:
    """Return `value` as logfmt has it: as it is where that is one word, else in double quotes."""
    text = str(value)
    if _PLAIN.fullmatch(text):
        return text
    escaped = "".join(_ESCAPES.get(each) or (each if each.isprintable() else f"\\u{ord(each):04x}") for each in text)
    return f'"{escaped}"'


class Fields(dict[str, object]):
    """Fields of a log line whose names are not known where it is written; given as an argument for `%s`."""

    def __str__(self) -> str:
        return " ".join(f"{name}={quoted(value)}" for name, value in self.items())


class Formatter(logging.Formatter):
    """Makes the lines. Never raises for a message whose arguments do not fit it."""

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of `record`."""
        at = f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{int(record.msecs):03d}Z"
        parts = [at, record.levelname, record.name, *_parts(record)]
        if record.exc_info:
            parts.append(f"traceback={quoted(self.formatException(record.exc_info))}")
        return " ".join(parts)


def _parts(record: logging.LogRecord) -> list[str]:
    """Return event and fields of `record`."""
    arguments = (record.args,) if isinstance(record.args, Mapping) else record.args or ()
    template = str(record.msg)
    try:
        if record.name.partition(".")[0] == "runhook" and (found := _event_and_fields(template, arguments)):
            return found
        return [f"msg={quoted(template % arguments if arguments else template)}"]
    except (TypeError, ValueError):
        return [f"msg={quoted(template)}", f"arguments={quoted(arguments)}"]


def _event_and_fields(template: str, arguments: tuple[Any, ...]) -> list[str]:
    """Return event, fields and note; [] for a text without an event."""
    pieces = _pieces(template, arguments)
    whole = ""
    while pieces and not re.search(r"\s", whole):  # the event may be made of several pieces
        text, _ = pieces.pop(0)
        whole += text
    event = whole.split(maxsplit=1)[0] if whole.strip() else ""
    rest = whole[whole.index(event) + len(event) :]
    if not _EVENT.match(event.rstrip(":")):
        return []
    found, note = [event.rstrip(":")], ""
    pending = [(rest, None), *pieces]
    while pending:
        text, value = pending.pop(0)
        if value is not None:
            if isinstance(value, Fields) and not note.strip():
                found.append(str(value))
            else:
                note += text
            continue
        while not note.strip() and (literal := _LITERAL_FIELD.match(text)):
            found.append(f"{literal[1]}={literal[2]}")
            text = text[literal.end() :]
        key = _KEY.search(text) if pending and pending[0][1] is not None else None
        if key and not note.strip() and not text[: key.start()].strip():
            found.append(f"{key[1]}={quoted(pending.pop(0)[0])}")
        else:
            note += text
    note = note.strip().removeprefix(":").strip()
    return [*found, f"note={quoted(note)}"] if note else found


def _pieces(template: str, arguments: tuple[Any, ...]) -> list[tuple[str, Any]]:
    """Return the texts between the conversions, with None, and the conversions done, with their arguments."""
    found: list[tuple[str, Any]] = []
    at, left = 0, list(arguments)
    for conversion in _CONVERSION.finditer(template) if arguments else ():
        found.append((template[at : conversion.start()], None))
        at = conversion.end()
        if conversion[0] == "%%":
            found.append(("%", None))
        elif not left:
            raise TypeError("not enough arguments")
        else:
            value = left.pop(0)
            found.append((conversion[0] % (value,), "" if value is None else value))
    if left:
        raise TypeError("not all arguments converted")
    return [*found, (template[at:], None)]


def set_up() -> None:
    """Log to standard error from now on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    # What these say below a warning is of no use to an operator, and some of it holds URLs with secrets.
    for name in ("httpx2", "httpcore2", "httpx", "botocore", "boto3", "s3transfer", "urllib3", "alembic", "rq.worker"):
        logging.getLogger(name).setLevel(logging.WARNING)
