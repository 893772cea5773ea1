"""The thread of a message, and the count of an incident's repeats.

Pure. A topic is the subject of a thread: one run, or one incident (a workflow failing for the same reason). Topics and
counts are stored in Slack's message metadata: a sink has no ledger, and all processes can read them there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC
from typing import Any, Literal

from handlers.contract import Delivery
from handlers.slack.blocks import SECTION_MAX, SlackMessage, section
from handlers.slack.escape import code, link, utf16_length
from handlers.support.run_body import FAILED
from handlers.support.timestamps import epoch
from handlers.support.wording import failure_reason, format_duration, run_errors, safe_url, without_particulars

ThreadBy = Literal["run", "incident", "none"]

MESSAGE_EVENT = "runhook_message"
COUNT_EVENT = "runhook_tally"
# Maximum runs in a count, and marks of counted deliveries, against double counting.
RECENT = 10
REMEMBERED = 60
# Maximum characters of a run's URL; ten fit into Slack's metadata limit.
URL_MAX = 300
# Maximum age of a run's first message in the search, in seconds.
RUN_LOOKBACK = 7 * 86400.0


@dataclass(frozen=True, slots=True)
class Topic:
    """The subject of a thread. `key`: its name in metadata. `since`: earliest time of its first message (epoch
    seconds)."""

    kind: Literal["run", "incident"]
    key: str
    since: float


def topic_of(delivery: Delivery, by: ThreadBy, window: float, now: float) -> Topic | None:
    """Return the topic of `delivery`, or None without a thread.

    `window`: seconds that an incident lasts after its first message. `now`: seconds since the epoch.
    """
    if by == "none" or delivery.test or delivery.problem or not delivery.run_id:
        return None
    if by == "run":
        return Topic("run", _digest(delivery.sink, delivery.source, delivery.run_id), _earliest(delivery, now))
    if delivery.status not in FAILED:
        return None
    return Topic(
        "incident",
        _digest(delivery.sink, delivery.source, workflow_of(delivery), delivery.status, normalized_reason(delivery)),
        now - window,
    )


def mark(delivery: Delivery) -> str:
    """Return a short name of `delivery` for metadata, the same at every attempt."""
    return _digest(delivery.key)[:12]


def workflow_of(delivery: Delivery) -> str:
    """Return the id of what runs repeatedly: the workflow's id, else a task's URL or title, else the run type."""
    run = delivery.run
    for name in ("workflow_permanent_id", "workflow_id", "agent_id", "url", "title"):
        value = run.get(name)
        if isinstance(value, str) and value:
            return value
    return delivery.run_type


def normalized_reason(delivery: Delivery) -> str:
    """Return the failure reason without run-specific values; without a reason, the error codes."""
    text = failure_reason(delivery)
    if not text:
        text = " ".join(sorted(code or words for code, words in run_errors(delivery)))
    return without_particulars(text)


def message_metadata(delivery: Delivery, topic: Topic | None) -> dict[str, Any]:
    """Return metadata to find the message at later attempts and events of the topic."""
    payload = {"delivery": mark(delivery), "topic": topic.key if topic else ""}
    return {"event_type": MESSAGE_EVENT, "event_payload": payload}


def payload_of(message: Mapping[str, Any], event_type: str) -> Mapping[str, Any]:
    """Return the payload of Runhook's metadata of `event_type` on a message from Slack, or {}."""
    metadata = message.get("metadata")
    if not isinstance(metadata, Mapping) or metadata.get("event_type") != event_type:
        return {}
    payload = metadata.get("event_payload")
    return payload if isinstance(payload, Mapping) else {}


# A run in a count: its id, time of its result, and URL in Skyvern ("" if unsafe or too long).
SeenRun = Mapping[Literal["run", "at", "url"], str]


def seen_run(delivery: Delivery) -> SeenRun:
    """Return a delivery's run for a count."""
    url = safe_url(delivery.run.get("app_url"))
    moment = delivery.received_at.astimezone(UTC)
    return {
        "run": delivery.run_id[:80],
        "at": f"{moment:%Y-%m-%d %H:%M} UTC",
        "url": url if len(url) <= URL_MAX else "",
    }


@dataclass(frozen=True, slots=True)
class IncidentCount:
    """The number of repeats after an incident's first message. `marks`: recently counted deliveries."""

    repeats: int = 0
    marks: tuple[str, ...] = ()
    recent: tuple[SeenRun, ...] = ()

    def add(self, more: Mapping[str, SeenRun]) -> IncidentCount:
        """Return this count plus the uncounted runs of `more` (by mark)."""
        new = {mark_: seen for mark_, seen in more.items() if mark_ not in self.marks}
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
        marks, recent = " ".join(self.marks), [*self.recent]
        payload = {"topic": topic, "count": self.repeats, "deliveries": marks, "recent": recent}
        return {"event_type": COUNT_EVENT, "event_payload": payload}

    @classmethod
    def from_metadata(cls, payload: Mapping[str, Any]) -> IncidentCount:
        """Read the count from message metadata. Malformed values are skipped."""
        count, marks, recent = payload.get("count"), payload.get("deliveries"), payload.get("recent")
        runs: Iterable[Any] = recent if isinstance(recent, list) else ()
        seen: list[SeenRun] = [
            {"run": str(item.get("run") or ""), "at": str(item.get("at") or ""), "url": str(item.get("url") or "")}
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
    """Return a webhook's message about a repeated incident. `first`: the message of this run alone."""
    text = f"🔁 {number} times within {format_duration(seconds)}, for the same reason"
    return SlackMessage(f"{text}: {first.text}", [*first.blocks[:2], section(f"*{text}*")])


def _line(seen: SeenRun) -> str:
    parts = [code(seen["run"], 90), code(seen["at"], 40), link(seen["url"], "open")]
    return "• " + " ".join(part for part in parts if part)


def _earliest(delivery: Delivery, now: float) -> float:
    created = epoch(delivery.run.get("created_at"))
    if created is None:
        return now - RUN_LOOKBACK
    return max(created - 3600, now - RUN_LOOKBACK)  # an hour for clocks that disagree


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:24]
