"""How long a run has ended at least, when only Skyvern's API has shown its end: its webhook may still come. Pure.

Skyvern sets the final status before it writes the recording out, saves the downloads and sends the webhook. So an end
that a GET or a list shows is taken for the result only when it is some time old. Its own times are by its own clock,
which may differ from ours by hours in either direction: only differences of two times by the same clock count.
"""

from __future__ import annotations

from typing import Final

from receiver.domain.run import Run

# Seconds by which an end that is older, by Skyvern's clock, is older by ours too: no time zone is so far away.
LONG_PAST: Final = 86_400.0
# Seconds that may pass between our record of a submission and Skyvern's record of its run.
SUBMIT_TIME: Final = 120.0


def may_be_removed(run: Run, now: float, kept: float | None) -> bool:
    """Whether a run that the ledger does not know ended so early that retention may have
    removed its events. `kept`: seconds for which events are kept; None: for ever."""
    ended_at = run.finished_at or run.modified_at or run.created_at
    return kept is not None and ended_at is not None and now - ended_at > kept + LONG_PAST


def ended_for(
    run: Run,
    now: float,
    *,
    noted_at: float | None = None,
    submitted_at: float | None = None,
    listed_at: float | None = None,
) -> float:
    """Return for how many seconds, at least, the run has ended.

    `noted_at`: when we first saw its end. `submitted_at`: when we submitted it. Both by our clock, as `now`.
    `listed_at`: when another run was created that is there by now, by Skyvern's clock.
    """
    ages = [0.0]
    if noted_at is not None:
        ages.append(now - noted_at)
    if run.finished_at is not None:
        if now - run.finished_at > LONG_PAST:
            ages.append(now - run.finished_at)
        if submitted_at is not None and run.created_at is not None:
            ages.append(now - submitted_at - SUBMIT_TIME - (run.finished_at - run.created_at))
        if listed_at is not None:
            ages.append(listed_at - run.finished_at)
    return max(ages)
