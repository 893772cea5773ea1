"""What a deliverer claims, and when: for its free slots and ahead of them, within its rate and memory. Sends nothing.

The rules of a claim, and what one costs the ledger, are in ledger/deliveries/claims.py.
"""

from __future__ import annotations

import itertools
import logging
import time
from enum import Enum
from typing import NamedTuple

import redis

from handlers import Sink, SinkOptions
from receiver.delivery.prefetch import Prefetch
from receiver.delivery.send_task import Receipts
from receiver.delivery.sender import SenderPool
from receiver.ledger import Connection, Ledger, LedgerUnavailable
from receiver.ledger.deliveries import attempts, claims, lanes, links
from receiver.ledger.deliveries.claimed import Claimed, load_bodies
from receiver.ledger.deliveries.claims import CLAIM
from receiver.ledger.deliveries.fair_queue import Rotation
from receiver.runtime.outage import Pause
from receiver.runtime.throttle import SharedRate

# Seconds after which a sink with many lanes, or with prefetching, claims again although all sends are slow, and one
# without lanes although less than half of its slots are free.
CLAIM_AGAIN = 0.25
POISONED = "its attempts are spent, and the last one ended with its worker: sending it may be what kills workers"
log = logging.getLogger("runhook.deliver")


class Due(Enum):
    """What is due for a sink, as far as its deliverer knows."""

    NOTHING = "all that was due is claimed, and nobody has nudged since"
    NEW = "what has come in this moment: all before it is claimed"
    MORE = "whatever the ledger has"


class ClaimedBatch(NamedTuple):
    """What one transaction has claimed."""

    claim_number: int
    claimed: list[Claimed]
    receipts: dict[str, Receipts]
    poisoned: list[Claimed]  # of what was due; it is dead now
    all_due: bool = False  # nothing else was due


