"""The life of a delivery, as a table. An illegal move raises. Pure.

held ──▶ queued ──▶ sending ──▶ delivered
          ▲  ▲         │  └────▶ dead ──┐
          │  └─────────┘ lapsed claim   │ replay
          │  waiting ◀─┘ retry later    │
          └─────┴───────────────────────┘
an operator may cancel held, queued and waiting.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    HELD = "held"
    QUEUED = "queued"
    SENDING = "sending"
    WAITING = "waiting"
    DELIVERED = "delivered"
    DEAD = "dead"
    CANCELLED = "cancelled"


class Move(StrEnum):
    RELEASE = "release"  # the sinks it waited for have ended
    CLAIM = "claim"
    ACCEPT = "accept"
    DEFER = "defer"  # unavailable: try again later
    DIE = "die"  # refused, or its attempts are spent
    DUE = "due"
    HAND_BACK = "hand back"  # it was claimed and never begun
    LAPSE = "lapse"  # the claim ran out: its worker is gone
    REPLAY = "replay"
    CANCEL = "cancel"


MOVES: dict[tuple[State, Move], State] = {
    (State.HELD, Move.RELEASE): State.QUEUED,
    (State.HELD, Move.CANCEL): State.CANCELLED,
    (State.QUEUED, Move.CLAIM): State.SENDING,
    (State.QUEUED, Move.CANCEL): State.CANCELLED,
    (State.SENDING, Move.ACCEPT): State.DELIVERED,
    (State.SENDING, Move.DEFER): State.WAITING,
    (State.SENDING, Move.DIE): State.DEAD,
    (State.SENDING, Move.HAND_BACK): State.QUEUED,
    (State.SENDING, Move.LAPSE): State.QUEUED,
    (State.WAITING, Move.DUE): State.QUEUED,
    (State.WAITING, Move.CANCEL): State.CANCELLED,
    (State.DEAD, Move.REPLAY): State.QUEUED,
    (State.DELIVERED, Move.REPLAY): State.QUEUED,
}

ENDED = frozenset({State.DELIVERED, State.DEAD, State.CANCELLED})


class IllegalMove(Exception):
    """A bug: code asked for a move that the table does not have."""


def after(state: State, move: Move) -> State:
    """The state that `move` leads to from `state`. Raises IllegalMove."""
    try:
        return MOVES[state, move]
    except KeyError:
        raise IllegalMove(f"a delivery that is {state} can't {move}") from None


def sources(move: Move) -> list[State]:
    """The states in which `move` is legal: what an UPDATE's WHERE clause must say."""
    return [state for (state, candidate) in MOVES if candidate is move]


def target(move: Move) -> State:
    """The one state that `move` leads to, wherever it starts."""
    (state,) = {end for (_, candidate), end in MOVES.items() if candidate is move}
    return state
