"""When a delivery is tried again. Pure: time and chance are passed in."""

from __future__ import annotations

from receiver.config.destinations import RetryPolicy

# Seconds. A sink that asks for more than a day is asked again after one.
RETRY_AFTER_CAP = 86_400.0


def delay(policy: RetryPolicy, spent: int, chance: float) -> float:
    """Return the seconds before the next attempt when `spent` attempts were spent: exponential, with jitter, capped.

    `chance` in [0, 1): the delay lies between half of the full one and all of it, so that a thousand deliveries
    that failed together don't come back together.
    """
    # The exponent is capped as well: 2.0 ** 1100 is an OverflowError.
    full = min(policy.first * policy.factor ** min(max(spent - 1, 0), 64), policy.max)
    return full * (0.5 + chance / 2)


def next_try(
    policy: RetryPolicy,
    spent: int,
    now: float,
    chance: float,
    retry_after: float | None = None,
    *,
    since: float | None = None,
) -> float | None:
    """Return when to try again (seconds since the epoch), or None when attempts or time are up: the delivery is dead.

    `since`: when its first attempt began; None if that is this one. The last attempt is made when the time is up. A
    sink's own `retry_after` (seconds) makes it later, never sooner.
    """
    if spent >= policy.attempts or is_over(policy, since, now):
        return None
    end = (now if since is None else since) + policy.give_up_after
    due = min(now + delay(policy, spent, chance), end)
    if retry_after is not None:
        due = max(due, now + min(max(retry_after, 0.0), RETRY_AFTER_CAP) * (1 + chance / 20))
    return due


def is_over(policy: RetryPolicy, since: float | None, now: float) -> bool:
    """Whether the time of a delivery whose first attempt began at `since` is up."""
    return since is not None and now - since >= policy.give_up_after


def is_last(policy: RetryPolicy, spent: int, since: float | None, now: float) -> bool:
    """Whether the attempt that begins `now` is the last one if it fails. `spent`: attempts before it."""
    return spent + 1 >= policy.attempts or is_over(policy, since, now)
