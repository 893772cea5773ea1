"""What one batch of events hands on to deliverers of the same worker that wait for it, instead of leaving it to them to
find and claim it: see the head of ledger/deliveries/claims.py."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

from receiver.domain.event import delivery_id
from receiver.ledger.deliveries.claims import CLAIM
from receiver.ledger.deliveries.creation import ClaimAtOnce
from receiver.ledger.events import NewEvent
from receiver.runtime.handover import Handover, Offer


class HandOn:
    """The offers that one batch takes, and which deliveries it makes for each. `handovers`: by sink."""

    def __init__(self, handovers: Mapping[str, Handover]) -> None:
        self._handovers = handovers
        self._offers: dict[str, Offer] = {}
        self._ids: defaultdict[str, set[str]] = defaultdict(set)

    @property
    def sinks(self) -> Collection[str]:
        """The sinks whose deliverers get an answer, so that they need not be woken."""
        return self._offers.keys()

    def claims(self, events: Sequence[NewEvent], now: float) -> dict[str, ClaimAtOnce]:
        """Take an offer for each sink that gets deliveries. Returns, by sink, the claim with which to make them.

        A transaction that is tried again takes none anew, and what an earlier try made, for that may be committed, is
        handed on as well. None for a sink that gets more than was offered: its deliverer claims them.
        """
        ids: defaultdict[str, set[str]] = defaultdict(set)
        for item in events:
            for new in item.deliveries:
                if new.sink in self._handovers and not new.after:
                    ids[new.sink].add(delivery_id(item.event.id, new.sink))
        claims = {}
        for sink, made in ids.items():
            offer = self._offers.get(sink) or self._handovers[sink].take()
            if offer is not None:
                self._offers[sink] = offer
                if len(made) <= offer.room:
                    self._ids[sink] |= made
                    claims[sink] = ClaimAtOnce(offer.owner, offer.claim_number, now + CLAIM)
        return claims

    def answer(self) -> None:
        """Answer each offer once the transaction has ended. What of it was not committed, the deliverer won't find."""
        for sink, offer in self._offers.items():
            self._handovers[sink].hand_on(offer, sorted(self._ids[sink]))
