"""Escape text for Slack, so that it creates no mention or link and ends no code block. Pure.

Slack interprets three characters (`&`, `<`, `>`), parses `@here` if enabled, and ends code at a backtick. Lengths are
in UTF-16 units, the stricter reading of Slack's limits.
"""

from __future__ import annotations

import re

from handlers.support.wording import WORD_JOINER, safe_url, visible_text

ELLIPSIS = "…"

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "`": "ˋ"}
_SHOUT = re.compile(r"@(?=here|channel|everyone|group)", re.IGNORECASE)  # a cut may produce one from a longer word


def mrkdwn(text: object, limit: int) -> str:
    """Escape `text` for a mrkdwn field, in at most `limit` units, never cut inside an escape.

    Backticks are replaced, so the result is safe inside code.
    """
    return _fit(visible_text(text, limit), limit, _ENTITIES)


def plain(text: object, limit: int) -> str:
    """Return `text` for a plain_text field, in one line.

    Angle brackets become look-alikes, which read the same with or without decoding and never mention.
    """
    return _fit(_one_line(text, limit), limit, {"<": "‹", ">": "›"})


def code(text: object, limit: int = 200) -> str:
    """Return `text` as inline code, or "" if empty."""
    inner = _fit(_one_line(text, limit), limit - 2, _ENTITIES)
    return f"`{inner}`" if inner else ""


def code_block(text: object, limit: int) -> str:
    """Return `text` as a code block of at most `limit` units, or "" if empty."""
    inner = _fit(visible_text(text, limit).strip("\n").rstrip(), limit - 8, _ENTITIES)
    return f"```\n{inner}\n```" if inner else ""


def link(url: object, label: object, limit: int = 80) -> str:
    """Return a Slack link to `url`, or "" when that is not a safe http(s) URL."""
    address = safe_url(url)
    inner = _fit(_one_line(label, limit), limit, {**_ENTITIES, "|": "¦"})
    return f"<{address}|{inner}>" if address and inner else ""


def utf16_length(text: str) -> int:
    """Return the length of `text` in UTF-16 units."""
    return len(text) + sum(char > "\uffff" for char in text)


def _one_line(text: object, limit: int) -> str:
    return " ".join(visible_text(text, limit).split())


def _fit(text: str, limit: int, replacements: dict[str, str]) -> str:
    """Return `text` with `replacements` and no @here, cut at the limit with an ellipsis."""
    text = _SHOUT.sub("@" + WORD_JOINER, text)
    out: list[str] = []
    length = 0
    # Length of `out` that leaves room for the ellipsis.
    room_at = 0
    for char in text:
        piece = replacements.get(char, char)
        length += utf16_length(piece)
        if length > limit:
            return "".join(out[:room_at]).rstrip() + ELLIPSIS if limit > 0 else ""
        out.append(piece)
        if length < limit:
            room_at = len(out)
    return "".join(out)
