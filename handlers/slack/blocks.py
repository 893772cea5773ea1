"""Build a Slack message from a run's result: Block Kit blocks, and plain text for notifications. Pure.

Payload text goes only into plain_text fields, code, or link labels. This file uses neither Slack's API nor the template
engine.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from handlers.contract import Artifact, Delivery, Notification
from handlers.slack.escape import code, code_block, link, mrkdwn, plain, utf16_length
from handlers.support import wording

HEADER_MAX = 150
SECTION_MAX = 3000
# Maximum characters of the fallback text; notifications show fewer.
TEXT_MAX = 600
BLOCKS_MAX = 50
REASON_MAX = 1500
OUTPUT_MAX = 1500
ERRORS_MAX = 5
LINKS_MAX = 20

MessagePart = Literal["facts", "why", "output", "links", "context"]
LinkTo = Literal["run", "mirrored", "signed"]
ALL_PARTS: Final[tuple[MessagePart, ...]] = ("facts", "why", "output", "links", "context")
ALL_LINKS: Final[tuple[LinkTo, ...]] = ("run", "mirrored", "signed")


@dataclass(frozen=True, slots=True)
class SlackMessage:
    """A message. `text`: shown by notifications and old clients."""

    text: str
    blocks: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the arguments for a webhook or chat.postMessage. Links get no previews."""
        return {"text": self.text, "blocks": self.blocks, "unfurl_links": False, "unfurl_media": False}


def build(
    delivery: Delivery,
    title: str = "",
    body: str = "",
    artifacts: Sequence[Artifact] = (),
    *,
    show: Sequence[MessagePart] = ALL_PARTS,
    link_to: Sequence[LinkTo] = ALL_LINKS,
) -> SlackMessage:
    """Build the message.

    `title` (raw text), `body` (mrkdwn with escaped values): from a sink's templates. `artifacts`: the run's files with
    signed links, shown if no sink has stored any.
    """
    parts: dict[MessagePart, Iterator[dict[str, Any]]] = {
        "why": _reason_blocks(delivery),
        "output": _output_blocks(delivery),
        "facts": _fact_blocks(delivery),
        "links": _link_blocks(delivery, link_to, artifacts),
        "context": _context_blocks(delivery),
    }
    blocks: list[dict[str, Any]] = [header(title or wording.headline(delivery)), section(run_line(delivery))]
    blocks += [section(piece) for piece in _split(body)]
    for part, part_blocks in parts.items():
        if part in show and not (body and part in ("why", "output", "facts")):
            blocks += part_blocks
    return SlackMessage(fallback_text(delivery, title), blocks[:BLOCKS_MAX])


def build_notification(notification: Notification) -> SlackMessage:
    """Build the message of a notification."""
    pieces = _split("\n".join(map(_with_code, notification.lines)))
    blocks = [header(notification.title), *map(section, pieces)]
    if notification.link:
        blocks.append(section(link(notification.link, "Open Runhook")))
    return SlackMessage(mrkdwn(notification.title, TEXT_MAX), blocks[:BLOCKS_MAX])


def _with_code(line: str) -> str:
    """Return a line as mrkdwn, with `…` as code."""
    parts = line.split("`")
    if len(parts) % 2 == 0:  # a quote that does not end
        return mrkdwn(line, SECTION_MAX)
    return "".join(code(part) if index % 2 else mrkdwn(part, SECTION_MAX) for index, part in enumerate(parts))


def run_line(delivery: Delivery) -> str:
    """Return the line under the header that identifies the run, as mrkdwn."""
    parts = [code(delivery.run_id)] if delivery.run_id else []
    parts += [mrkdwn(wording.run_kind(delivery.run_type), 60)] if delivery.run_type else []
    attempt = delivery.run.get("attempt")
    if isinstance(attempt, int) and 1 < attempt < 10**6:
        parts.append(f"attempt {attempt}")
    return " · ".join(parts) or code(delivery.event_id)


def fallback_text(delivery: Delivery, title: str) -> str:
    """Return the message as one line of mrkdwn, for notifications."""
    line = title or wording.headline(delivery)
    why = " ".join(wording.failure_reason(delivery).split())
    return mrkdwn(f"{line}: {why}" if why else line, TEXT_MAX)


def header(text: str) -> dict[str, Any]:
    """Return a header block of raw `text`."""
    return {
        "type": "header",
        "text": {"type": "plain_text", "text": plain(text, HEADER_MAX) or "Runhook", "emoji": False},
    }


def section(text: str) -> dict[str, Any]:
    """Return a section block of escaped mrkdwn."""
    # verbatim: Slack does not turn parts of the text into links, channels or mentions.
    return {"type": "section", "text": {"type": "mrkdwn", "text": text, "verbatim": True}}


def context(text: str) -> dict[str, Any]:
    """Return a context block (small print) of escaped mrkdwn."""
    return {"type": "context", "elements": [{"type": "mrkdwn", "text": text, "verbatim": True}]}


