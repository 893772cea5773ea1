"""Content types by a file's ending: a fixed table, so that no machine's own list changes what is stored. Pure."""

from __future__ import annotations

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

_SHOWN = ("image/", "video/", "audio/", "text/plain", "text/csv", "application/pdf", "application/json")


def content_type(name: str) -> str:
    """The content type of a file called `name`."""
    return _TYPES.get(name.rpartition(".")[2].lower(), DEFAULT)


def may_be_shown(content: str) -> bool:
    """Whether a browser may show it in place. A page or drawing from a payload could run code: it is to be saved."""
    return content.startswith(_SHOWN) and "svg" not in content
