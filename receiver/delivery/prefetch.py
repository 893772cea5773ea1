"""Prefetching: deliveries claimed before a slot is free, so that a fast sink's slots are not empty while the ledger
commits. Decides how many, and when they are handed back.

The deliverer works without it. The rules of a prefetched claim are in ledger/deliveries/claims.py, and the start in a
freed slot is in sender.py.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from receiver.delivery.send_task import SendTask
from receiver.delivery.sender import SenderPool
from receiver.ledger import Connection
from receiver.ledger.deliveries import claims

# Prefetched deliveries for each slot.
PER_SLOT = 4
# And the most of all: more only wait longer for the ledger, in memory.
MOST = 1024
# Seconds of a send up to which its sink is fast. So what is prefetched waits about a second at the most.
FAST = 0.25
# Seconds without trouble before anything is prefetched again.
CALM = 1.0


def unrecorded_starts(slots: int) -> int:
    """Return the most prefetched sends that may have started without the ledger knowing, for a sink with `slots`: what
    was prefetched at its last commit, and what was prefetched since."""
    return 2 * min(PER_SLOT * slots, MOST)


class Prefetch:
    """The prefetched deliveries of one deliverer: `per_slot` for each slot of `senders`."""

    def __init__(self, senders: SenderPool, owner: str, per_slot: int = PER_SLOT) -> None:
        self._senders = senders
        self._owner = owner
        self._limit = min(per_slot * senders.slots, MOST)
        self._trouble_at = float("-inf")
        # Will not start any more, and are to be handed back.
        self.withdrawn: list[SendTask] = []

    def wanted(self) -> int:
        """Return how many to claim: none while the sink is slow or in trouble, nor before half of them have started."""
        if not self._is_calm() or self._senders.typical_seconds > FAST:
            return 0
        return 0 if self.lasts else self._limit - self._senders.queued

    @property
    def low(self) -> int:
        """How many are queued at the most when more are wanted."""
        return self._limit - self._limit // 2

    @property
    def lasts(self) -> bool:
        """Whether so many are queued that no more are wanted yet: then slots wait for nothing from the ledger."""
        return self._senders.queued > self.low

    def review(self, ended: Sequence[SendTask], *, closing: bool) -> None:
        """Withdraw what is queued if the deliverer closes, a send has met trouble, takes long, or none is left."""
        if not all(task.accepted for task in ended):
            self._trouble_at = time.monotonic()
        if not self._senders.queued:
            return
        if closing or not self._is_calm() or self._senders.stranded or self._senders.longest() > 2 * FAST:
            self.withdrawn += self._senders.withdraw()

    def hand_back(self, connection: Connection, now: float) -> None:
        """Hand back what was withdrawn."""
        withdrawn = {task.claimed[0].id: task.claim_number for task in self.withdrawn}
        claims.hand_back(connection, self._owner, withdrawn, now)

    @staticmethod
    def started(settled: Sequence[SendTask]) -> dict[str, int]:
        """Return what has started in the slots that `settled` frees: id → claim number."""
        ended = set(settled)
        return {
            task.next_task.claimed[0].id: task.next_task.claim_number
            for task in settled
            if task.next_task is not None and task.next_task not in ended
        }

    def _is_calm(self) -> bool:
        return time.monotonic() - self._trouble_at > CALM
