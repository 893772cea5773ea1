"""Keep the beginning of a refusing server's response, which often says what is wrong, with the sink's error."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import urlsplit

from handlers.contract import SinkError
from handlers.support.url import hide_secrets, hide_values

# Maximum bytes that are kept.
MAX_EXCERPT: Final = 2_048


@contextmanager
def keep_response(body: bytes, url: str, secrets: Iterable[str] = ()) -> Iterator[None]:
    """Add the beginning of `body` to a SinkError that the block raises.

    It is without `secrets`, those of URLs in it, and the path and query of `url`, which was called.
    """
    try:
        yield
    except SinkError as error:
        hidden = {*secrets, urlsplit(url).path.rstrip("/")}
        error.response = cut(hide_secrets(hide_values(body.decode("utf-8", errors="replace"), hidden), url))
        raise


def cut(text: str) -> str:
    """Return at most MAX_EXCERPT bytes of `text`, without white space around it."""
    return text.strip().encode("utf-8", errors="replace")[:MAX_EXCERPT].decode("utf-8", errors="ignore")
