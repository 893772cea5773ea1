"""A run's result as a Slack message: Block Kit by outcome, and the plain text that notifications show.

Everything that comes from a payload stands in a plain_text field, in code, or in a link's label; the rest is ours.
Pure: it takes a delivery and gives dicts back. It knows neither Slack's API nor what a template engine is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from handlers.contract import Artifact, Delivery
from handlers.slack.escape import code, code_block, link, mrkdwn, plain, units

HEADER_MAX = 150
NAME_MAX = 120  # of a headline without its sign
SECTION_MAX = 3000
FIELD_MAX = 2000
TEXT_MAX = 600  # of the fallback: notifications show less than that
BLOCKS_MAX = 50
REASON_MAX = 1500
OUTPUT_MAX = 1500
ERRORS_MAX = 5
LINKS_MAX = 20

Part = Literal["facts", "why", "output", "links", "context"]
LinkTo = Literal["run", "mirrored", "signed"]


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


@dataclass(frozen=True, slots=True)
class Words:
    """What a sink's templates put in the place of the built-in words: `title` is raw, `body` mrkdwn whose values are
    already escaped.
    """

    title: str = ""
    body: str = ""


@dataclass(frozen=True, slots=True)
class Style:
    """What a sink's options say about its messages."""

    show: Sequence[Part] = ("facts", "why", "output", "links", "context")
    link_to: Sequence[LinkTo] = ("run", "mirrored", "signed")


@dataclass(frozen=True, slots=True)
class Message:
    """`text` is what notifications and old clients show."""

    text: str
    blocks: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As both a webhook and chat.postMessage take it. Links unfold into previews nowhere."""
        return {"text": self.text, "blocks": self.blocks, "unfurl_links": False, "unfurl_media": False}


def build(
    delivery: Delivery, style: Style | None = None, words: Words | None = None, artifacts: Sequence[Artifact] = ()
) -> Message:
    """The message for `delivery`. `artifacts`: the run's files with signed links, shown where nothing was mirrored."""
    style, words = style or Style(), words or Words()
    head = words.title or headline(delivery)
    parts: dict[Part, Iterator[dict[str, Any]]] = {
        "why": _why(delivery),
        "output": _output(delivery),
        "facts": _facts(delivery),
        "links": _links(delivery, style.link_to, artifacts),
        "context": _context(delivery),
    }
    blocks: list[dict[str, Any]] = [header(head), section(identity(delivery))]
    if words.body:
        blocks += [section(piece) for piece in _pieces(words.body)]
    for part, made in parts.items():
        if part in style.show and not (words.body and part in ("why", "output", "facts")):
            blocks += made
    return Message(fallback(delivery, words.title), blocks[:BLOCKS_MAX])


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
    candidates = [run.get("workflow_title"), run.get("title"), asked.get("title")]
    candidates += [run.get("prompt"), asked.get("prompt"), run.get("navigation_goal")]
    titles = (" ".join(text.split()) for text in candidates if isinstance(text, str))
    return next((title for title in titles if title), kind(delivery.run_type).capitalize() or "A run")


def kind(run_type: str) -> str:
    """What `run_type` is to people; types that we don't know keep their name."""
    return KINDS.get(run_type, run_type.replace("_", " "))


def headline(delivery: Delivery) -> str:
    """The first line, raw: callers escape it for where it stands."""
    shown = look(delivery)
    title = name_of(delivery)
    room = NAME_MAX - units(shown.words)
    short = plain(title, room)
    return f"{'[test] ' if delivery.test else ''}{shown.sign} {short} {shown.words}"


def identity(delivery: Delivery) -> str:
    """The line under the header, mrkdwn: which run this is."""
    parts = [code(delivery.run_id)] if delivery.run_id else []
    parts += (
        [mrkdwn(KINDS.get(delivery.run_type, delivery.run_type.replace("_", " ")), 60)] if delivery.run_type else []
    )
    attempt = delivery.run.get("attempt")
    if isinstance(attempt, int) and 1 < attempt < 10**6:
        parts.append(f"attempt {attempt}")
    return " · ".join(parts) or code(delivery.event_id)


def reason(delivery: Delivery) -> str:
    """Why the run did not complete, raw, or ""."""
    if delivery.problem:
        return delivery.problem
    text = delivery.run.get("failure_reason")
    return text.strip() if isinstance(text, str) and delivery.status != "completed" else ""


def fallback(delivery: Delivery, title: str = "") -> str:
    """The message in one line of mrkdwn, for notifications."""
    line = title or headline(delivery)
    why = " ".join(reason(delivery).split())
    return mrkdwn(f"{line}: {why}" if why else line, TEXT_MAX)


def header(text: str) -> dict[str, Any]:
    """A headline of raw `text`."""
    return {
        "type": "header",
        "text": {"type": "plain_text", "text": plain(text, HEADER_MAX) or "Runhook", "emoji": False},
    }


def section(text: str) -> dict[str, Any]:
    """A paragraph of ready mrkdwn."""
    # verbatim: Slack makes no links, channel names or mentions out of the text by itself.
    return {"type": "section", "text": {"type": "mrkdwn", "text": text, "verbatim": True}}


def context(text: str) -> dict[str, Any]:
    """A line of small print, ready mrkdwn."""
    return {"type": "context", "elements": [{"type": "mrkdwn", "text": text, "verbatim": True}]}


