"""When sends that have ended are settled: some wait a moment for others. Pure: the time is passed in.

A settlement costs a transaction however many it settles, and once a sink has accepted nobody waits for it but who looks
at the delivery. Until then the ledger holds for under way what has ended: a worker that is killed makes it be sent
again, as what was under way then. That is bounded by MOST_UNSETTLED, beside the sends that are under way, and the
journal of starts has a place for as many, and keeps each until it is settled.

Meanwhile the thread that sends wakes nobody. All is settled at once when one was not accepted or was a probe, at a
stop, and for a sink whose receipts others wait for (`after`).
"""

from __future__ import annotations

from collections.abc import Sequence

from receiver.delivery.send_task import SendTask

# Seconds from the start of a send in which its settlement waits for others. So one that takes longer never waits.
GATHER = 0.025
# The same while enough is prefetched: no slot waits for a settlement then. It is made before the next claim anyway.
GATHER_AHEAD = 0.1
# Deliveries that may have ended without being settled, before anything else starts.
MOST_UNSETTLED = 64


def settle_at(ended: Sequence[SendTask], seconds: float, most: float | None = None) -> float:
    """Return when sends that have ended are to be settled, by time.monotonic(): infinite when there are none, and
    minus infinity for at once. `seconds`: from the start of each; 0 to wait for nothing. `most`: see is_full."""
    if not ended:
        return float("inf")
    if not seconds or is_full(ended, most) or not all(_may_wait(task) for task in ended):
        return float("-inf")
    return min(task.started for task in ended) + seconds


def is_full(ended: Sequence[SendTask], most: float | None = None) -> bool:
    """Whether so many have ended that they are to be settled before anything else starts: MOST_UNSETTLED, or `most`."""
    return sum(len(task.claimed) for task in ended) >= (MOST_UNSETTLED if most is None else most)


def _may_wait(task: SendTask) -> bool:
    """Whether nothing depends on a settlement: no later try, no breaker, no lane."""
    return task.accepted and not any(each.probe for each in task.claimed)
