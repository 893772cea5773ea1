"""What a deliverer with a free slot offers to the dispatchers of its worker, and what they hand on to it.

Who has claimed all that is due and has an offer out gets new deliveries as a claim that the dispatcher has made: the
rules are at the head of ledger/deliveries/claims.py. The deliverer works without it.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Literal

import redis

from receiver.ledger import Ledger
from receiver.ledger.deliveries import claims
from receiver.ledger.deliveries.claimed import Claimed, load_handed_on
from receiver.ledger.deliveries.packed_claims import unpack
from receiver.runtime.handover import HandedOn, Handover, Offer
from receiver.runtime.process import readable
from receiver.wakeups import NudgeWait

# Deliveries that one offer is good for: as many as a batch of a dispatcher has events.
ROOM = 256
# Seconds that a dispatcher which has taken an offer has to answer; it is dead then, or the ledger is slow.
_ANSWER_WITHIN = 2.0
# Seconds for which what was handed on may be sent without asking the ledger: far fewer than a claim lasts, so that none
# has lapsed while a process was stopped, and about as many as a pause of the sink takes to be heard of.
FRESH = 1.0
Came = Literal["nudge", "answer", ""]


class Offers:
    """The offers of the deliverer `owner`, each for up to `room` deliveries. Without a `handover` it makes none."""

    def __init__(self, ledger: Ledger, nudges: NudgeWait, handover: Handover | None, owner: str, room: int) -> None:
        self._ledger = ledger
        self._nudges = nudges
        self._handover = handover
        self._owner = owner
        self._room = min(room, ROOM)
        # Whether the ledger may hold a claim that came of an offer and will not be sent.
        self.unknown = False
        # Whether an offer is out, for all that this deliverer knows.
        self.out = False
        # The claim number of the latest one.
        self._number = 0
        # Until when an offer that was taken must be answered, by time.monotonic(); None when none is.
        self._due: float | None = None
        # What can be read, as far as was heard; at first everything may be.
        self._heard_answer = self._heard_nudge = True
        self._nudge_descriptor = -1
        # Since when nothing has happened to claims or lane that a dispatcher may not have seen: time.monotonic().
        self._undisturbed = 0.0
        if handover is not None:
            handover.withdraw()  # a predecessor's

    @property
    def possible(self) -> bool:
        """Whether it makes any."""
        return self._handover is not None

    @property
    def taken(self) -> bool:
        """Whether a dispatcher has taken an offer and not answered yet."""
        return self._due is not None

    @property
    def outstanding(self) -> set[int]:
        """The claim numbers under which something may be handed on that is not known yet."""
        return {self._number} if self.out or self.taken else set()

    def wait(self, seconds: float, claim_number: int | None) -> Came:
        """Wait at most `seconds` for a nudge, or until a dispatcher answers. Returns what came.

        `claim_number`: under which to put an offer out meanwhile, which then stays; None to make none. Raises
        redis.RedisError.
        """
        if self._handover is None:
            return "nudge" if self._nudges.wait(seconds) else ""
        if claim_number is not None:
            self.put(claim_number)
        nudged = self._nudges.wait(seconds, self._handover.answers)
        self._heard_answer = not nudged and bool(readable([self._handover.answers.fileno()], 0))
        return "nudge" if nudged else "answer" if self._heard_answer else ""

    def descriptors(self) -> list[int]:
        """Return what can be read when an answer or a nudge has come, for who waits for something else as well. Call
        `hear` after that."""
        if self._handover is None:
            return []
        try:
            self._nudge_descriptor = self._nudges.fileno()
        except redis.RedisError:
            self._nudge_descriptor = -1
            return [self._handover.answers.fileno()]
        return [self._handover.answers.fileno(), self._nudge_descriptor]

    def hear(self, ready: Collection[int]) -> None:
        """Take note of which `descriptors` can be read."""
        if self._handover is not None:
            self._heard_answer = self._handover.answers.fileno() in ready
            self._heard_nudge = self._nudge_descriptor in ready or self._nudge_descriptor < 0

    def put(self, claim_number: int) -> None:
        """Put an offer out, unless one is out or has been taken. It stays until `withdraw`."""
        if self._handover is not None and not (self.out or self.taken):
            self._handover.put(Offer(self._owner, claim_number, self._room))
            self.out, self._number = True, claim_number

    def withdraw(self) -> None:
        """Take back the offer that is out, if there is one. A dispatcher that has taken it will answer."""
        if self.out and self._handover is not None and not self._handover.withdraw():
            self._due = time.monotonic() + _ANSWER_WITHIN
        self.out = False

    def nudged(self) -> bool:
        """Whether something may be due that was not handed on, as far as was heard."""
        heard, self._heard_nudge = self._heard_nudge, False
        try:
            return heard and self._nudges.poll()
        except redis.RedisError:
            return True

    def receive(self) -> HandedOn | None:
        """Return the answer that was heard, if there is one; what does not come in time is not awaited any more."""
        overdue = self._due is not None and time.monotonic() > self._due
        answer = self._handover.receive() if self._handover and (self._heard_answer or overdue) else None
        self._heard_answer = False
        if answer is not None and (answer.owner, answer.claim_number) == (self._owner, self._number):
            self._due, self.out = None, False
        elif overdue:
            self._due, self.unknown = None, True
        return answer

    def disturbed(self) -> None:
        """Take note that claims were released, or that sends have met trouble, which may have shut the lane: the ledger
        is asked about all that was made before now."""
        self._undisturbed = time.monotonic()

    def load(self, answer: HandedOn, *, undisturbed: bool = True) -> list[Claimed]:
        """Return what is handed on, unless it may not be sent now. Raises LedgerUnavailable.

        The ledger is asked about it where it was not handed on whole; where that was a while ago, as if this process or
        its dispatcher was stopped meanwhile; and after what has `disturbed`. `undisturbed`: False while it does.
        """
        if not answer.ids:
            return []
        if answer.owner != self._owner:
            self._hand_back(answer)
            return []
        fresh = answer.since > max(time.monotonic() - FRESH, self._undisturbed)
        if answer.packed and undisturbed and fresh:
            return unpack(answer.packed)
        self.unknown = True  # until it is loaded
        found = self._ledger.read(
            lambda connection: load_handed_on(
                connection, self._owner, answer.claim_number, answer.ids, self._ledger.now()
            ),
            transaction=False,
        )
        self.unknown = found is None
        return found or []

    def _hand_back(self, answer: HandedOn) -> None:
        """Queue what was handed on to a predecessor, which died before it heard of it."""
        theirs = dict.fromkeys(answer.ids, answer.claim_number)
        self._ledger.write(lambda connection: claims.hand_back(connection, answer.owner, theirs, self._ledger.now()))
