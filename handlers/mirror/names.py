"""Turn names from a payload into safe parts of a key or path, and into content types. Pure.

The result is always one segment: not empty, no separator, no `.` or `..`, nothing unprintable, and bounded in bytes.
Letters of any script and the file's ending are kept. Content types are a fixed table, so results do not depend on the
host.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable
from typing import Any

from handlers.support.templating import plain

# Longest file name, in bytes: file systems allow 255, and temporary names are longer.
MAX_NAME = 180
# Longest value in a prefix, in bytes.
MAX_PART = 120

_SEPARATORS = '/\\:*?"<>|#%^`{}~'
_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
_ENDING = 16
# Characters read from a name's start (and 2 * _ENDING from its end): a payload's may have millions.
_READ = 2048


def safe_file_name(text: str, cap: int = MAX_NAME) -> str:
    """Return `text` as a file name of at most `cap` bytes in UTF-8. The same text always gives the same name."""
    if len(text) > _READ + 2 * _ENDING:
        text = text[:_READ] + text[-2 * _ENDING :]
    kept = "".join(_safe(char) for char in unicodedata.normalize("NFC", text))
    name = _trim(" ".join(kept.split(" ")))
    if len(name.encode()) > cap:
        stem, ending = _split(name)
        name = _trim(_cut(stem, cap - len(ending.encode())) + ending)
    return name


def with_suffix(name: str, suffix: str) -> str:
    """Return a safe file name with `suffix` before its ending, no longer than MAX_NAME."""
    stem, ending = _split(name)
    tail = suffix + ending
    return _cut(stem, MAX_NAME - len(tail.encode())) + tail


def _split(name: str) -> tuple[str, str]:
    """Return the stem and the ending of a file name; "" for an overlong ending."""
    stem, dot, ending = name.rpartition(".")
    return (stem, dot + ending) if stem and len(ending.encode()) <= _ENDING else (name, "")


def _cut(stem: str, room: int) -> str:
    """Return the beginning of `stem` that has at most `room` bytes and does not end in a space."""
    return stem.encode()[:room].decode(errors="ignore").rstrip()


def _safe(char: str) -> str:
    category = unicodedata.category(char)
    if category in _UNPRINTABLE or char in _SEPARATORS:
        return "_"
    return " " if category == "Zs" else char


def _trim(name: str) -> str:
    """Strip spaces around and dots at the end, and replace a leading dot, which would hide the file."""
    name = name.strip(" ").rstrip(" .")
    return "_" + name[1:] if name.startswith(".") else name or "_"


def key_part(value: Any) -> str:
    """Return a template's value as one safe part of a prefix.

    A changed value gets a hash of the original, so that `a/b` and `a_b` stay distinct.
    """
    text = plain(value)
    name = safe_file_name(text, MAX_PART)
    if name == text or not text:
        return name
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{safe_file_name(name, MAX_PART - 9)}-{digest}"


class UsedNames:
    """The names used in one directory, compared without case, since many file systems ignore it."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = {name.casefold() for name in names}
        self._numbers: dict[str, int] = {}  # last number used per name: thousands of files may share one

    def reserve(self, name: str) -> str:
        """Reserve and return `name`, or `name` with the first free number before its ending."""
        stem, dot, ending = name.rpartition(".")
        if not dot or not stem:
            stem, dot, ending = name, "", ""
        number = self._numbers.get(name.casefold(), 1)
        given = name
        while given.casefold() in self._names:
            number += 1
            given = f"{stem}-{number}{dot}{ending}"
        self._names.add(given.casefold())
        self._numbers[name.casefold()] = number
        return given


DEFAULT = "application/octet-stream"
JSON = "application/json"

_TYPES = {
    "avi": "video/x-msvideo",
    "bmp": "image/bmp",
    "csv": "text/csv; charset=utf-8",
    "doc": "application/msword",
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "eml": "message/rfc822",
    "gif": "image/gif",
    "gz": "application/gzip",
    "har": JSON,
    "htm": "text/html",
    "html": "text/html",
    "ics": "text/calendar",
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "json": JSON,
    "log": "text/plain; charset=utf-8",
    "md": "text/markdown; charset=utf-8",
    "mhtml": "multipart/related",
    "mkv": "video/x-matroska",
    "mov": "video/quicktime",
    "mp3": "audio/mpeg",
    "mp4": "video/mp4",
    "ods": "application/vnd.oasis.opendocument.spreadsheet",
    "odt": "application/vnd.oasis.opendocument.text",
    "pdf": "application/pdf",
    "png": "image/png",
    "ppt": "application/vnd.ms-powerpoint",
    "pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    "svg": "image/svg+xml",
    "tar": "application/x-tar",
    "tif": "image/tiff",
    "tiff": "image/tiff",
    "tsv": "text/tab-separated-values; charset=utf-8",
    "txt": "text/plain; charset=utf-8",
    "wav": "audio/wav",
    "webm": "video/webm",
    "webp": "image/webp",
    "xls": "application/vnd.ms-excel",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "xml": "application/xml",
    "yaml": "application/yaml",
    "yml": "application/yaml",
    "zip": "application/zip",
    "zst": "application/zstd",
}

_INLINE = ("image/", "video/", "audio/", "text/plain", "text/csv", "application/pdf", "application/json")


def content_type(name: str) -> str:
    """Return the content type of a file called `name`, by its ending."""
    return _TYPES.get(name.rpartition(".")[2].lower(), DEFAULT)


def is_inline_safe(content_type: str) -> bool:
    """Whether a browser may show it inline. Pages and drawings could run code, so they are downloaded."""
    return content_type.startswith(_INLINE) and "svg" not in content_type
