"""Count how often an incident is repeated, as Slack's message metadata stores it and as messages show it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC
from typing import Any

from handlers.contract import Delivery
from handlers.slack.blocks import SECTION_MAX, SlackMessage, section
from handlers.slack.escape import code, link, utf16_length
from handlers.support.wording import format_duration, safe_url

COUNT_EVENT = "runhook_tally"
# Runs that a count names.
RECENT = 10
# Deliveries that a count remembers by their mark, so that none is counted twice.
REMEMBERED = 60
# Characters of a run's URL; ten of them, with the rest, are well within Slack's limit of metadata.
URL_MAX = 300


@dataclass(frozen=True, slots=True)
class SeenRun:
    """One run that a count names."""

    run: str
    url: str
    at: str

    @classmethod
    def of(cls, delivery: Delivery) -> SeenRun:
        """Make one of a delivery. `url` is "" when it is unsafe or too long."""
        moment = delivery.received_at.astimezone(UTC)
        url = safe_url(delivery.run.get("app_url"))
        return cls(delivery.run_id[:80], url if len(url) <= URL_MAX else "", f"{moment:%Y-%m-%d %H:%M} UTC")


@dataclass(frozen=True, slots=True)
class IncidentCount:
    """How often an incident was repeated after its first message. `marks`: recently counted deliveries."""

    repeats: int = 0
    marks: tuple[str, ...] = ()
    recent: tuple[SeenRun, ...] = field(default=())

    def add(self, more: Mapping[str, SeenRun]) -> IncidentCount:
        """Return this count with those of `more` (by mark) that it has not counted yet."""
        new = {one: seen for one, seen in more.items() if one not in self.marks}
        if not new:
            return self
        return replace(
            self,
            repeats=self.repeats + len(new),
            marks=(*self.marks, *new)[-REMEMBERED:],
            recent=(*self.recent, *new.values())[-RECENT:],
        )

    def to_metadata(self, topic: str) -> dict[str, Any]:
        """Return the count as message metadata, which may hold text, numbers and flat objects."""
        recent = [{"run": seen.run, "url": seen.url, "at": seen.at} for seen in self.recent]
        payload = {"topic": topic, "count": self.repeats, "deliveries": " ".join(self.marks), "recent": recent}
        return {"event_type": COUNT_EVENT, "event_payload": payload}

    @classmethod
    def from_metadata(cls, payload: Mapping[str, Any]) -> IncidentCount:
        """Read the count from message metadata. Malformed parts are left out, since anybody may have written them."""
        count, marks, recent = payload.get("count"), payload.get("deliveries"), payload.get("recent")
        runs: Iterable[Any] = recent if isinstance(recent, list) else ()
        seen = [
            SeenRun(*(str(item.get(name) or "") for name in ("run", "url", "at")))
            for item in runs
            if isinstance(item, Mapping)
        ]
        return cls(
            count if isinstance(count, int) and count >= 0 else 0,
            tuple(marks.split()[-REMEMBERED:]) if isinstance(marks, str) else (),
            tuple(seen[-RECENT:]),
        )


def repeat_reply(count: IncidentCount) -> SlackMessage:
    """Return the reply under an incident's first message."""
    text = f"🔁 Seen again: {count.repeats + 1} times by now"
    lines: list[str] = []
    for line in map(_line, reversed(count.recent)):
        if sum(map(utf16_length, lines)) + utf16_length(line) < SECTION_MAX - 200:
            lines.append(line)
    older = count.repeats - len(lines)
    more = f"\nand {older} before" if older > 0 else ""
    blocks = [section(f"*{text}*\n" + "\n".join(lines) + more)]
    return SlackMessage(text, blocks)


def repeat_line(first: SlackMessage, number: int, seconds: float) -> SlackMessage:
    """Return a webhook's message about a repeated incident. `first`: the message that this run alone would have had."""
    text = f"🔁 {number} times within {format_duration(seconds)}, for the same reason"
    return SlackMessage(f"{text}: {first.text}", [*first.blocks[:2], section(f"*{text}*")])


def _line(seen: SeenRun) -> str:
    parts = [code(seen.run, 90), code(seen.at, 40), link(seen.url, "open")]
    return "• " + " ".join(part for part in parts if part)
