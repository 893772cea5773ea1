"""Content types by file ending: a fixed table, so that the host's own list does not change what is stored. Pure."""

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

_INLINE = ("image/", "video/", "audio/", "text/plain", "text/csv", "application/pdf", "application/json")


def content_type(name: str) -> str:
    """Return the content type of a file called `name`, by its ending."""
    return _TYPES.get(name.rpartition(".")[2].lower(), DEFAULT)


def is_inline_safe(content_type: str) -> bool:
    """Whether a browser may show it inline. A page or drawing from a payload could run code, so it is downloaded."""
    return content_type.startswith(_INLINE) and "svg" not in content_type
