"""Whether Skyvern is asked once more for a run whose end a webhook has brought: for what that lacks, or since Skyvern
may start the run again without saying so."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from receiver.domain import poll_schedule
from receiver.domain.run import RESTARTABLE, RunKey
from receiver.domain.shape import WORKFLOW
from receiver.ledger.events import NewEvent


class FollowUpPolls:
    """`may_ask`: whether a source's API may be asked once more now; it is taken for asked then."""

    def __init__(self, may_ask: Callable[[str], bool]) -> None:
        self.may_ask = may_ask

    def wanted(
        self, events: Iterable[NewEvent], submitted: Collection[RunKey], now: float, allowed: set[RunKey]
    ) -> dict[RunKey, float]:
        """Return the runs to poll once more, with the time of the poll. `submitted`: runs that have a submission.

        `allowed`: runs that an earlier try of this transaction was allowed to poll; this call adds its own.
        """
        found: dict[RunKey, float] = {}
        for item in events:
            if item.key in submitted:
                wanted, due_at = _may_be_restarted(item), now + poll_schedule.AFTER_RESTART
            else:
                wanted, due_at = _lacks_request(item), now + poll_schedule.FOR_MORE
            if wanted and item.key not in found and (item.key in allowed or self.may_ask(item.event.source)):
                found[item.key] = due_at
        allowed.update(found)
        return found


def _lacks_request(item: NewEvent) -> bool:
    """Whether it is a task's end that does not say what was asked for."""
    not_told = item.run.data.get("run_request", "") is None
    return not_told and item.disposition == "new" and item.event.via == "webhook" and item.run.final


def _may_be_restarted(item: NewEvent) -> bool:
    """Whether Skyvern may start the run again without saying so: the webhook of a run is sent before that."""
    may = item.disposition == "new" and item.run.run_type == WORKFLOW and item.run.outcome in RESTARTABLE
    return may and not item.run.retried_by
