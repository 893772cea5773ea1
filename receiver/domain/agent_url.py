"""Where the results of an agent's runs go, as the callback URL says that it has at Skyvern. Pure."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from handlers.support.url import without_query
from receiver.domain.callback import origin_of

Where = Literal["here", "elsewhere", "nowhere"]


def where(url: str | None, hooks: str) -> Where:
    """Return where results go that are posted to `url`. `hooks`: Runhook's URL of the source, without a token."""
    if not url:
        return "nowhere"
    return "here" if hooks and f"{_place(url)}/".startswith(f"{_place(hooks)}/") else "elsewhere"


def hooks_of(public_url: str, source: str) -> str:
    """Return the URL at which webhooks of a source reach us, without a token; "" without a public URL."""
    return f"{public_url}/webhooks/{source}" if public_url else ""


def shown(url: str | None) -> str:
    """Return a URL as it may be shown: without query and password, which may be secret."""
    return without_query(url) if url else ""


def _place(url: str) -> str:
    """Return the normalized origin and path of a URL."""
    try:
        return origin_of(url) + urlsplit(url.strip()).path.rstrip("/")
    except ValueError:
        return ""
