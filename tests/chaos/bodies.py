"""What is sent, as a function of a number: the body, its ids, and the consumers that must have it. Pure.

Each number is a run of its own, so no event is a repeat of another or superseded by one. Sender and verdict both make
the bodies from their numbers, so what arrived is compared with what was meant, not with what was written down.
"""

from __future__ import annotations

import hashlib
import json
import random
from functools import cache, lru_cache
from typing import Any, Final

from receiver.delivery.claim_budget import AHEAD
from receiver.domain.event import delivery_id, event_id
from tests.support.run_ids import run_id

SOURCE: Final = "skyvern"
SHARES: Final[dict[str, tuple[int, ...]]] = {
    "results": tuple(range(24)),
    "hook": (4, 12, 20),
    "archive": (0,),
    "late": (0,),
    "flaky": (1,),
    "door": (2,),
    "tar": (3,),
}
"""Which of each 24 events a sink must have: what sends one by one gets fewer, as two cores can bear it. `late` is held
until `archive` has ended."""
SINKS: Final = tuple(SHARES)
HTTP_SINKS: Final = ("hook", "late", "flaky", "door", "tar")
IDEMPOTENT: Final = ("results", "archive")
CONCURRENCY: Final = 8
"""How many sends of an HTTP sink may be under way."""
UNKNOWN: Final = CONCURRENCY * AHEAD
"""Most sends of one worker to one sink that can have ended without the ledger's knowing, when it is killed: all that it
held."""

_TEXTS = ("</script>", "\u2028", "žluťoučký kůň", "🦊" * 3, "{{ 7 * 7 }}", "'; DROP TABLE runs; --", "\\u0000")


def output(number: int) -> dict[str, Any]:
    """What run `number` found out."""
    chance = random.Random(number)
    lines = [{"name": chance.choice(_TEXTS), "n": chance.randrange(10**6)} for _ in range(chance.randrange(1, 20))]
    return {"number": number, "share": number % 24, "lines": lines, "note": "x" * chance.randrange(900)}


@lru_cache(maxsize=1024)
def body(number: int) -> bytes:
    """The webhook's body, of about 1 kB."""
    run = {
        "run_id": run_id(number),
        "run_type": "task_v2",
        "status": "completed",
        "created_at": "2026-11-24T14:05:09.165039",
        "modified_at": "2026-11-24T14:06:11.165039",
        "failure_reason": None,
        "output": output(number),
    }
    return json.dumps(run, separators=(",", ":"), ensure_ascii=False).encode()


@cache
def digest(number: int) -> str:
    """SHA-256 of the body."""
    return hashlib.sha256(body(number)).hexdigest()


@cache
def event(number: int) -> str:
    """The event id that an ack must give."""
    return event_id(SOURCE, body(number))


def key(number: int, sink: str) -> str:
    """The delivery's key that the sink must get."""
    return delivery_id(event(number), sink)


def sinks(number: int) -> tuple[str, ...]:
    """Who must have it."""
    return tuple(sink for sink, shares in SHARES.items() if number % 24 in shares)
