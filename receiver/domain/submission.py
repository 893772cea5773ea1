"""Submissions, and their states with the moves between them, as a table. An illegal move raises. Pure.

pending ──▶ accepted ◀── unknown ──▶ lost
   │  │                     ▲         │
   │  └─────────────────────┘         └──▶ accepted (a webhook proves the run after all)
   └──▶ rejected

pending: recorded, not yet answered. unknown: its answer was lost, so a run may exist or not, until its webhook or
Skyvern's API proves it. lost: no run was found for a day.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from receiver.domain.delivery import IllegalMove


class SubmissionState(StrEnum):
    """Whether a submission has a run."""

    PENDING = "pending"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    UNKNOWN = "unknown"
    LOST = "lost"


class SubmissionMove(StrEnum):
    """What changes the state of a submission."""

    # Its run is known: by the answer, by its webhook, or by its token in a run that Skyvern's API shows.
    ACCEPT = "accept"
    # There is certainly no run.
    REJECT = "reject"
    # The answer was lost, or the process that waited for it died.
    MISS = "miss"
    GIVE_UP = "give up"
    # The API shows that the run which its token bound belongs to another submission.
    UNBIND = "unbind"


MOVES: dict[tuple[SubmissionState, SubmissionMove], SubmissionState] = {
    (SubmissionState.PENDING, SubmissionMove.ACCEPT): SubmissionState.ACCEPTED,
    (SubmissionState.PENDING, SubmissionMove.REJECT): SubmissionState.REJECTED,
    (SubmissionState.PENDING, SubmissionMove.MISS): SubmissionState.UNKNOWN,
    (SubmissionState.UNKNOWN, SubmissionMove.ACCEPT): SubmissionState.ACCEPTED,
    # The answer came after the clock had given up on it.
    (SubmissionState.UNKNOWN, SubmissionMove.REJECT): SubmissionState.REJECTED,
    (SubmissionState.UNKNOWN, SubmissionMove.GIVE_UP): SubmissionState.LOST,
    (SubmissionState.ACCEPTED, SubmissionMove.UNBIND): SubmissionState.UNKNOWN,
    (SubmissionState.LOST, SubmissionMove.ACCEPT): SubmissionState.ACCEPTED,
}

# It is not known yet whether there is a run.
OPEN = frozenset({SubmissionState.PENDING, SubmissionState.UNKNOWN})


def after(state: SubmissionState, move: SubmissionMove) -> SubmissionState:
    """Return the state that `move` leads to from `state`. Raises IllegalMove."""
    try:
        return MOVES[state, move]
    except KeyError:
        raise IllegalMove(f"a submission that is {state} can't {move}") from None


def states_after(move: SubmissionMove) -> set[SubmissionState]:
    """Return the states that `move` leads to."""
    return {state for (_, candidate), state in MOVES.items() if candidate is move}


def states_before(move: SubmissionMove) -> list[SubmissionState]:
    """Return the states in which `move` is legal: what an UPDATE's WHERE clause must say."""
    return [state for (state, candidate) in MOVES if candidate is move]


@dataclass(frozen=True, slots=True)
class NewSubmission:
    """A submission before its request goes out. `call`: tasks | agents | workflows | legacy."""

    id: str
    source: str
    key_id: str
    call: str
    request_hash: str
    title: str | None = None  # after redaction, as `prompt` and `request`
    prompt: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    webhook_url: str = ""  # the caller's
    idempotency_key: str | None = None
    request: Mapping[str, Any] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Submission:
    """A recorded submission. `webhook_url`: the caller's. `answer`: the response to the caller, redacted.

    `request`: members of its request, redacted; None if not stored.
    """

    id: str
    source: str
    key_id: str
    call: str
    state: SubmissionState
    run_id: str
    run_type: str
    title: str | None
    prompt: str | None
    labels: Mapping[str, str]
    webhook_url: str = field(repr=False)
    idempotency_key: str | None = field(repr=False)
    request_hash: str
    request: Mapping[str, Any] | None = field(repr=False)
    answer_status: int | None
    answer: bytes | None = field(repr=False)
    reason: str
    created_at: float
    answered_at: float | None
    updated_at: float
