"""When sends that have ended are settled: some wait a moment for others. Pure: the time is passed in.

A settlement costs a transaction however many it settles, and once a sink has accepted nobody waits for it but who looks
at the delivery. Until then the ledger holds for under way what has ended: a worker that is killed makes it be sent
again, as what was under way then.
"""

from __future__ import annotations

from collections.abc import Sequence

from receiver.delivery.send_task import SendTask

# Seconds from the start of a send in which its settlement waits for others. So one that takes longer never waits.
GATHER = 0.025
# Deliveries that may have ended without being settled, before anything else starts.
MOST_UNSETTLED = 64


def settle_at(ended: Sequence[SendTask], seconds: float) -> float:
    """Return when sends that have ended are to be settled, by time.monotonic(): infinite when there are none, and
    minus infinity for at once. `seconds`: from the start of each; 0 to wait for nothing."""
    if not ended:
        return float("inf")
    if not seconds or is_full(ended) or not all(_may_wait(task) for task in ended):
        return float("-inf")
    return min(task.started for task in ended) + seconds


def is_full(ended: Sequence[SendTask]) -> bool:
    """Whether so many have ended that they are to be settled before anything else starts."""
    return sum(len(task.claimed) for task in ended) >= MOST_UNSETTLED


def _may_wait(task: SendTask) -> bool:
    """Whether nothing depends on a settlement: no later try, no breaker, no lane."""
    return task.accepted and not any(each.probe for each in task.claimed)
