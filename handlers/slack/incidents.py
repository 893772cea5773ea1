"""Decide which messages belong to one thread, and how they are found again. Pure.

A topic is what a thread is about: one run, or one incident (the same workflow failing for the same reason). It is
stored in Slack's message metadata, because a sink has no ledger, and any process can read it back from there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from handlers.contract import Delivery
from handlers.support.timestamps import epoch
from handlers.support.wording import failure_reason, run_errors, without_particulars

ThreadBy = Literal["run", "incident", "none"]

MESSAGE_EVENT = "runhook_message"
FAILURES = frozenset({"failed", "terminated", "timed_out"})
# Seconds; a run's first message is not searched for further back.
RUN_LOOKBACK = 7 * 86400.0


@dataclass(frozen=True, slots=True)
class Topic:
    """What a thread is about. `key` names it in metadata; its first message is not older than `since` (epoch, s)."""

    kind: Literal["run", "incident"]
    key: str
    since: float


def topic_of(delivery: Delivery, by: ThreadBy, window: float, now: float) -> Topic | None:
    """Return the topic of `delivery`, or None when its message belongs to no thread.

    `window`: seconds that an incident lasts after its first message. `now`: seconds since the epoch.
    """
    if by == "none" or delivery.test or delivery.problem or not delivery.run_id:
        return None
    if by == "run":
        return Topic("run", _digest(delivery.sink, delivery.source, delivery.run_id), _earliest(delivery, now))
    if delivery.status not in FAILURES:
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
    """Return what is run repeatedly: the workflow's id, else a task's URL or title, else the run type."""
    run = delivery.run
    for name in ("workflow_permanent_id", "workflow_id", "agent_id", "url", "title"):
        value = run.get(name)
        if isinstance(value, str) and value:
            return value
    return delivery.run_type


def normalized_reason(delivery: Delivery) -> str:
    """Return the failure reason without what differs from run to run; without a reason, the error codes."""
    text = failure_reason(delivery)
    if not text:
        text = " ".join(sorted(code or words for code, words in run_errors(delivery)))
    return without_particulars(text)


def message_metadata(delivery: Delivery, topic: Topic | None) -> dict[str, Any]:
    """Return metadata by which a later attempt, or a later event of the same topic, finds the message."""
    payload = {"delivery": mark(delivery), "topic": topic.key if topic else ""}
    return {"event_type": MESSAGE_EVENT, "event_payload": payload}


def payload_of(message: Mapping[str, Any], event_type: str) -> Mapping[str, Any]:
    """Return the payload of our metadata of `event_type` on a message from Slack, or {}."""
    metadata = message.get("metadata")
    if not isinstance(metadata, Mapping) or metadata.get("event_type") != event_type:
        return {}
    payload = metadata.get("event_payload")
    return payload if isinstance(payload, Mapping) else {}


def _earliest(delivery: Delivery, now: float) -> float:
    created = epoch(delivery.run.get("created_at"))
    if created is None:
        return now - RUN_LOOKBACK
    return max(created - 3600, now - RUN_LOOKBACK)  # an hour for clocks that disagree


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:24]
