"""When the signed URLs in a body lapse: read from the URLs themselves. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_URL = re.compile(rb'https?:[^\s"<>]+')
_EPOCH = re.compile(rb"(?:[?&]|\\u0026|&amp;)(?:expiry|Expires)=([0-9]{9,11})(?![0-9])")
_AMAZON_DATE = re.compile(rb"X-Amz-Date=([0-9]{8}T[0-9]{6})Z")
_AMAZON_SECONDS = re.compile(rb"X-Amz-Expires=([0-9]{1,7})(?![0-9])")
_AZURE = re.compile(rb"(?:[?&]|\\u0026)se=([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}(?:%3A|:)[0-9]{2}(?:%3A|:)[0-9]{2})Z")


def lapses_at(body: bytes) -> float | None:
    """The earliest moment, in seconds since the epoch, at which a signed URL in `body` lapses; None: there is none."""
    moments = [moment for found in _URL.finditer(body) if (moment := _of(found[0])) is not None]
    return min(moments, default=None)


def _of(url: bytes) -> float | None:
    try:
        if found := _EPOCH.search(url):
            return float(found[1])
        if (date := _AMAZON_DATE.search(url)) and (seconds := _AMAZON_SECONDS.search(url)):
            begun = datetime.strptime(date[1].decode(), "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
            return begun.timestamp() + int(seconds[1])
        if found := _AZURE.search(url):
            return datetime.fromisoformat(found[1].decode().replace("%3A", ":")).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None  # a date that is none
    return None
