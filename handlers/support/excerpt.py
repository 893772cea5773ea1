"""Attach the start of a rejecting response, which often names the cause, to the sink's error."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import quote, urlsplit

from handlers.contract import SinkError
from handlers.support.url import hide_secrets, hide_values

# Maximum bytes shown, and searched for secrets.
MAX_EXCERPT: Final = 2_048
_SEARCHED: Final = 8 * MAX_EXCERPT
# Minimum characters of a path segment, and of a header's part, to hide separately.
_PATH_TOKEN, _HEADER_TOKEN = 16, 8


@contextmanager
def keep_response(body: bytes, url: str, secrets: Iterable[str] = ()) -> Iterator[None]:
    """Add the start of `body` to a SinkError from the block.

    Masks `secrets`, secrets of URLs in it, and path and query of the called `url`.
    """
    try:
        yield
    except SinkError as error:
        path = urlsplit(url).path.rstrip("/")
        hidden = {*secrets, path, *(part for part in path.split("/") if len(part) >= _PATH_TOKEN)}
        text = body[:_SEARCHED].decode("utf-8", errors="replace")
        # More than is shown, so that secrets are complete when masked.
        error.response = cut(hide_secrets(hide_values(text, _spellings(hidden)), url), 2 * MAX_EXCERPT)
        raise


def credentials(header: str) -> set[str]:
    """Return the secrets in a header's value: all of it, the part after a scheme such as Bearer, long parts (cookies),
    and a Basic password."""
    scheme, _, rest = header.partition(" ")
    secrets = {header, rest, *(part for part in re.split(r'[\s;,="]+', header) if len(part) >= _HEADER_TOKEN)}
    if scheme.lower() == "basic":
        try:
            decoded = base64.b64decode(rest).decode(errors="replace")
        except ValueError:
            return secrets
        secrets |= {decoded, decoded.partition(":")[2]}
    return secrets


def _spellings(secrets: Iterable[str]) -> Iterator[str]:
    """Yield each secret in the encodings of responses: plain, JSON (also with PHP's escaped slashes), HTML and URLs."""
    for secret in secrets:
        in_json = json.dumps(secret, ensure_ascii=False)[1:-1]
        yield from (secret, in_json, in_json.replace("/", r"\/"), html.escape(secret))
        yield from (quote(secret, errors="replace"), quote(secret, safe="", errors="replace"))


def cut(text: str, most: int = MAX_EXCERPT) -> str:
    """Return at most `most` bytes of `text`, stripped."""
    return text.strip().encode("utf-8", errors="replace")[:most].decode("utf-8", errors="ignore")
