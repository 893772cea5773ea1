"""Which messages belong together, and how they are found again. Pure: values in, values out.

A topic is what a thread is about: one run, or one incident (the same workflow failing for the same reason). What is
known of it travels in Slack's own message metadata, because a sink has no ledger: any process can read it back.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from handlers.contract import Delivery
from handlers.support.wording import errors, reason

ThreadBy = Literal["run", "incident", "none"]

MESSAGE = "runhook_message"
FAILURES = frozenset({"failed", "terminated", "timed_out"})
RUN_LOOKBACK = 7 * 86400.0  # seconds; a run's first message is not looked for further back

# What differs between two failures for the same reason: addresses' tails, ids, numbers, quoted values.
_URL = re.compile(r"(https?://[^/\s?#'\"]+)[^\s'\"]*", re.IGNORECASE)
_ID = re.compile(r"\b(?=[\w-]*\d)[\w-]{6,}\b")
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")


@dataclass(frozen=True, slots=True)
class Topic:
    """`key` names it in metadata; `since` (seconds since the epoch) is how far back its first message may be."""

    kind: Literal["run", "incident"]
    key: str
    since: float


def topic_of(delivery: Delivery, by: ThreadBy, window: float, now: float) -> Topic | None:
    """The topic of `delivery`, or None when its message stands alone.

    `window`: seconds that an incident lasts after its first message. `now`: seconds since the epoch.
    """
    if by == "none" or delivery.test or delivery.problem or not delivery.run_id:
        return None
    if by == "run":
        return Topic("run", _digest(delivery.sink, delivery.source, delivery.run_id), _born(delivery, now))
    if delivery.status not in FAILURES:
        return None
    return Topic(
        "incident",
        _digest(delivery.sink, delivery.source, workflow_of(delivery), delivery.status, same_reason(delivery)),
        now - window,
    )


def mark(delivery: Delivery) -> str:
    """What names `delivery` in metadata: short, and the same at every attempt."""
    return _digest(delivery.key)[:12]


def workflow_of(delivery: Delivery) -> str:
    """What is run again and again: the workflow's id, else the address or title of a task, else its run type."""
    run = delivery.run
    for name in ("workflow_permanent_id", "workflow_id", "agent_id", "url", "title"):
        value = run.get(name)
        if isinstance(value, str) and value:
            return value
    return delivery.run_type


def same_reason(delivery: Delivery) -> str:
    """The reason with everything taken out that differs from run to run; the error codes when there is none."""
    text = reason(delivery)
    if not text:
        text = " ".join(sorted(code or words for code, words in errors(delivery)))
    text = _NUMBER.sub("#", _ID.sub("#", _URL.sub(r"\1", text[:4000])))
    return " ".join(text.lower().split())[:500]


def message_metadata(delivery: Delivery, topic: Topic | None) -> dict[str, Any]:
    """What lets a later attempt, or a later event of the same topic, find the message again."""
    payload = {"delivery": mark(delivery), "topic": topic.key if topic else ""}
    return {"event_type": MESSAGE, "event_payload": payload}


def payload_of(message: Mapping[str, Any], event_type: str) -> Mapping[str, Any]:
    """The payload of our metadata of that type on a message from Slack, or {}."""
    metadata = message.get("metadata")
    if not isinstance(metadata, Mapping) or metadata.get("event_type") != event_type:
        return {}
    payload = metadata.get("event_payload")
    return payload if isinstance(payload, Mapping) else {}


def _born(delivery: Delivery, now: float) -> float:
    try:
        moment = datetime.fromisoformat(str(delivery.run.get("created_at")))
    except ValueError:
        return now - RUN_LOOKBACK
    seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return max(seconds - 3600, now - RUN_LOOKBACK)  # an hour for clocks that disagree


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:24]
