"""What a sink's answer means for its delivery. Pure: values in, an AttemptResult out.

Receipt       accepted
Refused       dead now
Unavailable   tried again later, until its attempts are spent, or its time is up; while the breaker is not closed it
              spends none, unless a dependency failed: then its neighbours go on, and it must come to an end by itself
else          a bug of ours: recorded by its type alone, tried again within the same budget

What a sink says is its own: text that no database takes, or a number that is none, must not keep the deliveries from
being settled that ended with it.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from handlers import Receipt, Refused, Unavailable
from receiver.config.destinations import RetryPolicy
from receiver.delivery import backoff
from receiver.delivery.backoff import RETRY_AFTER_CAP
from receiver.domain.breaker import Observation
from receiver.domain.delivery import DeliveryMove, gave_up
from receiver.ledger.deliveries.attempts import AttemptResult
from receiver.ledger.deliveries.claimed import Claimed
from receiver.ledger.dialect import storable

_AVAILABLE = Observation(True)


def reason(answer: Exception) -> str:
    """Return what an operator reads. A sink's own errors hold no secret by contract; of a bug it is the type alone."""
    if isinstance(answer, (Refused, Unavailable)):
        try:
            return storable(str(answer))
        except Exception as error:  # noqa: BLE001 - a class derived from it says this with code of its own
            return f"{type(error).__name__} in the words of {type(answer).__name__}"
    return f"{type(answer).__name__} in the sink's code"


def _wait(answer: Receipt | Exception) -> float | None:
    """Return the seconds that a sink asks to wait; None where it does not, or gives no number."""
    asked = answer.retry_after if isinstance(answer, Unavailable) else None
    if asked is None:
        return None
    try:
        seconds = float(asked)
    except OverflowError:
        seconds = math.inf
    except (TypeError, ValueError):
        return None
    if math.isnan(seconds):
        return None
    return RETRY_AFTER_CAP if math.isinf(seconds) else seconds


def _receipt(answer: Receipt) -> dict[str, Any]:
    """Return the parts of a receipt. One with wrong types is no reason to send again what was accepted."""
    try:
        return answer.to_dict()
    except Exception as error:  # noqa: BLE001 - it may be a class derived from it
        return {"note": f"{type(error).__name__} in the sink's receipt"}


def availability(answer: Receipt | Exception) -> Observation | None:
    """Return what the breaker learns from the answer; None for a bug of ours, which says nothing about the sink."""
    if isinstance(answer, Unavailable) and not answer.dependency:
        return Observation(False, reason(answer), _wait(answer))
    return _AVAILABLE if isinstance(answer, (Receipt, Refused, Unavailable)) else None


class _Verdict(NamedTuple):
    """What becomes of the delivery, and the word and the reason for its attempt."""

    move: DeliveryMove
    outcome: str
    why: str
    due_at: float
    spends: bool = True


def outcome_of(
    claimed: Claimed,
    answer: Receipt | Exception,
    retry: RetryPolicy,
    parked_until: float | None,
    started_at: float,
    now: float,
    chance: float,
    *,
    ended_at: float | None = None,
) -> AttemptResult:
    """Return the result of one attempt. `parked_until`: of a lane whose breaker was not closed, when the next probe is.
    `chance` in [0, 1) is the jitter; times are seconds since the epoch. `ended_at`: None means now."""
    if isinstance(answer, Receipt):
        verdict, receipt = _Verdict(DeliveryMove.ACCEPT, "accepted", "", now), _receipt(answer)
    else:
        verdict, receipt = _failed(claimed, answer, retry, parked_until, now, chance), None
    return AttemptResult(
        *(claimed.id, claimed.event_id, claimed.attempt_number, verdict.move, verdict.outcome),
        *(verdict.why, started_at, now if ended_at is None else ended_at, verdict.due_at, verdict.spends),
        receipt=receipt,
        retry_after=_wait(answer),
        tried_at=claimed.tried_at,
    )


def _failed(
    claimed: Claimed, answer: Exception, retry: RetryPolicy, parked_until: float | None, now: float, chance: float
) -> _Verdict:
    why = reason(answer)
    if isinstance(answer, Refused):
        return _Verdict(DeliveryMove.DIE, "refused", why, now)
    outcome = "unavailable" if isinstance(answer, Unavailable) else "error"
    if backoff.is_over(retry, claimed.tried_at, now):
        return _Verdict(DeliveryMove.DIE, outcome, gave_up(retry.give_up_after) + why, now)
    away = isinstance(answer, Unavailable) and not answer.dependency
    if away and parked_until is not None:
        return _Verdict(DeliveryMove.DEFER, outcome, why, max(parked_until, now), spends=False)
    due = backoff.next_try(retry, claimed.spent + 1, now, chance, _wait(answer), since=claimed.tried_at)
    if due is None:
        return _Verdict(DeliveryMove.DIE, outcome, why, now)
    return _Verdict(DeliveryMove.DEFER, outcome, why, due)
