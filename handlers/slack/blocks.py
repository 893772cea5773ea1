"""A run's result as a Slack message: Block Kit by outcome, and the plain text that notifications show.

Everything that comes from a payload stands in a plain_text field, in code, or in a link's label; the rest is ours.
Pure: it takes a delivery and gives dicts back. It knows neither Slack's API nor what a template engine is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from handlers.contract import Artifact, Delivery
from handlers.slack.escape import code, code_block, link, mrkdwn, plain, units
from handlers.support.wording import (
    RETRY,
    categories,
    errors,
    headline,
    kept,
    kind,
    look,
    mirrored,
    moment,
    reason,
    steps,
    took,
)

HEADER_MAX = 150
SECTION_MAX = 3000
TEXT_MAX = 600  # of the fallback: notifications show less than that
BLOCKS_MAX = 50
REASON_MAX = 1500
OUTPUT_MAX = 1500
ERRORS_MAX = 5
LINKS_MAX = 20

Part = Literal["facts", "why", "output", "links", "context"]
LinkTo = Literal["run", "mirrored", "signed"]


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
class SlackMessage:
    """`text` is what notifications and old clients show."""

    text: str
    blocks: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As both a webhook and chat.postMessage take it. Links unfold into previews nowhere."""
        return {"text": self.text, "blocks": self.blocks, "unfurl_links": False, "unfurl_media": False}


def build(
    delivery: Delivery, style: Style | None = None, words: Words | None = None, artifacts: Sequence[Artifact] = ()
) -> SlackMessage:
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
    return SlackMessage(fallback(delivery, words.title), blocks[:BLOCKS_MAX])


def identity(delivery: Delivery) -> str:
    """The line under the header, mrkdwn: which run this is."""
    parts = [code(delivery.run_id)] if delivery.run_id else []
    parts += [mrkdwn(kind(delivery.run_type), 60)] if delivery.run_type else []
    attempt = delivery.run.get("attempt")
    if isinstance(attempt, int) and 1 < attempt < 10**6:
        parts.append(f"attempt {attempt}")
    return " · ".join(parts) or code(delivery.event_id)


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
    pairs = errors(delivery)
    lines = [
        "• " + " ".join(part for part in (code(name, 450), code(text, 450)) if part)
        for name, text in pairs[:ERRORS_MAX]
    ]
    if lines:
        more = f"\n… and {len(pairs) - ERRORS_MAX} more" if len(pairs) > ERRORS_MAX else ""
        yield section("*Errors*\n" + "\n".join(lines) + more)


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
    run = delivery.run
    facts = [
        ("Duration", took(run)),
        ("Steps", steps(run)),
        ("Category", ", ".join(code(name, 60) for name in categories(delivery)[:3])),
        ("Finished", moment(run.get("finished_at"))),
        ("Next attempt", moment(run.get("next_attempt_at")) if look(delivery) is RETRY else ""),
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
    kept_at = [f"kept by {code(sink, 60)} as {code(place, 300)}" for sink, place in kept(delivery)[:5]]
    if kept_at and "mirrored" in link_to:
        yield context(" · ".join(kept_at))
    if any(signed):
        yield context("The links to files are signed and lapse within hours.")


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
