"""Describe a run to people: its outcome, its name, why it failed, how long it took. Pure.

Results are raw text from a payload and may contain anything: each sink must escape them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from handlers.contract import Delivery
from handlers.support.run_body import prompts, titles
from handlers.support.timestamps import utc

_URL = re.compile(r"(https?://[^/\s?#'\"]+)[^\s'\"]*", re.IGNORECASE)
_ID = re.compile(r"\b(?=[\w-]*\d)[\w-]{6,}\b")
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
# Control characters, lone surrogates, and characters that reorder or hide text (bidi controls, zero-width marks, tags).
INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f]"
)
_MENTION = re.compile(r"(?<![\w.+-])@(?=\w)|<(?=[@!#&:])")
_LINK = re.compile(r"\](?=[(\[:])|!(?=\[)|<(?=[A-Za-z][A-Za-z0-9+.-]*:[^>\s]*\|)")
WORD_JOINER = "\u2060"
_URL_UNSAFE = re.compile(r"[^A-Za-z0-9\-._~:/?#\[\]!$&'()*+,;=%]")
URL_MAX = 3000
# Characters of a name in a headline.
NAME_MAX = 120


@dataclass(frozen=True, slots=True)
class OutcomeLabel:
    """How an outcome is shown."""

    emoji: str
    text: str


OUTCOME_LABELS = {
    "completed": OutcomeLabel("✅", "completed"),
    "failed": OutcomeLabel("❌", "failed"),
    "terminated": OutcomeLabel("⛔", "terminated"),
    "timed_out": OutcomeLabel("⌛", "timed out"),
    "canceled": OutcomeLabel("🚫", "canceled"),
    "running": OutcomeLabel("▶️", "is running"),
    "queued": OutcomeLabel("🕓", "is queued"),
    "created": OutcomeLabel("🕓", "was created"),
    "paused": OutcomeLabel("⏸️", "is paused"),
}
RETRY = OutcomeLabel("🔁", "failed and will be tried again")
UNREADABLE = OutcomeLabel("⚠️", "sent a result that can't be read")
KINDS = {"task_v1": "task", "task_v2": "task", "task_v3": "task", "workflow_run": "workflow run"}


def visible_text(text: object, limit: int) -> str:
    """Return the first `limit` characters of `text` without invisible ones, or some more.

    Newlines and tabs are kept. The rest is not read: a payload can have a hundred megabytes.
    """
    text = str(text)[: limit * 4]
    return INVISIBLE.sub("", text.replace("\r\n", "\n").replace("\r", "\n").replace("\u2028", "\n"))


def without_mentions(text: str) -> str:
    """Return `text` without mentions for chat services: an invisible joiner follows each @ before a name, and each <
    that opens a mention.
    """
    return _MENTION.sub(lambda match: match[0] + WORD_JOINER, text)


def without_links(text: str) -> str:
    """Return `text` without labelled links and images for chat services.

    An invisible joiner breaks Markdown ([text](address), ![picture](address), [text]: address) and the markup of Slack
    and Mattermost (<address|text>). Bare addresses remain links.
    """
    return _LINK.sub(lambda match: match[0] + WORD_JOINER, text)


def without_particulars(text: str) -> str:
    """Return a failure reason without run-specific values: ids, numbers, and the paths of URLs."""
    text = _NUMBER.sub("#", _ID.sub("#", _URL.sub(r"\1", text[:4000])))
    return " ".join(text.lower().split())[:500]


def size(count: float) -> str:
    """Format a number of bytes, such as 1.5 MiB."""
    for unit, step in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= step:
            return f"{count / step:.1f} {unit}"
    return f"{count:.0f} B"


def safe_url(url: object) -> str:
    """Return `url`, with characters that markup could interpret percent-encoded, if it is an absolute http(s) URL.

    Returns "" for anything else, also for a URL with a user name, which can disguise the host.
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


def outcome_label(delivery: Delivery) -> OutcomeLabel:
    """Return the display style of the delivery's outcome."""
    if delivery.problem:
        return UNREADABLE
    if delivery.run.get("retry_pending") is True:
        return RETRY
    return OUTCOME_LABELS.get(delivery.status) or OutcomeLabel(
        "ℹ️", f"is {delivery.status}" if delivery.status else "has news"
    )


def run_name(delivery: Delivery) -> str:
    """Return the run's display name: its title, else its prompt, else its type."""
    candidates = [*titles(delivery.run), *prompts(delivery.run)]
    names = (" ".join(text[: NAME_MAX * 8].split()) for text in candidates)
    return next((name for name in names if name), run_kind(delivery.run_type).capitalize() or "A run")