class Claimer:
    """Claims for one sink in the worker process `owner`, as much as `senders` has slots for, and `prefetch` wants.

    `lane_limit`: how many of one lane may be claimed at once, for a sink that has many. `budget`: attempts that a
    delivery has. `pause`: ends when the ledger has answered.
    """

    def __init__(
        self,
        ledger: Ledger,
        sink: Sink[SinkOptions],
        owner: str,
        senders: SenderPool,
        prefetch: Prefetch | None,
        pause: Pause,
        *,
        concurrency: int,
        lane_limit: int | None,
        rate: SharedRate | None,
        budget: int,
    ) -> None:
        self._ledger = ledger
        self._sink = sink
        self._many = sink.batch_size > 1
        self._owner = owner
        self._senders = senders
        self._prefetch = prefetch
        self._pause = pause
        self._concurrency = concurrency
        self._lane_limit = lane_limit
        self._rotation = Rotation() if lane_limit else None
        self._rate = rate
        self._rate_spent = False
        self._budget = budget
        self._claimed = 0.0
        # Of claims, and of offers: each has one of its own.
        self.numbers = itertools.count(1)
        self.due = Due.MORE
        # Whether the reply to the COMMIT of a claim was lost.
        self.commit_lost = False
        # Whether the last claim took as many as one may, while more slots were free.
        self.cut_short = False

    @property
    def unseen_lanes(self) -> bool:
        """Whether the last claim has not seen all lanes, of which there are very many."""
        return self._rotation is not None and self._rotation.unfinished

    def note_nudge(self) -> None:
        """Take note that something has become due."""
        if self.due is Due.NOTHING:
            self.due = Due.NEW

    def more_due(self) -> bool:
        """Whether to wake again: what was queued while the flag was up woke nobody. The clock retries a spent rate."""
        if self._rate_spent:
            return False
        return self._ledger.read(
            lambda connection: claims.has_due(connection, self._sink.name, self._ledger.now(), self._rotation),
            transaction=False,
        )

    def claim(self) -> ClaimedBatch | None:
        """Claim for the free slots, and prefetch. Returns None when no slot is free, nothing is due, or the bodies that
        are being sent fill the memory that there is for them.

        Raises LedgerUnavailable, and redis.RedisError for a sink with a rate while nothing is under way.
        """
        free, ahead = self._senders.free, self._prefetch.wanted() if self._prefetch else 0
        # One lane that is slow must not keep others from the slots that are free. Without lanes, a few wait for more;
        # but not if something is claimed anyway: a fast sink claims so often that their time would never come.
        waits = not (self._lane_limit or ahead) and time.monotonic() < self._claimed + CLAIM_AGAIN
        if waits and free < min(self._senders.slots // 2, claims.CLAIM_MOST):
            free = 0
        self.cut_short = False
        if (not free and not ahead) or self._senders.bytes > claims.CLAIM_BYTES:
            return None
        most = min(free, claims.CLAIM_MOST)
        ahead = min(ahead, claims.CLAIM_MOST - most)
        limit = self._allowed(self._sink.batch_size if self._many else most)
        if not limit and not ahead:
            return None
        self._claimed = time.monotonic()
        tries = 0

        def work(connection: Connection) -> ClaimedBatch:
            nonlocal tries
            tries += 1
            return self._claim_in(connection, limit, ahead, self._ledger.now())

        try:
            batch = self._loaded(self._ledger.write(work))
        except LedgerUnavailable:
            self.commit_lost = True
            raise
        self.due = Due.NOTHING if batch.all_due else Due.MORE
        self.cut_short = free > most and len(batch.claimed) + len(batch.poisoned) >= most
        self.commit_lost = self.commit_lost or tries > 1
        self._pause.end()
        for each in batch.poisoned:
            log.error(
                "delivery.dead id=%s sink=%s run=%s event=%s reason=%s",
                *(each.id, each.sink, each.run_id, each.event_id, POISONED),
            )
        return batch if batch.claimed or batch.poisoned else None

    def _claim_in(self, connection: Connection, limit: int, ahead: int, now: float) -> ClaimedBatch:
        claim_number = next(self.numbers)  # of this try: see claims.py on unknown claims
        claimed = claims.claim(
            connection,
            self._sink.name,
            limit,
            self._owner,
            claim_number,
            now,
            CLAIM,
            concurrency=None if self._many else self._concurrency,
            lane_limit=self._lane_limit,
            rotation=self._rotation,
            prefetch=ahead,
            has_slots=self._senders.under_way > 0,
        )
        poisoned = attempts.poisoned(connection, claimed, self._budget)
        if poisoned:
            attempts.give_up(connection, self._owner, claim_number, poisoned, POISONED, now)
            lanes.end_probes(connection, sorted({each.lane for each in poisoned if each.probe}), now)
        sendable = [each for each in claimed if each not in poisoned] if poisoned else claimed
        return ClaimedBatch(claim_number, sendable, {}, poisoned, claimed.all_due)

    def _loaded(self, batch: ClaimedBatch) -> ClaimedBatch:
        """Return the batch with its bodies and receipts, loaded while no lock is held."""

        def work(connection: Connection) -> ClaimedBatch:
            receipts: dict[str, Receipts] = {
                each.id: links.receipts(connection, each.event_id, each.after) for each in batch.claimed if each.after
            }
            return batch._replace(claimed=load_bodies(connection, batch.claimed), receipts=receipts)

        needed = any(each.event_seq or each.after for each in batch.claimed)
        return self._ledger.read(work, transaction=False) if needed else batch

    def _allowed(self, wanted: int) -> int:
        """Return how many of `wanted` the sink's rate allows now."""
        self._rate_spent = False
        if self._rate is None:
            return wanted
        if not self.more_due():
            return 0  # what is not sent must not count
        try:
            allowed = self._rate.take(wanted)
        except redis.RedisError:
            if not self._senders:
                raise
            return 0  # first settle what is under way
        self._rate_spent = allowed == 0
        return allowed
