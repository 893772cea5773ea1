"""The chain of a run and its resubmissions: the number of tries, and whether one more is allowed. Pure.

Labels of the submissions record a chain: the first run's id, and the try's number. A first try has no such labels. Any
doubt ends the chain, since every try costs money.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from handlers.contract import Delivery, Refused
from handlers.support.run_body import FAILED

CHAIN: Final = "runhook-chain"
TRY: Final = "runhook-try"
# Statuses that are submitted again.
RETRIED: Final = FAILED


def try_number(labels: Mapping[str, str]) -> int:
    """Return the number of a run's try from its labels, from 1. Raises Refused for an invalid label."""
    text = labels.get(TRY, "1")
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and int(text) > 0):
        raise Refused(f"the label {TRY} is not a number, so the count of tries is unknown")
    return int(text)


def next_labels(delivery: Delivery, first: str) -> dict[str, str]:
    """Return the labels of the next try. Raises Refused. `first`: the submitted run, if the delivery's run is Skyvern's
    own retry of it; both count as one try."""
    chain = {CHAIN: delivery.labels.get(CHAIN) or first or delivery.run_id, TRY: str(try_number(delivery.labels) + 1)}
    return {**delivery.labels, **chain}


def skip_reason(delivery: Delivery, budget: int, max_age: float, now: datetime) -> str:
    """Return why the run is not submitted again, or "". `max_age`: seconds. Raises Refused."""
    if delivery.status not in RETRIED:
        what = delivery.status if delivery.status in ("completed", "canceled") else "not known to have ended"
        return f"the run is {what}: not submitted again"
    if delivery.run.get("retry_pending") is True or delivery.run.get("retried_by_workflow_run_id"):
        return "Skyvern itself will try the run again: not submitted again"
    done = try_number(delivery.labels)
    if done > budget:
        chain = delivery.labels.get(CHAIN, "")
        return f"the budget is spent: {done} tries" + (f" since {chain}" if chain else "") + "; not submitted again"
    age = (now - delivery.received_at).total_seconds()
    if age > max_age:
        return f"its result came {age / 3600:.0f} h ago: not submitted again"
    return ""