def _pieces(text: str) -> list[str]:
    """mrkdwn of any length in sections of Slack's size, cut between lines where there are any."""
    pieces: list[str] = []
    for line in text.strip().split("\n"):
        if pieces and units(pieces[-1]) + units(line) + 1 <= SECTION_MAX:
            pieces[-1] += "\n" + line
        else:
            pieces.append(line if units(line) <= SECTION_MAX else _shorten(line))
    return [piece for piece in pieces if piece.strip()][:20]


def _shorten(line: str) -> str:
    """A line of ready mrkdwn that is too long: cut where neither an escape nor a link is open."""
    cut = line[: SECTION_MAX // 2]
    cut = cut[: cut.rfind("<")] if cut.rfind("<") > cut.rfind(">") else cut
    amp = cut.rfind("&", len(cut) - 5)
    return (cut[:amp] if amp >= 0 and ";" not in cut[amp:] else cut) + "…"


def _why(delivery: Delivery) -> Iterator[dict[str, Any]]:
    block = code_block(reason(delivery), REASON_MAX)
    if block:
        yield section(f"*Why*\n{block}")
    lines = [line for line in map(_error_line, _list(delivery.run.get("errors"))) if line]
    if lines and delivery.status != "completed":
        more = f"\n… and {len(lines) - ERRORS_MAX} more" if len(lines) > ERRORS_MAX else ""
        yield section("*Errors*\n" + "\n".join(lines[:ERRORS_MAX]) + more)


def _error_line(error: object) -> str:
    """One of the run's errors: Skyvern sends {"error_code", "reasoning", …}, and strings are taken too."""
    if isinstance(error, Mapping):
        name = error.get("error_code") or error.get("code") or error.get("error_type")
        text = error.get("reasoning") or error.get("message") or error.get("error")
    else:
        name, text = None, error
    parts = [code(part, 450) for part in (name, text) if isinstance(part, str)]
    return "• " + " ".join(part for part in parts if part) if any(parts) else ""


def _output(delivery: Delivery) -> Iterator[dict[str, Any]]:
    output = delivery.run.get("output")
    if delivery.status != "completed" or output in (None, "", [], {}):
        return
    block = code_block(output if isinstance(output, str) else _json(output, OUTPUT_MAX), OUTPUT_MAX)
    if block:
        yield section(f"*Output*\n{block}")


def _json(value: object, limit: int) -> str:
    """The first `limit` characters and a few more of `value` as JSON, without writing all of it first."""
    text = ""
    try:
        for piece in json.JSONEncoder(ensure_ascii=False, indent=1, default=str).iterencode(value):
            text += piece
            if len(text) > limit:
                break
    except RecursionError:
        text += "…"
    return text


def _facts(delivery: Delivery) -> Iterator[dict[str, Any]]:
    facts = [
        ("Duration", took(delivery.run)),
        ("Steps", _number(delivery.run.get("step_count"))),
        ("Category", _categories(delivery.run.get("failure_category")) if delivery.status != "completed" else ""),
        ("Finished", _moment(delivery.run.get("finished_at"))),
        ("Next attempt", _moment(delivery.run.get("next_attempt_at")) if look(delivery) is RETRY else ""),
    ]
    fields = [{"type": "mrkdwn", "text": f"*{name}*\n{value}", "verbatim": True} for name, value in facts if value]
    if fields:
        yield {"type": "section", "fields": fields}


def _links(delivery: Delivery, link_to: Sequence[LinkTo], artifacts: Sequence[Artifact]) -> Iterator[dict[str, Any]]:
    links = [link(delivery.run.get("app_url"), "Open the run")] if "run" in link_to else []
    lasting = [link(url, name) for name, url in mirrored(delivery)] if "mirrored" in link_to else []
    signed: list[str] = []
    if "signed" in link_to and not any(lasting):
        signed = [link(artifact.url, artifact.name) for artifact in artifacts]
    made = [one for one in (*links, *lasting, *signed) if one]
    line = ""
    for count, one in enumerate(made):
        if count == LINKS_MAX or units(line) + units(one) > SECTION_MAX - 60:
            line += f" · and {len(made) - count} more"
            break
        line += (" · " if line else "🔗 ") + one
    if line:
        yield section(line)
    if any(signed):
        yield context("The links to files are signed and lapse within hours.")


def mirrored(delivery: Delivery) -> list[tuple[str, str]]:
    """(name, URL) of everything that the sinks waited for have kept, in their order."""
    found: dict[str, str] = {}
    for receipt in delivery.receipts.values():
        urls = receipt.get("urls") if isinstance(receipt, Mapping) else None
        for name, url in urls.items() if isinstance(urls, Mapping) else ():
            found.setdefault(str(url), str(name))
    return [(name, url) for url, name in found.items()]


def _context(delivery: Delivery) -> Iterator[dict[str, Any]]:
    for sink, receipt in delivery.receipts.items():
        if receipt is None:
            yield context(
                f"⚠️ The sink {code(sink, 60)} did not take this result, so links to what it keeps are missing."
            )
    parts = ["sent by `runhook sink test`"] if delivery.test else []
    parts += [f"source {code(delivery.source, 60)}"] if delivery.source else []
    parts += [f"route {code(delivery.route, 60)}"] if delivery.route else []
    parts += [code(delivery.event_id, 60)] if delivery.event_id else []
    if parts:
        yield context(" · ".join(parts))


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _categories(value: object) -> str:
    names = [item.get("category") for item in _list(value) if isinstance(item, Mapping)]
    return ", ".join(code(name, 60) for name in names[:3] if isinstance(name, str))


def _number(value: object) -> str:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**9 else ""


def _time(value: object) -> datetime | None:
    """One of Skyvern's datetimes: naive means UTC."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _moment(value: object) -> str:
    moment = _time(value)
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC" if moment else ""


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
