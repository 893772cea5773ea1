"""A run in words, for sinks that speak to people: what became of it, which one it is, why, how long it took.

Everything here is raw text out of a payload, which may hold anything: each sink makes it safe for where it puts it.
Pure. It knows no sink and no markup.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlsplit

from handlers.contract import Delivery
from handlers.support.run_title import titles

# Control characters, lone surrogates, and what reorders or hides text (bidi controls, zero-width marks, tags).
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f]"
)
_MENTION = re.compile(r"(?<![\w.+-])@(?=\w)|<(?=[@!#&:])")
WORD_JOINER = "\u2060"
_URL_UNSAFE = re.compile(r"[^A-Za-z0-9\-._~:/?#\[\]!$&'()*+,;=%]")
URL_MAX = 3000
NAME_MAX = 120  # characters of a name in a headline


@dataclass(frozen=True, slots=True)
class Look:
    """How an outcome is shown."""

    sign: str
    words: str


LOOKS = {
    "completed": Look("✅", "completed"),
    "failed": Look("❌", "failed"),
    "terminated": Look("⛔", "terminated"),
    "timed_out": Look("⌛", "timed out"),
    "canceled": Look("🚫", "canceled"),
    "running": Look("▶️", "is running"),
    "queued": Look("🕓", "is queued"),
    "created": Look("🕓", "was created"),
    "paused": Look("⏸️", "is paused"),
}
RETRY = Look("🔁", "failed and will be tried again")
UNREADABLE = Look("⚠️", "sent a result that can't be read")
KINDS = {"task_v1": "task", "task_v2": "task", "task_v3": "task", "workflow_run": "workflow run"}


def visible(text: object, limit: int) -> str:
    """The beginning of `text`, enough to fill `limit` characters, without those that are not seen; newlines and tabs
    stay. What comes after is not looked at: a payload can be a hundred megabytes.
    """
    text = str(text)[: limit * 4]
    return _UNSEEN.sub("", text.replace("\r\n", "\n").replace("\r", "\n").replace("\u2028", "\n"))


def unmentioning(text: str) -> str:
    """`text` in which no chat service finds anybody to call: a joiner that is not seen stands after each at-sign that
    a name follows, and after each angle bracket that would open a mention.
    """
    return _MENTION.sub(lambda match: match[0] + WORD_JOINER, text)


def safe_url(url: object) -> str:
    """`url` if it is an absolute http(s) address of a host, with all that could mean something in a message
    percent-encoded; else "". No address with a user name in it: that is how one host is made to look like another.
    """
    if not isinstance(url, str) or len(url) > URL_MAX or not url.isprintable() or url != url.strip():
        return ""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
    except ValueError:
        return ""
    encoded = _URL_UNSAFE.sub(lambda match: quote(match[0]), url) if usable else ""
    return encoded if len(encoded) <= URL_MAX else ""


def look(delivery: Delivery) -> Look:
    """Sign and words for the delivery's outcome."""
    if delivery.problem:
        return UNREADABLE
    if delivery.run.get("retry_pending") is True:
        return RETRY
    return LOOKS.get(delivery.status) or Look("ℹ️", f"is {delivery.status}" if delivery.status else "has news")


def name_of(delivery: Delivery) -> str:
    """What people call the run: its title, else what it was asked to do, else its kind."""
    run = delivery.run
    request = run.get("run_request")
    asked: Mapping[str, Any] = request if isinstance(request, Mapping) else {}
    candidates = [*titles(run), run.get("prompt"), asked.get("prompt"), run.get("navigation_goal")]
    names = (" ".join(text[: NAME_MAX * 8].split()) for text in candidates if isinstance(text, str))
    return next((name for name in names if name), kind(delivery.run_type).capitalize() or "A run")


def kind(run_type: str) -> str:
    """What `run_type` is to people; types that we don't know keep their name."""
    return KINDS.get(run_type, run_type.replace("_", " "))


