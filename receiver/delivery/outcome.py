"""Convert a sink's response to the outcome of its delivery, without any I/O.

Receipt       accepted
Refused       dead now
Unavailable   retried until its attempts are spent, or its time is up. While the breaker is not closed, it spends no
              attempt, unless a dependency failed: other deliveries then continue, and this one ends within its budget
else          a bug in the sink's code: recorded by its type only, retried within the same budget

A sink's response is untrusted: an invalid text or number must not prevent other deliveries of the batch from being
settled.
"""

from __future__ import annotations

import math
from typing import Any

from handlers import Receipt, Refused, SinkError, Unavailable
from handlers.support.excerpt import cut
from receiver.config.destinations import RetryPolicy
from receiver.delivery import backoff
from receiver.delivery.backoff import RETRY_AFTER_CAP
from receiver.domain.breaker import Observation
from receiver.domain.callback_url import mask_bytes
from receiver.domain.delivery import DeliveryMove, gave_up
from receiver.domain.redaction import Redactor
from receiver.ledger.database.dialect import storable
from receiver.ledger.deliveries.attempts import AttemptResult
from receiver.ledger.deliveries.claimed import Claimed

_AVAILABLE = Observation(True)
_NO_REDACTION = Redactor([])


def reason(answer: Exception) -> str:
    """Return the reason to show to an operator: a sink's own error, which contains no secret, or the type of a bug."""
    if isinstance(answer, (Refused, Unavailable)):
        try:
            return storable(str(answer))
        except Exception as error:  # noqa: BLE001 - a subclass may run its own code here
            return f"{type(error).__name__} in the words of {type(answer).__name__}"
    return f"{type(answer).__name__} in the sink's code"


def _wait(answer: Receipt | Exception) -> float | None:
    """Return the seconds that a sink asks to wait; None without a valid number."""
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
    """Return the fields of a receipt. Invalid types must not cause an accepted delivery to be sent again."""
    try:
        return answer.to_dict()
    except Exception as error:  # noqa: BLE001 - it may be a class derived from it
        return {"note": f"{type(error).__name__} in the sink's receipt"}


def _response(answer: Receipt | Exception, redactor: Redactor) -> str:
    """Return what a refusing server answered, masked as bodies are; "" if the sink did not say."""
    text = getattr(answer, "response", "") if isinstance(answer, SinkError) else ""
    if not isinstance(text, str) or not text:
        return ""
    body = redactor.apply(mask_bytes(text.encode("utf-8", errors="replace")), {})[0]
    return cut(body.decode("utf-8", errors="replace").replace("\0", ""))


def availability(answer: Receipt | Exception) -> Observation | None:
    """Return the observation for the breaker; None for a bug in code, which does not reflect the sink's state."""
    if isinstance(answer, Unavailable) and not answer.dependency:
        return Observation(False, reason(answer), _wait(answer))
    return _AVAILABLE if isinstance(answer, (Receipt, Refused, Unavailable)) else None


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
    redactor: Redactor = _NO_REDACTION,
) -> AttemptResult:
    """Return the result of one attempt. `parked_until`: of a lane whose breaker was not closed, when the next probe is.
    `chance` in [0, 1) is the jitter; times are seconds since the epoch. `ended_at`: None means now.
    `redactor`: masks the server's response."""
    move, outcome, why, due_at, spends = _verdict(claimed, answer, retry, parked_until, now, chance)
    return AttemptResult(
        *(claimed.id, claimed.event_id, claimed.attempt_number, move, outcome),
        *(why, started_at, now if ended_at is None else ended_at, due_at, spends),
        receipt=_receipt(answer) if isinstance(answer, Receipt) else None,
        retry_after=_wait(answer),
        response=_response(answer, redactor),
        tried_at=claimed.tried_at,
    )


def _verdict(
    claimed: Claimed,
    answer: Receipt | Exception,
    retry: RetryPolicy,
    parked_until: float | None,
    now: float,
    chance: float,
) -> tuple[DeliveryMove, str, str, float, bool]:
    """Return the delivery's move, the attempt's outcome and reason, when the delivery is due, and whether it spent an
    attempt."""
    if isinstance(answer, Receipt):
        return DeliveryMove.ACCEPT, "accepted", "", now, True
    why = reason(answer)
    if isinstance(answer, Refused):
        return DeliveryMove.DIE, "refused", why, now, True
    outcome = "unavailable" if isinstance(answer, Unavailable) else "error"
    if backoff.is_over(retry, claimed.tried_at, now):
        return DeliveryMove.DIE, outcome, gave_up(retry.give_up_after) + why, now, True
    away = isinstance(answer, Unavailable) and not answer.dependency
    if away and parked_until is not None:
        return DeliveryMove.DEFER, outcome, why, max(parked_until, now), False
    due = backoff.next_try(retry, claimed.spent + 1, now, chance, _wait(answer), since=claimed.tried_at)
    if due is None:
        return DeliveryMove.DIE, outcome, why, now, True
    return DeliveryMove.DEFER, outcome, why, due, True
