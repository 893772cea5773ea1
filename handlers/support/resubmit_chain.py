"""The tries of one and the same wish, as a chain: how long it is, and whether it may become longer. Pure.

A chain is kept in the labels of its submissions, which the ledger has: the first run's id, and the number of the try.
A first try has no such labels. Whatever is not certain ends the chain, for every try costs money.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from handlers.contract import Delivery, Refused

CHAIN: Final = "runhook-chain"
TRY: Final = "runhook-try"
AGAIN: Final = frozenset({"failed", "timed_out", "terminated"})
"""What a run must have come to. A cancelled one was stopped by a person, and a completed one has its result."""


def tries(labels: Mapping[str, str]) -> int:
    """Which try of its chain a run with these labels was, from 1. Raises Refused for a label that was tampered with."""
    text = labels.get(TRY, "1")
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and int(text) > 0):
        raise Refused(f"the label {TRY} is no number, so nobody knows how often this run was tried")
    return int(text)


def carried_on(delivery: Delivery) -> dict[str, str]:
    """The labels of the next try."""
    chain = {CHAIN: delivery.labels.get(CHAIN) or delivery.run_id, TRY: str(tries(delivery.labels) + 1)}
    return {**delivery.labels, **chain}


def why_not(delivery: Delivery, budget: int, max_age: float, now: datetime) -> str:
    """Why there is nothing to submit again, or "". Raises Refused."""
    if delivery.status not in AGAIN:
        what = delivery.status if delivery.status in ("completed", "canceled") else "not ended, as far as is known"
        return f"the run is {what}: not submitted again"
    if delivery.run.get("retry_pending") is True:
        return "Skyvern itself will try the run again: not submitted again"
    done = tries(delivery.labels)
    if done > budget:
        chain = delivery.labels.get(CHAIN, "")
        return f"the budget is spent: {done} tries" + (f" since {chain}" if chain else "") + "; not submitted again"
    age = (now - delivery.received_at).total_seconds()
    if age > max_age:
        return f"its result came {age / 3600:.0f} h ago: not submitted again"
    return ""