def headline(delivery: Delivery) -> str:
    """Sign, name and outcome in one line of about 140 characters at the most."""
    shown = look(delivery)
    title = " ".join(visible(name_of(delivery), NAME_MAX).split())
    short = title if len(title) <= NAME_MAX else title[: NAME_MAX - 1].rstrip() + "…"
    return f"{'[test] ' if delivery.test else ''}{shown.sign} {short} {shown.words[:60]}"


def reason(delivery: Delivery) -> str:
    """Why the run did not complete, raw, or ""."""
    if delivery.problem:
        return delivery.problem
    text = delivery.run.get("failure_reason")
    return text.strip() if isinstance(text, str) and delivery.status != "completed" else ""


def mirrored(delivery: Delivery) -> list[tuple[str, str]]:
    """(name, URL) of everything that the sinks waited for have kept, in their order."""
    found: dict[str, str] = {}
    for receipt in delivery.receipts.values():
        urls = receipt.get("urls") if isinstance(receipt, Mapping) else None
        for name, url in urls.items() if isinstance(urls, Mapping) else ():
            found.setdefault(str(url), str(name))
    return [(name, url) for url, name in found.items()]


def kept(delivery: Delivery) -> list[tuple[str, str]]:
    """(sink, place) of what the sinks waited for have kept where no link leads: a folder, a row."""
    found = []
    for sink, receipt in delivery.receipts.items():
        place = receipt.get("id") if isinstance(receipt, Mapping) and not receipt.get("urls") else None
        found += [(sink, place)] if isinstance(place, str) and place else []
    return found


def errors(delivery: Delivery) -> list[tuple[str, str]]:
    """(code, reasoning) of the run's errors: Skyvern sends {"error_code", "reasoning", …}, and strings are taken too.
    Either may be "", not both. Empty for a run that completed.
    """
    listed = delivery.run.get("errors")
    if not isinstance(listed, list) or delivery.status == "completed":
        return []
    found: list[tuple[str, str]] = []
    for error in listed:
        if isinstance(error, Mapping):
            code = error.get("error_code") or error.get("code") or error.get("error_type")
            text = error.get("reasoning") or error.get("message") or error.get("error")
        else:
            code, text = "", error
        pair = (code if isinstance(code, str) else "", text if isinstance(text, str) else "")
        found += [pair] if any(pair) else []
    return found


def categories(delivery: Delivery) -> list[str]:
    """The categories of failure that Skyvern sees. Empty for a run that completed."""
    listed = delivery.run.get("failure_category")
    if not isinstance(listed, list) or delivery.status == "completed":
        return []
    names = [item.get("category") for item in listed if isinstance(item, Mapping)]
    return [name for name in names if isinstance(name, str) and name]


def steps(run: Mapping[str, Any]) -> str:
    """How many steps the run took, or ""."""
    count = run.get("step_count")
    return str(count) if isinstance(count, int) and not isinstance(count, bool) and 0 <= count < 10**9 else ""


def moment(value: object) -> str:
    """One of Skyvern's datetimes as people read it, in UTC; "" when it is none."""
    at = _time(value)
    return f"{at:%Y-%m-%d %H:%M:%S} UTC" if at else ""


def _time(value: object) -> datetime | None:
    """One of Skyvern's datetimes: naive means UTC."""
    if not isinstance(value, str):
        return None
    try:
        at = datetime.fromisoformat(value)
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def took(run: Mapping[str, Any]) -> str:
    """How long the run was at work, or ""."""
    begun = _time(run.get("started_at")) or _time(run.get("created_at"))
    ended = _time(run.get("finished_at"))
    return duration((ended - begun).total_seconds()) if begun and ended and ended >= begun else ""


def duration(seconds: float) -> str:
    """`seconds` as people say it: 0.4 s, 12 s, 3 min 5 s, 2 h 10 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
