"""What a sink's answer means for its delivery. Pure: values in, a Settled out.

Receipt       accepted
Refused       dead now
Unavailable   tried again later, until its attempts are spent; while the breaker is not closed it spends none, unless
              a dependency failed: then its neighbours go on, and it must come to an end by itself
else          a bug of ours: told to the operator by its type, tried again within the same budget
"""

from __future__ import annotations

from typing import NamedTuple

from handlers import Receipt, Refused, Unavailable
from receiver.config.models import RetryPolicy
from receiver.delivery import backoff
from receiver.domain.breaker import Lane, Observation
from receiver.domain.delivery import DeliveryMove
from receiver.ledger.deliveries.attempts import Settled
from receiver.ledger.deliveries.claims import Claimed

REASON_CAP = 500
"""Characters of a reason that are kept."""


class BreakerChange(NamedTuple):
    """The breaker of a lane before and after the answers of one batch."""

    before: Lane
    after: Lane


def reason(answer: Exception) -> str:
    """What an operator reads. A sink's own errors hold no secret by contract; of a bug only the type is told."""
    if isinstance(answer, (Refused, Unavailable)):
        return str(answer)[:REASON_CAP].replace("\x00", "")
    return f"{type(answer).__name__} in the sink's code"


def availability(answer: Receipt | Exception) -> Observation | None:
    """What the answer tells the breaker. A bug of ours says nothing about the sink: None."""
    if isinstance(answer, Unavailable) and not answer.dependency:
        return Observation(False, reason(answer), answer.retry_after)
    return Observation(True) if isinstance(answer, (Receipt, Refused, Unavailable)) else None


def settled(
    claimed: Claimed,
    answer: Receipt | Exception,
    retry: RetryPolicy,
    gate: BreakerChange | None,
    started_at: float,
    now: float,
    chance: float,
) -> Settled:
    """What became of one attempt. `chance` in [0, 1) is the jitter; times are seconds since the epoch."""

    def verdict(
        move: DeliveryMove, outcome: str, *, due_at: float = now, spends: bool = True, receipt: Receipt | None = None
    ) -> Settled:
        return Settled(
            id=claimed.id,
            number=claimed.number,
            move=move,
            outcome=outcome,
            reason="" if isinstance(answer, Receipt) else reason(answer),
            started_at=started_at,
            ended_at=now,
            due_at=due_at,
            spends=spends,
            receipt=receipt.to_dict() if receipt is not None else None,
            retry_after=answer.retry_after if isinstance(answer, Unavailable) else None,
        )

    if isinstance(answer, Receipt):
        return verdict(DeliveryMove.ACCEPT, "accepted", receipt=answer)
    if isinstance(answer, Refused):
        return verdict(DeliveryMove.DIE, "refused")
    outcome = "unavailable" if isinstance(answer, Unavailable) else "error"
    away = isinstance(answer, Unavailable) and not answer.dependency
    if away and gate is not None and gate.before.breaker != "closed":
        return verdict(DeliveryMove.DEFER, outcome, due_at=max(gate.after.until, now), spends=False)
    retry_after = answer.retry_after if isinstance(answer, Unavailable) else None
    due = backoff.next_try(retry, claimed.spent + 1, now, chance, retry_after)
    if due is None:
        return verdict(DeliveryMove.DIE, outcome)
    return verdict(DeliveryMove.DEFER, outcome, due_at=due)
