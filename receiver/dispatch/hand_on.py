"""What one batch of events hands on to deliverers of the same worker that wait for it, instead of leaving it to them to
find and claim it: see the head of ledger/deliveries/claims.py."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from receiver.domain.event import delivery_id
from receiver.domain.run import RunKey
from receiver.ledger import Connection
from receiver.ledger.deliveries import lanes
from receiver.ledger.deliveries.claims import CLAIM
from receiver.ledger.deliveries.creation import ClaimAtOnce
from receiver.ledger.deliveries.packed_claims import NewClaim, pack
from receiver.ledger.events import KnownRun, NewDelivery, NewEvent, Written
from receiver.ledger.submissions.records import Submission
from receiver.runtime.handover import LARGEST, Handover, Offer


class RunNow(NamedTuple):
    """What a run's row says once a batch is recorded. `events`: how many the run has."""

    labels: Mapping[str, str]
    events: int


Claimed = Mapping[str, tuple[NewEvent, NewDelivery]]  # by id


class HandOn:
    """The offers that one batch takes, and which deliveries it makes for each. `handovers`: by sink."""

    def __init__(self, handovers: Mapping[str, Handover]) -> None:
        self._handovers = handovers
        self._offers: dict[str, Offer] = {}
        self._ids: defaultdict[str, set[str]] = defaultdict(set)  # of all tries
        self._tries = 0
        # Of the last try: when it began, by the ledger's clock and time.monotonic(); what it claims, by sink; and what
        # of it may be sent without a further look, once it is committed.
        self._now = self._since = 0.0
        self._claimed: dict[str, Claimed] = {}
        self._sure: dict[str, list[NewClaim]] = {}

    @property
    def sinks(self) -> Collection[str]:
        """The sinks whose deliverers get an answer, so that they need not be woken."""
        return self._offers.keys()

    def claims(self, events: Sequence[NewEvent], now: float) -> dict[str, ClaimAtOnce]:
        """Take an offer for each sink that gets deliveries. Returns, by sink, the claim with which to make them.

        A transaction that is tried again takes none anew, and what an earlier try made, for that may be committed, is
        handed on as well. None for a sink that gets more than was offered: its deliverer claims them.
        """
        self._now, self._since = now, time.monotonic()
        self._claimed, self._sure = {}, {}
        self._tries += 1
        wanted: defaultdict[str, dict[str, tuple[NewEvent, NewDelivery]]] = defaultdict(dict)
        for item in events:
            for new in item.deliveries:
                if new.sink in self._handovers and not new.after:
                    wanted[new.sink][delivery_id(item.event.id, new.sink)] = item, new
        claims = {}
        for sink, made in wanted.items():
            offer = self._offers.get(sink) or self._handovers[sink].take()
            if offer is not None:
                self._offers[sink] = offer
                if len(made) <= offer.room:
                    self._ids[sink] |= made.keys()
                    self._claimed[sink] = made
                    claims[sink] = ClaimAtOnce(offer.owner, offer.claim_number, now + CLAIM)
        return claims

    def made(self, connection: Connection, written: Written, runs: Mapping[RunKey, RunNow]) -> None:
        """Take note of what was written.

        `runs`: what a run has now, where that is known. A sink is handed ids alone where one of its deliveries is of
        another run, was there already when an earlier try may have made it, has a lane that is shut, or is too large.
        """
        names = {new.lane or sink for sink, made in self._claimed.items() for _, new in made.values()}
        shut = lanes.shut_among(connection, names)
        if self._tries == 1:  # what was there before is not of these claims
            self._claimed = {
                sink: {key: each for key, each in claimed.items() if key in written.deliveries}
                for sink, claimed in self._claimed.items()
            }
            self._ids.update({sink: set(claimed) for sink, claimed in self._claimed.items()})
        for sink, claimed in self._claimed.items():
            if (
                any((new.lane or sink) in shut for _, new in claimed.values())
                or not claimed.keys() <= written.deliveries
            ):
                continue
            if sum(len(item.body) for item, _ in claimed.values()) > LARGEST:
                continue
            found = [
                _new_claim(sink, key, item, new, run)
                for key, (item, new) in claimed.items()
                if (run := runs.get(item.key)) is not None
            ]
            if len(found) == len(claimed):
                self._sure[sink] = found

    def answer(self, *, committed: bool) -> None:
        """Answer each offer once the transaction has ended. `committed`: False where that is not known: what of it was
        not committed, the deliverer won't find."""
        for sink, offer in self._offers.items():
            ids, sure = sorted(self._ids[sink]), self._sure.get(sink, [])
            whole = committed and len(sure) == len(ids) > 0  # else an earlier try may have made others
            packed = pack(sink, self._now, sure) if whole else b""
            self._handovers[sink].hand_on(offer, ids, self._since, packed)


def _new_claim(sink: str, key: str, item: NewEvent, new: NewDelivery, run: RunNow) -> NewClaim:
    event = item.event
    return NewClaim(
        id=key,
        event_id=event.id,
        lane=new.lane or sink,
        route=new.route,
        source=event.source,
        run_id=item.run.run_id,
        outcome=item.run.outcome,
        via=event.via,
        problem=item.problem,
        received_at=event.received_at,
        labels=dict(run.labels),
        run_events=run.events,
        completion=item.completion_text(),
        body=item.body,
    )


def runs_now(
    decided: Sequence[NewEvent], known: Mapping[RunKey, KnownRun], bound: Mapping[RunKey, Submission]
) -> dict[RunKey, RunNow]:
    """Return what the rows of runs say once these events are recorded. Those of test webhooks are not read."""
    counts = Counter(item.key for item in decided if item.disposition != "test")
    found = {}
    for key, run in known.items():
        submission = None if run.submission_id else bound.get(key)
        found[key] = RunNow(submission.labels if submission else run.labels, run.events + counts[key])
    return found
