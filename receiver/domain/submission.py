"""The life of a submission, as a table. An illegal move raises. Pure.

pending ──▶ accepted ◀── unknown ──▶ lost
   │  │                     ▲         │
   │  └─────────────────────┘         └──▶ accepted (a webhook proves the run after all)
   └──▶ rejected

pending: written down, not yet answered. unknown: its answer was lost, so a run may exist or not; its webhook, or proof
from Skyvern's API, tells. lost: a day without a trace.
"""

from __future__ import annotations

from enum import StrEnum

from receiver.domain.delivery import IllegalMove


class SubmissionState(StrEnum):
    """The states."""

    PENDING = "pending"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    UNKNOWN = "unknown"
    LOST = "lost"


class SubmissionMove(StrEnum):
    ACCEPT = "accept"  # its run is known: by the answer, by its webhook, or by proof
    REJECT = "reject"  # certainly no run
    MISS = "miss"  # the answer was lost, or the process that waited for it died
    GIVE_UP = "give up"
    UNBIND = "unbind"  # the run that its token bound is another's: the API's answer says so


MOVES: dict[tuple[SubmissionState, SubmissionMove], SubmissionState] = {
    (SubmissionState.PENDING, SubmissionMove.ACCEPT): SubmissionState.ACCEPTED,
    (SubmissionState.PENDING, SubmissionMove.REJECT): SubmissionState.REJECTED,
    (SubmissionState.PENDING, SubmissionMove.MISS): SubmissionState.UNKNOWN,
    (SubmissionState.UNKNOWN, SubmissionMove.ACCEPT): SubmissionState.ACCEPTED,
    (
        SubmissionState.UNKNOWN,
        SubmissionMove.REJECT,
    ): SubmissionState.REJECTED,  # the answer came after the clock had given up on it
    (SubmissionState.UNKNOWN, SubmissionMove.GIVE_UP): SubmissionState.LOST,
    (SubmissionState.ACCEPTED, SubmissionMove.UNBIND): SubmissionState.UNKNOWN,
    (SubmissionState.LOST, SubmissionMove.ACCEPT): SubmissionState.ACCEPTED,
}

OPEN = frozenset({SubmissionState.PENDING, SubmissionState.UNKNOWN})
"""A run may exist or come to be, and nobody can say yet."""


def after(state: SubmissionState, move: SubmissionMove) -> SubmissionState:
    """The state that `move` leads to from `state`. Raises IllegalMove."""
    try:
        return MOVES[state, move]
    except KeyError:
        raise IllegalMove(f"a submission that is {state} can't {move}") from None


def sources(move: SubmissionMove) -> list[SubmissionState]:
    """The states in which `move` is legal: what an UPDATE's WHERE clause must say."""
    return [state for (state, candidate) in MOVES if candidate is move]
