"""What happened to a run, in the order of time, from its submission to each receipt, and what is to come. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Literal

from pydantic import Field

from handlers.support.timestamps import iso
from receiver.api.models import Moment, Result
from receiver.api.rows import AttemptRow, DeliveryRow, EventRow, RunRow, SubmissionRow
from receiver.domain.breaker import Lane
from receiver.domain.delivery import DeliveryState
from receiver.domain.event import short_id

Tone = Literal["good", "bad", "wait", "info"]

# Seconds between receiving and recording from which on it is worth a word.
LATE = 5.0
# Why a run counts as completed that Skyvern calls failed.
ONLY_WEBHOOK = "only its webhook failed, so it counts as completed"
_TONES: dict[str, Tone] = {
    "completed": "good",
    "failed": "bad",
    "terminated": "bad",
    "timed_out": "bad",
    "accepted": "good",
    "refused": "bad",
    "rejected": "bad",
    "lost": "bad",
    "error": "bad",
    "unavailable": "wait",
    "lapsed": "wait",
    "unknown": "wait",
}


class TimelineEntry(Result):
    """One thing that happened, or will. `id`: of the submission, event or delivery that it is about."""

    at: Moment
    kind: str = Field(description="submission, skyvern, event, delivery, attempt, or next for what is to come.")
    text: str
    tone: Tone
    id: str
    sink: str = ""


def timeline_of(
    run: RunRow,
    events: Sequence[EventRow],
    deliveries: Sequence[DeliveryRow],
    attempts: Sequence[AttemptRow],
    submissions: Sequence[SubmissionRow],
    lanes: Mapping[str, Lane] = MappingProxyType({}),
) -> list[TimelineEntry]:
    """Return the timeline of a run, the oldest entry first; what is to come stands last. `lanes`: of sinks, by name."""
    entries = [*_submitted(submissions), *_at_skyvern(run), *_events(events), *_deliveries(deliveries)]
    entries += map(_attempt, attempts)
    past = sorted(entries, key=lambda each: each.at)  # stable: what is caused stands behind its cause
    return past + sorted(_to_come(deliveries, submissions, lanes), key=lambda each: each.at)


def submission_timeline(submission: SubmissionRow) -> list[TimelineEntry]:
    """Return what happened to a submission, of which no run need be known."""
    return [*_submitted([submission]), *_to_come([], [submission], {})]


def _submitted(submissions: Iterable[SubmissionRow]) -> Iterator[TimelineEntry]:
    for each in submissions:
        yield _entry(each.created_at, "submission", f"submitted ({each.call})", "info", each.id)
        if each.answered_at is not None and each.state != "pending":
            status = f", HTTP {each.answer_status}" if each.answer_status else ""
            text = f"{each.state}{status}{_because(each.reason)}"
            yield _entry(each.answered_at, "submission", text, _TONES.get(each.state, "good"), each.id)


def _at_skyvern(run: RunRow) -> Iterator[TimelineEntry]:
    moments: list[tuple[float | None, str, Tone]] = [
        (run.created_at, "created", "info"),
        (run.started_at, "started", "info"),
        (run.finished_at, f"ended: {_as_sent(run)}", _TONES.get(run.outcome, "info")),
    ]
    for at, text, tone in moments:
        if at is not None:
            yield _entry(at, "skyvern", text, tone, run.run_id)


def _as_sent(run: RunRow) -> str:
    """Return Skyvern's status of a run, and the outcome where that differs."""
    if run.outcome in ("", run.status):
        return run.status
    return f"{run.status}: {ONLY_WEBHOOK}" if run.outcome == "completed" else f"{run.status}, counted as {run.outcome}"


def _events(events: Iterable[EventRow]) -> Iterator[TimelineEntry]:
    for each in events:
        text = f"{each.via}: {each.outcome or 'unreadable'}, {each.disposition}"
        text += f" of {short_id(each.repeat_of)}" if each.repeat_of else ""
        text += ", to be tried again by Skyvern" if each.retry_pending else ""
        no_route = ", no route with interim: true matches" if each.disposition == "interim" else ", no route matches"
        text += no_route if each.unrouted else ""
        late = each.recorded_at - each.received_at
        text += f", recorded {late:.0f} s later" if late > LATE else ""
        text += f", came {each.copies + 1} times" if each.copies else ""
        tone = "bad" if each.problem else _TONES.get(each.outcome, "info")
        yield _entry(each.received_at, "event", text + _because(each.problem), tone, each.id)


def _deliveries(deliveries: Iterable[DeliveryRow]) -> Iterator[TimelineEntry]:
    """Yield what no attempt tells: that a delivery was made, and an end that came without one."""
    for each in deliveries:
        route = f"by route {each.route}" if each.route else "by no route"
        waits = f", after {', '.join(each.after)}" if each.after else ""
        yield _entry(each.created_at, "delivery", route + waits, "info", each.id, each.sink)
        if each.state == DeliveryState.CANCELLED or (each.state == DeliveryState.DEAD and not each.attempts):
            text = each.state + _because(each.reason)
            yield _entry(each.updated_at, "delivery", text, "bad", each.id, each.sink)


def _attempt(attempt: AttemptRow) -> TimelineEntry:
    took = f" in {max(attempt.ended_at - attempt.started_at, 0):.2f} s"
    text = f"attempt {attempt.number}: {attempt.outcome}{took}{_because(attempt.reason)}"
    receipt = attempt.receipt or {}
    text += f" → {receipt['id']}" if receipt.get("id") else ""
    text += f" ({receipt['note']})" if receipt.get("note") else ""
    text += f" · {' '.join(attempt.response[:200].split())}" if attempt.response else ""
    tone = _TONES.get(attempt.outcome, "info")
    return _entry(attempt.ended_at, "attempt", text, tone, attempt.delivery_id, attempt.sink)


def _to_come(
    deliveries: Iterable[DeliveryRow], submissions: Iterable[SubmissionRow], lanes: Mapping[str, Lane]
) -> Iterator[TimelineEntry]:
    for each in deliveries:
        waiting = {
            DeliveryState.WAITING: "next attempt",
            DeliveryState.QUEUED: "to be sent",
            DeliveryState.SENDING: "being sent",
            DeliveryState.HELD: f"waits for {', '.join(each.after)}",
        }
        if text := waiting.get(DeliveryState(each.state)):
            at, text = each.due_at, text + _because(each.reason)
            text += f"; given up at {iso(each.give_up_at // 1)}" if each.give_up_at is not None else ""
            if (lane := lanes.get(each.sink)) and each.state in (DeliveryState.QUEUED, DeliveryState.WAITING):
                last = f"; its last attempt{_because(each.reason)}" if each.reason not in ("", lane.reason) else ""
                at, text = max(at, lane.until), behind(lane) + last
            yield _entry(at, "next", text, "wait", each.id, each.sink)
    for submission in submissions:
        if submission.due_at is not None:
            polls = f", after {submission.polls} polls" if submission.polls else ""
            yield _entry(submission.due_at, "next", f"ask Skyvern for the result{polls}", "wait", submission.id)


def behind(lane: Lane) -> str:
    """Return why a delivery of a paused or shut lane is not sent."""
    if lane.paused:
        return f"waits until {lane.sink} is resumed: it is paused"
    return f"waits for {lane.sink}, which is probed first{_because(lane.reason)}"


def _entry(at: float, kind: str, text: str, tone: Tone, identifier: str, sink: str = "") -> TimelineEntry:
    return TimelineEntry(at=at, kind=kind, text=text, tone=tone, id=identifier, sink=sink)


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""