# The names in `template_context`.
TEMPLATE_VARIABLES = frozenset({"headline", "title", "reason", "duration"})


def template_context(delivery: Delivery) -> dict[str, str]:
    """Return the variables of message templates, in addition to `templating.context_of`."""
    return {
        "headline": headline(delivery),
        "title": run_name(delivery),
        "reason": failure_reason(delivery),
        "duration": run_duration(delivery.run),
    }


def run_kind(run_type: str) -> str:
    """Return the display name of `run_type`; unknown types are unchanged."""
    return KINDS.get(run_type, run_type.replace("_", " "))


def headline(delivery: Delivery) -> str:
    """Return emoji, name and outcome in one line of at most about 140 characters."""
    label = outcome_label(delivery)
    title = " ".join(visible_text(run_name(delivery), NAME_MAX).split())
    short = title if len(title) <= NAME_MAX else title[: NAME_MAX - 1].rstrip() + "…"
    return f"{'[test] ' if delivery.test else ''}{label.emoji} {short} {label.text[:60]}"


def failure_reason(delivery: Delivery) -> str:
    """Return why the run did not complete, or ""."""
    if delivery.problem:
        return delivery.problem
    text = delivery.run.get("failure_reason")
    return text.strip() if isinstance(text, str) and delivery.status != "completed" else ""


def stored_links(delivery: Delivery) -> list[tuple[str, str]]:
    """Return (name, URL) of everything stored by the sinks in `after`, in their order."""
    names: dict[str, str] = {}
    for receipt in delivery.receipts.values():
        urls = receipt.get("urls") if isinstance(receipt, Mapping) else None
        for name, url in urls.items() if isinstance(urls, Mapping) else ():
            names.setdefault(str(url), str(name))
    return [(name, url) for url, name in names.items()]


def stored_places(delivery: Delivery) -> list[tuple[str, str]]:
    """Return (sink, receipt id) of sinks in `after` whose receipts have no link: a folder, a row."""
    places = []
    for sink, receipt in delivery.receipts.items():
        place = receipt.get("id") if isinstance(receipt, Mapping) and not receipt.get("urls") else None
        places += [(sink, place)] if isinstance(place, str) and place else []
    return places


def run_errors(delivery: Delivery) -> list[tuple[str, str]]:
    """Return (code, reasoning) of the run's errors; [] for a run that completed. Either may be "", not both.

    Skyvern sends {"error_code", "reasoning", …}; plain strings are accepted.
    """
    listed = delivery.run.get("errors")
    if not isinstance(listed, list) or delivery.status == "completed":
        return []
    pairs: list[tuple[str, str]] = []
    for error in listed:
        if isinstance(error, Mapping):
            code = error.get("error_code") or error.get("code") or error.get("error_type")
            text = error.get("reasoning") or error.get("message") or error.get("error")
        else:
            code, text = "", error
        pair = (code if isinstance(code, str) else "", text if isinstance(text, str) else "")
        pairs += [pair] if any(pair) else []
    return pairs


def failure_categories(delivery: Delivery) -> list[str]:
    """Return Skyvern's failure categories; [] for a run that completed."""
    listed = delivery.run.get("failure_category")
    if not isinstance(listed, list) or delivery.status == "completed":
        return []
    names = [item.get("category") for item in listed if isinstance(item, Mapping)]
    return [name for name in names if isinstance(name, str) and name]


def step_count(run: Mapping[str, Any]) -> str:
    """Return the number of steps, or ""."""
    count = run.get("step_count")
    return str(count) if isinstance(count, int) and not isinstance(count, bool) and 0 <= count < 10**9 else ""


def format_time(value: object) -> str:
    """Format one of Skyvern's datetimes in UTC; "" for any other value."""
    at = utc(value)
    return f"{at:%Y-%m-%d %H:%M:%S} UTC" if at else ""


def run_duration(run: Mapping[str, Any]) -> str:
    """Return the run's duration, or ""."""
    started = utc(run.get("started_at")) or utc(run.get("created_at"))
    ended = utc(run.get("finished_at"))
    return format_duration((ended - started).total_seconds()) if started and ended and ended >= started else ""


def format_duration(seconds: float) -> str:
    """Format `seconds`: 0.4 s, 12 s, 3 min 5 s, 2 h 10 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