def _split(text: str) -> list[str]:
    """Split mrkdwn into pieces that fit a section, between lines where possible."""
    pieces: list[str] = []
    for line in text.strip().split("\n"):
        if pieces and utf16_length(pieces[-1]) + utf16_length(line) + 1 <= SECTION_MAX:
            pieces[-1] += "\n" + line
        else:
            pieces.append(line if utf16_length(line) <= SECTION_MAX else _shorten(line))
    return [piece for piece in pieces if piece.strip()][:20]


def _shorten(line: str) -> str:
    """Cut an overlong line of escaped mrkdwn outside of escapes and links."""
    cut = line[: SECTION_MAX // 2]
    cut = cut[: cut.rfind("<")] if cut.rfind("<") > cut.rfind(">") else cut
    amp = cut.rfind("&", len(cut) - 5)
    return (cut[:amp] if amp >= 0 and ";" not in cut[amp:] else cut) + "…"


def _reason_blocks(delivery: Delivery) -> Iterator[dict[str, Any]]:
    block = code_block(wording.failure_reason(delivery), REASON_MAX)
    if block:
        yield section(f"*Why*\n{block}")
    pairs = wording.run_errors(delivery)
    lines = [
        "• " + " ".join(part for part in (code(name, 450), code(text, 450)) if part)
        for name, text in pairs[:ERRORS_MAX]
    ]
    if lines:
        more = f"\n… and {len(pairs) - ERRORS_MAX} more" if len(pairs) > ERRORS_MAX else ""
        yield section("*Errors*\n" + "\n".join(lines) + more)


def _output_blocks(delivery: Delivery) -> Iterator[dict[str, Any]]:
    output = delivery.run.get("output")
    if delivery.status != "completed" or output in (None, "", [], {}):
        return
    block = code_block(output if isinstance(output, str) else _json(output, OUTPUT_MAX), OUTPUT_MAX)
    if block:
        yield section(f"*Output*\n{block}")


def _json(value: object, limit: int) -> str:
    """Return at least the first `limit` characters of `value` as JSON, without serialising the rest."""
    text = ""
    try:
        for piece in json.JSONEncoder(ensure_ascii=False, indent=1, default=str).iterencode(value):
            text += piece
            if len(text) > limit:
                break
    except RecursionError:
        text += "…"
    return text


def _fact_blocks(delivery: Delivery) -> Iterator[dict[str, Any]]:
    run = delivery.run
    will_retry = wording.outcome_label(delivery) is wording.RETRY
    facts = [
        ("Duration", wording.run_duration(run)),
        ("Steps", wording.step_count(run)),
        ("Category", ", ".join(code(name, 60) for name in wording.failure_categories(delivery)[:3])),
        ("Finished", wording.format_time(run.get("finished_at"))),
        ("Next attempt", wording.format_time(run.get("next_attempt_at")) if will_retry else ""),
    ]
    fields = [{"type": "mrkdwn", "text": f"*{name}*\n{value}", "verbatim": True} for name, value in facts if value]
    if fields:
        yield {"type": "section", "fields": fields}


def _link_blocks(
    delivery: Delivery, link_to: Sequence[LinkTo], artifacts: Sequence[Artifact]
) -> Iterator[dict[str, Any]]:
    links = [link(delivery.run.get("app_url"), "Open the run")] if "run" in link_to else []
    lasting = [link(url, name) for name, url in wording.stored_links(delivery)] if "mirrored" in link_to else []
    signed: list[str] = []
    if "signed" in link_to and not any(lasting):
        signed = [link(artifact.url, artifact.name) for artifact in artifacts]
    links_shown = [text for text in (*links, *lasting, *signed) if text]
    line = ""
    for count, text in enumerate(links_shown):
        if count == LINKS_MAX or utf16_length(line) + utf16_length(text) > SECTION_MAX - 60:
            line += f" · and {len(links_shown) - count} more"
            break
        line += (" · " if line else "🔗 ") + text
    if line:
        yield section(line)
    kept_at = [f"kept by {code(sink, 60)} as {code(place, 300)}" for sink, place in wording.stored_places(delivery)[:5]]
    if kept_at and "mirrored" in link_to:
        yield context(" · ".join(kept_at))
    if any(signed):
        yield context("The links to files are signed and expire within hours.")


def _context_blocks(delivery: Delivery) -> Iterator[dict[str, Any]]:
    for sink, receipt in delivery.receipts.items():
        if receipt is None:
            yield context(
                f"⚠️ The sink {code(sink, 60)} did not take this result, so links to what it keeps are missing."
            )
    parts = ["only a test, about no run of yours"] if delivery.test else []
    parts += [f"source {code(delivery.source, 60)}"] if delivery.source else []
    parts += [f"route {code(delivery.route, 60)}"] if delivery.route else []
    parts += [code(delivery.event_id, 60)] if delivery.event_id else []
    if parts:
        yield context(" · ".join(parts))
