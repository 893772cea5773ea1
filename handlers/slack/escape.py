"""Text from outside made safe for Slack: it can mention nobody, forge no link, and end no code block.

Slack gives three characters a meaning (`&`, `<`, `>`), reads `@here` where parsing is on, and ends code at a backtick.
Lengths are counted in UTF-16 units, the larger of the two ways in which Slack's limits can be read.
Pure. It knows nothing of runs or messages.
"""

from __future__ import annotations

import re

from handlers.support.wording import WORD_JOINER, safe_url, visible

ELLIPSIS = "…"

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "`": "ˋ"}
_SHOUT = re.compile(r"@(?=here|channel|everyone|group)", re.IGNORECASE)  # a cut may end a longer word there


def mrkdwn(text: object, limit: int) -> str:
    """`text` escaped for a mrkdwn field: at the most `limit` units long, never cut within an escape. It can neither
    begin nor end code, so it may also stand within some.
    """
    return _fit(_SHOUT.sub("@" + WORD_JOINER, visible(text, limit)), limit, _ENTITIES)


def plain(text: object, limit: int) -> str:
    """`text` for a plain_text field, in one line. Angle brackets become look-alikes: whether Slack decodes escapes
    there or not, what is shown is the same, and it is never a mention.
    """
    line = " ".join(visible(text, limit).split())
    return _fit(_SHOUT.sub("@" + WORD_JOINER, line), limit, {"<": "‹", ">": "›"})


def code(text: object, limit: int = 200) -> str:
    """`text` as inline code, or "" when nothing of it is left."""
    line = " ".join(visible(text, limit).split())
    inner = _fit(_SHOUT.sub("@" + WORD_JOINER, line), limit - 2, _ENTITIES)
    return f"`{inner}`" if inner else ""


def code_block(text: object, limit: int) -> str:
    """`text` as a code block of at the most `limit` units, or "" when nothing of it is left."""
    stripped = visible(text, limit).strip("\n").rstrip()
    inner = _fit(_SHOUT.sub("@" + WORD_JOINER, stripped), limit - 8, _ENTITIES)
    return f"```\n{inner}\n```" if inner else ""


def link(url: object, label: object, limit: int = 80) -> str:
    """A Slack link to `url`, or "" when that is no http(s) address that can be written down safely."""
    address = safe_url(url)
    text = " ".join(visible(label, limit).split())
    inner = _fit(_SHOUT.sub("@" + WORD_JOINER, text), limit, {**_ENTITIES, "|": "¦"})
    return f"<{address}|{inner}>" if address and inner else ""


def units(text: str) -> int:
    """The length of `text` in UTF-16 units."""
    return len(text) + sum(char > "\uffff" for char in text)


def _fit(text: str, limit: int, replacements: dict[str, str]) -> str:
    """`text` with `replacements` made, cut before the first character that no longer fits, with an ellipsis."""
    out: list[str] = []
    length = 0
    room_at = 0  # how much of `out` leaves room for the ellipsis
    for char in text:
        piece = replacements.get(char, char)
        length += units(piece)
        if length > limit:
            return "".join(out[:room_at]).rstrip() + ELLIPSIS if limit > 0 else ""
        out.append(piece)
        if length < limit:
            room_at = len(out)
    return "".join(out)
