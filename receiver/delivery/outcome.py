"""What a sink's answer means for its delivery. Pure: values in, an AttemptResult out.

Receipt       accepted
Refused       dead now
Unavailable   tried again later, until its attempts are spent, or its time is up; while the breaker is not closed it
              spends none, unless a dependency failed: then its neighbours go on, and it must come to an end by itself
else          a bug of ours: recorded by its type alone, tried again within the same budget
"""

from __future__ import annotations

from typing import NamedTuple

from handlers import Receipt, Refused, Unavailable
from receiver.config.destinations import RetryPolicy
from receiver.delivery import backoff
from receiver.domain.breaker import Lane, Observation
from receiver.domain.delivery import DeliveryMove, gave_up
from receiver.ledger.deliveries.attempts import AttemptResult
from receiver.ledger.deliveries.claimed import Claimed

# Characters of a reason that are kept.
REASON_CAP = 500
_AVAILABLE = Observation(True)


class BreakerChange(NamedTuple):
    """The breaker of a lane before and after the answers of one batch."""

    before: Lane
    after: Lane


def reason(answer: Exception) -> str:
    """Return what an operator reads. A sink's own errors hold no secret by contract; of a bug it is the type alone."""
    if isinstance(answer, (Refused, Unavailable)):
        return str(answer)[:REASON_CAP].replace("\x00", "")
    return f"{type(answer).__name__} in the sink's code"


def availability(answer: Receipt | Exception) -> Observation | None:
    """Return what the breaker learns from the answer; None for a bug of ours, which says nothing about the sink."""
    if isinstance(answer, Unavailable) and not answer.dependency:
        return Observation(False, reason(answer), answer.retry_after)
    return _AVAILABLE if isinstance(answer, (Receipt, Refused, Unavailable)) else None


def outcome_of(
    claimed: Claimed,
    answer: Receipt | Exception,
    retry: RetryPolicy,
    change: BreakerChange | None,
    started_at: float,
    now: float,
    chance: float,
    *,
    ended_at: float | None = None,
) -> AttemptResult:
    """Return the result of one attempt. `change`: of the breaker, by the batch that the attempt was settled in, if any.
    `chance` in [0, 1) is the jitter; times are seconds since the epoch. `ended_at`: None means now."""

    accepted = AttemptResult(  # as most are; the others differ in what follows
        id=claimed.id,
        created_at=claimed.created_at,
        attempt_number=claimed.attempt_number,
        move=DeliveryMove.ACCEPT,
        outcome="accepted",
        reason="",
        started_at=started_at,
        ended_at=now if ended_at is None else ended_at,
        due_at=now,
        receipt=answer.to_dict() if isinstance(answer, Receipt) else None,
        tried_at=claimed.tried_at,
    )
    if isinstance(answer, Receipt):
        return accepted

    def result(
        move: DeliveryMove, outcome: str, *, due_at: float = now, spends: bool = True, why: str = ""
    ) -> AttemptResult:
        return accepted._replace(
            move=move,
            outcome=outcome,
            reason=why + reason(answer),
            due_at=due_at,
            spends=spends,
            retry_after=answer.retry_after if isinstance(answer, Unavailable) else None,
        )

    if isinstance(answer, Refused):
        return result(DeliveryMove.DIE, "refused")
    outcome = "unavailable" if isinstance(answer, Unavailable) else "error"
    away = isinstance(answer, Unavailable) and not answer.dependency
    if backoff.is_over(retry, claimed.tried_at, now):
        return result(DeliveryMove.DIE, outcome, why=gave_up(retry.give_up_after))
    if away and change is not None and change.before.breaker != "closed":
        return result(DeliveryMove.DEFER, outcome, due_at=max(change.after.until, now), spends=False)
    retry_after = answer.retry_after if isinstance(answer, Unavailable) else None
    due = backoff.next_try(retry, claimed.spent + 1, now, chance, retry_after, since=claimed.tried_at)
    if due is None:
        return result(DeliveryMove.DIE, outcome)
    return result(DeliveryMove.DEFER, outcome, due_at=due)
