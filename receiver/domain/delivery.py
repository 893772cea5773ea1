"""The life of a delivery, as a table. An illegal move raises. Pure.

held ──▶ queued ──▶ sending ──▶ delivered ──┐
          ▲  ▲         │  └────▶ dead ──────┤ replay
          │  └─────────┤ lapsed claim,      │
          │            │ hand back          │
          │  waiting ◀─┘ retry later        │
          └─────┴───────────────────────────┘
an operator may cancel held, queued and waiting, and restore what was cancelled: it is held, until nothing holds it.
what is queued behind a breaker that stays open is dead when its time is up.
"""

from __future__ import annotations

from enum import StrEnum


class DeliveryState(StrEnum):
    """The states of a delivery, as the ledger spells them."""

    HELD = "held"
    QUEUED = "queued"
    SENDING = "sending"
    WAITING = "waiting"
    DELIVERED = "delivered"
    DEAD = "dead"
    CANCELLED = "cancelled"


class DeliveryMove(StrEnum):
    """What may happen to a delivery."""

    RELEASE = "release"  # the sinks it waited for have ended
    CLAIM = "claim"
    ACCEPT = "accept"
    DEFER = "defer"  # unavailable: try again later
    DIE = "die"  # refused, or its attempts are spent
    DUE = "due"
    HAND_BACK = "hand back"  # it was claimed and never started
    LAPSE = "lapse"  # the claim ran out: its worker is gone
    EXPIRE = "expire"  # its time is up, behind a breaker that was open all along
    REPLAY = "replay"
    CANCEL = "cancel"
    RESTORE = "restore"  # bring back what was cancelled


MOVES: dict[tuple[DeliveryState, DeliveryMove], DeliveryState] = {
    (DeliveryState.HELD, DeliveryMove.RELEASE): DeliveryState.QUEUED,
    (DeliveryState.HELD, DeliveryMove.CANCEL): DeliveryState.CANCELLED,
    (DeliveryState.QUEUED, DeliveryMove.CLAIM): DeliveryState.SENDING,
    (DeliveryState.QUEUED, DeliveryMove.CANCEL): DeliveryState.CANCELLED,
    (DeliveryState.QUEUED, DeliveryMove.ACCEPT): DeliveryState.DELIVERED,  # its claim lapsed during the send
    (DeliveryState.SENDING, DeliveryMove.ACCEPT): DeliveryState.DELIVERED,
    (DeliveryState.SENDING, DeliveryMove.DEFER): DeliveryState.WAITING,
    (DeliveryState.SENDING, DeliveryMove.DIE): DeliveryState.DEAD,
    (DeliveryState.SENDING, DeliveryMove.HAND_BACK): DeliveryState.QUEUED,
    (DeliveryState.SENDING, DeliveryMove.LAPSE): DeliveryState.QUEUED,
    (DeliveryState.WAITING, DeliveryMove.DUE): DeliveryState.QUEUED,
    (DeliveryState.WAITING, DeliveryMove.CANCEL): DeliveryState.CANCELLED,
    (DeliveryState.QUEUED, DeliveryMove.EXPIRE): DeliveryState.DEAD,
    (DeliveryState.CANCELLED, DeliveryMove.RESTORE): DeliveryState.HELD,
    (DeliveryState.DEAD, DeliveryMove.REPLAY): DeliveryState.QUEUED,
    (DeliveryState.DELIVERED, DeliveryMove.REPLAY): DeliveryState.QUEUED,
}

ENDED = frozenset({DeliveryState.DELIVERED, DeliveryState.DEAD, DeliveryState.CANCELLED})


def gave_up(seconds: float) -> str:
    """Return how the reason of a delivery begins whose time was up after `seconds`."""
    units = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "m"), (1.0, "s"))
    size, unit = next((each for each in units if seconds >= each[0]), units[-1])
    return f"given up after {seconds / size:.3g} {unit}: "


class IllegalMove(Exception):
    """A bug: code asked for a move that the table does not have."""


def after(state: DeliveryState, move: DeliveryMove) -> DeliveryState:
    """Return the state that `move` leads to from `state`. Raises IllegalMove."""
    try:
        return MOVES[state, move]
    except KeyError:
        raise IllegalMove(f"a delivery that is {state} can't {move}") from None


def states_before(move: DeliveryMove) -> list[DeliveryState]:
    """Return the states in which `move` is legal: what an UPDATE's WHERE clause must say."""
    return [state for (state, candidate) in MOVES if candidate is move]


def state_after(move: DeliveryMove) -> DeliveryState:
    """Return the one state that `move` leads to, wherever it starts."""
    (state,) = {end for (_, candidate), end in MOVES.items() if candidate is move}
    return state
