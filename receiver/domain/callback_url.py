"""Runhook's callback URLs in what others write: the token in them is secret, so no sink and no caller sees one. Pure.

Skyvern repeats the URL in `webhook_callback_url`, in `run_request`, and in the sentence that says why a webhook could
not be delivered. A member that is nothing but such a URL becomes the caller's own URL, or null; inside longer text, and
in names of members, the token becomes stars.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

STARS: Final = "sub_********"

_SLASH = r"(?:\\?/|%2[Ff]|\\u002[fF])"
_SECRET = rf"(webhooks{_SLASH}[^/\\%\"\x00-\x20]{{1,200}}{_SLASH})(sub_[0-9a-f]{{32}})"
# Maximum bytes of a match.
LONGEST: Final = 256
# A URL up to our path. Text in JSON has escapes, which only slashes may need here.
_BEFORE = r"https?:(?:[^\"\\\x00-\x20]|\\/){1,2000}\\?/"
_IN_BYTES = re.compile(_SECRET.encode())
# A string that is only such a URL, and not the name of a member.
_STRING = re.compile(f'"{_BEFORE}{_SECRET}"'.encode() + rb"(?!\s*:)")
_TOKEN = re.compile(r"/webhooks/[^/]+/(sub_[0-9a-f]{32})\Z")


def token_of(run: Any) -> str:
    """Return the token in the callback URL that a run's own members name, or ""."""
    request = run.get("run_request") if isinstance(run, Mapping) else None
    for place in (request, run):
        for name in ("webhook_url", "webhook_callback_url"):
            url = place.get(name) if isinstance(place, Mapping) else None
            match = _TOKEN.search(url) if isinstance(url, str) else None
            if match:
                return match[1]
    return ""


def tokens_in(body: bytes) -> list[str]:
    """Return Runhook's tokens in the JSON text `body`, sorted."""
    if b"webhooks" not in body or b"sub_" not in body:
        return []
    return sorted({match[2].decode() for match in _IN_BYTES.finditer(body)})


def mask_piece(piece: bytes) -> bytes:
    """Return a piece of a JSON text with stars for each of Runhook's tokens, in the same length.

    A token at its end may continue in the next piece: hold LONGEST - 1 bytes back.
    """
    if b"sub_" not in piece:
        return piece
    return _IN_BYTES.sub(lambda found: found[1] + b"sub_" + b"*" * (len(found[2]) - 4), piece)


def mask_bytes(body: bytes, shown: Mapping[str, str] | None = None) -> bytes:
    """Return the JSON text `body` without our tokens; every other byte stays. The very same object if it has none.

    `shown`: callers' webhook URLs by token. Without one, or for "", the member becomes null.
    """
    # The longer one first: it is found in less time, and is mostly not there.
    if b"webhooks" not in body or b"sub_" not in body or not _IN_BYTES.search(body):
        return body

    def member(match: re.Match[bytes]) -> bytes:
        return json.dumps((shown or {}).get(match[2].decode()) or None, ensure_ascii=False).encode()

    return _IN_BYTES.sub(rb"\1" + STARS.encode(), _STRING.sub(member, body))
