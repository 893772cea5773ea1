"""The count of an incident: how often it was seen again, what Slack keeps of that, and how it is shown. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC
from typing import Any

from handlers.contract import Delivery
from handlers.slack.blocks import SECTION_MAX, SlackMessage, section
from handlers.slack.escape import code, link, units
from handlers.support.wording import duration, safe_url

TALLY = "runhook_tally"
RECENT = 10  # runs that a count names
REMEMBERED = 60  # deliveries that a count knows by their mark, so that none is counted twice
URL_MAX = 300  # ten of them, with the rest, are well within what Slack takes as metadata


@dataclass(frozen=True, slots=True)
class Seen:
    """One run that a count names."""

    run: str
    url: str
    at: str

    @classmethod
    def of(cls, delivery: Delivery) -> Seen:
        moment = delivery.received_at.astimezone(UTC)
        url = safe_url(delivery.run.get("app_url"))
        return cls(delivery.run_id[:80], url if len(url) <= URL_MAX else "", f"{moment:%Y-%m-%d %H:%M} UTC")


@dataclass(frozen=True, slots=True)
class IncidentCount:
    """How often an incident was seen again after its first message. `marks`: deliveries counted lately."""

    count: int = 0
    marks: tuple[str, ...] = ()
    recent: tuple[Seen, ...] = field(default=())

    def add(self, more: Mapping[str, Seen]) -> IncidentCount:
        """This tally with those of `more` (by mark) that it has not counted yet."""
        new = {one: seen for one, seen in more.items() if one not in self.marks}
        if not new:
            return self
        return replace(
            self,
            count=self.count + len(new),
            marks=(*self.marks, *new)[-REMEMBERED:],
            recent=(*self.recent, *new.values())[-RECENT:],
        )

    def to_metadata(self, topic: str) -> dict[str, Any]:
        """As Slack keeps it: its metadata may hold text, numbers and flat objects."""
        recent = [{"run": seen.run, "url": seen.url, "at": seen.at} for seen in self.recent]
        payload = {"topic": topic, "count": self.count, "deliveries": " ".join(self.marks), "recent": recent}
        return {"event_type": TALLY, "event_payload": payload}

    @classmethod
    def from_metadata(cls, payload: Mapping[str, Any]) -> IncidentCount:
        """The tally that a message carries. What does not fit is left out: it was read back from outside."""
        count, marks, recent = payload.get("count"), payload.get("deliveries"), payload.get("recent")
        runs: Iterable[Any] = recent if isinstance(recent, list) else ()
        seen = [
            Seen(*(str(item.get(name) or "") for name in ("run", "url", "at")))
            for item in runs
            if isinstance(item, Mapping)
        ]
        return cls(
            count if isinstance(count, int) and count >= 0 else 0,
            tuple(marks.split()[-REMEMBERED:]) if isinstance(marks, str) else (),
            tuple(seen[-RECENT:]),
        )


def again(tally: IncidentCount) -> SlackMessage:
    """The reply under an incident's first message."""
    text = f"🔁 Seen again: {tally.count + 1} times by now"
    lines: list[str] = []
    for line in map(_line, reversed(tally.recent)):
        if sum(map(units, lines)) + units(line) < SECTION_MAX - 200:
            lines.append(line)
    older = tally.count - len(lines)
    more = f"\nand {older} before" if older > 0 else ""
    blocks = [section(f"*{text}*\n" + "\n".join(lines) + more)]
    return SlackMessage(text, blocks)


def many(first: SlackMessage, number: int, seconds: float) -> SlackMessage:
    """A webhook's line about an incident that goes on. `first`: the message that this run would have had."""
    text = f"🔁 {number} times within {duration(seconds)}, for the same reason"
    return SlackMessage(f"{text}: {first.text}", [*first.blocks[:2], section(f"*{text}*")])


def _line(seen: Seen) -> str:
    parts = [code(seen.run, 90), code(seen.at, 40), link(seen.url, "open")]
    return "• " + " ".join(part for part in parts if part)
