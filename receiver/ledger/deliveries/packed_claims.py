"""New deliveries that were made as claimed, in the form in which one process of a worker hands them on to another.

One line of JSON, with what all have in common and a list for each delivery, and then the bodies, one after the other.
It is stored nowhere and has no version: who packs and who unpacks are forks of one process. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import orjson

from receiver.ledger.deliveries.claimed import Claimed


class NewClaim(NamedTuple):
    """What tells one delivery from the others of a claim with which they were made; see Claimed for each."""

    id: str
    event_id: str
    lane: str
    route: str
    source: str
    run_id: str
    outcome: str
    via: str
    problem: str
    received_at: float
    labels: Mapping[str, str]
    run_events: int
    completion: str
    body: bytes


def pack(sink: str, made_at: float, claims: Sequence[NewClaim]) -> bytes:
    """Return new deliveries for `sink`, made in the transaction of `made_at`, as bytes."""
    line = orjson.dumps((sink, made_at, [(*each[:-1], len(each.body)) for each in claims]))
    return b"\n".join((line, b"".join([each.body for each in claims])))


def unpack(packed: bytes) -> list[Claimed]:
    """Return the deliveries that were packed, as the ledger has them."""
    at = packed.index(b"\n")
    sink, made_at, rows = orjson.loads(packed[:at])
    at += 1
    claimed = []
    for *own, size in rows:
        claimed.append(_claimed(sink, made_at, NewClaim._make([*own, packed[at : at + size]])))
        at += size
    return claimed


def _claimed(sink: str, made_at: float, it: NewClaim) -> Claimed:
    return Claimed(
        id=it.id,
        event_id=it.event_id,
        sink=sink,
        lane=it.lane,
        route=it.route,
        attempt_number=1,
        spent=0,
        probe=False,
        source=it.source,
        run_id=it.run_id,
        outcome=it.outcome,
        via=it.via,
        problem=it.problem,
        received_at=it.received_at,
        labels=it.labels,
        after=(),
        body=it.body,
        completion=it.completion,
        prefetched=True,
        run_events=it.run_events,
        due_at=made_at,
        created_at=made_at,
    )
