"""When a submission's run is polled: first after the time that its request allows, then ever more rarely. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

# What a step of a browser may take: most take a third of that.
SECONDS_A_STEP: Final = 30.0
# Seconds for the queue before the run, and for its webhook's three attempts after it.
SLACK: Final = 60.0
LONGEST_FIRST: Final = 86_400.0
# Seconds before the second poll; each further one comes after twice as long.
AGAIN: Final = 15.0
# Maximum seconds between two searches for the run of a lost response.
UNKNOWN_LONGEST: Final = 900.0
# Seconds after which a submission without a trace is lost.
LOST_AFTER: Final = 86_400.0
# Seconds after which a run that was cancelled without output is polled once more: it is cleaned up by then.
AFTER_CANCEL: Final = 120.0
# Seconds after which Skyvern is asked for what the webhook of a run lacks that was not submitted here.
FOR_MORE: Final = 10.0
# Seconds after which a run that Skyvern itself has started again is asked for, if no event of it has come.
AFTER_RESTART: Final = 600.0


def first_poll(members: Mapping[str, Any], headers: Mapping[str, str], now: float, default: float) -> float:
    """Return when a run that was just accepted is overdue, in seconds since the epoch.

    `members`: of the request. `headers`: by lower-case name. `default`: seconds, where the request sets no limit.
    """
    minutes = _number(members.get("max_elapsed_time_minutes"))
    if minutes is not None:
        return now + min(minutes * 60 + SLACK, LONGEST_FIRST)
    steps = _number(headers.get("x-max-steps-override"))
    if steps is None:
        steps = _number(members.get("max_steps"))
    return now + (default if steps is None else min(steps * SECONDS_A_STEP + SLACK, LONGEST_FIRST))


def next_poll(polls: int, now: float, chance: float, longest: float, *, retry_after: float | None = None) -> float:
    """Return when to poll again after `polls` polls. `chance` in [0, 1): jitter; `longest`: seconds."""
    wait = min(AGAIN * 2.0 ** min(max(polls, 0), 32), longest) * (0.75 + chance / 2)
    if retry_after is not None:
        wait = max(wait, min(retry_after, LONGEST_FIRST))
    return now + wait


def next_resolve(submission_age: float, polls: int, now: float, chance: float, ages: Sequence[float]) -> float:
    """Return when to search again for the run of a lost answer: as `next_poll`, or sooner: at the next of `ages`.

    `submission_age`, `ages`: seconds since the submission; at each of those ages more can be decided than before.
    """
    again = next_poll(polls, now, chance, UNKNOWN_LONGEST)
    return min([again, *(now + age - submission_age for age in ages if age > submission_age)])


def _number(value: object) -> float | None:
    """Return a limit that is positive and finite, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if 0 < number < float("inf") else None
