"""What is told of a run once it is known late whose it is. Its events came before that: they were routed without the
labels of its submission, and its caller's webhook was not made.

Nothing is sent twice: a sink that has a delivery of a result gets none of it here. What is told of a run that has gone
on since (it was paused, or tried again) would be old news, and is left out.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from receiver.domain import attention, callback
from receiver.domain.run import Run, RunKey, parse
from receiver.domain.shape import completed
from receiver.ledger import Connection, reroutes
from receiver.ledger.earlier_events import loads
from receiver.ledger.events import NewDelivery
from receiver.ledger.reroutes import AddedDelivery, OldEvent, ResultKey
from receiver.ledger.submissions import visibility
from receiver.ledger.submissions.lifecycle import Submission
from receiver.routing.router import Router, RunView

log = logging.getLogger("runhook.dispatch")


class LateBinding:
    """Tells of runs that are bound late. Threads may share it.

    `make_router`: makes the rules ready, once the first run is told of. Few processes ever meet one.
    """

    def __init__(self, make_router: Callable[[], Router]) -> None:
        self._make_router = make_router
        self._router: Router | None = None
        self._routing = threading.Lock()  # the router is not made for two threads at once

    def tell(self, connection: Connection, run: RunKey, submission: Submission, now: float) -> Collection[str]:
        """Make the deliveries that the run lacks as one of `submission`, in the transaction that has bound it, and has
        locked it. Returns the sinks that have something due then: whoever commits it wakes them."""
        page = reroutes.of_run(connection, run)
        told = reroutes.sinks_of(connection, page)
        submission = visibility.for_callers(connection, {run: submission})[run]
        try:
            with self._routing:
                self._router = self._router or self._make_router()
                wanted = list(_lacking(self._router, page, told, submission))
        except Exception:  # the run is bound all the same
            log.exception("late.failed source=%s run=%s submission=%s", *run, submission.id)
            return ()
        made, sinks = reroutes.add(connection, wanted, now)
        log.info("late.told source=%s run=%s submission=%s deliveries=%d", *run, submission.id, made)
        return sinks


def _lacking(
    router: Router, page: Sequence[OldEvent], told: Mapping[ResultKey, set[str]], submission: Submission
) -> Iterable[AddedDelivery]:
    """Yield the deliveries that the results of these events lack. `told`: the sinks that have one, by result."""
    reached = {key: set(sinks) for key, sinks in told.items()}
    for event in page:
        if is_old_news(event):
            continue
        view = view_of(event)
        new = [NewDelivery(it.sink, it.route, after=it.after) for it in router.match(view).targets]
        if webhook := callers_webhook(submission, event.disposition, view.run):
            new.append(webhook)
        there = reached.setdefault(event.result, set())
        for each in new:
            if each.sink not in there:
                there.add(each.sink)
                yield AddedDelivery(event.id, event.source, event.run_id, *each)


def callers_webhook(submission: Submission | None, disposition: str, run: Run) -> NewDelivery | None:
    """Return the delivery to the webhook of a submission's caller, if it is told of this event: as Skyvern would, of
    each attempt's end too, but not of a run that is paused or waits."""
    tells_more = disposition in ("new", "interim") and run.status not in attention.ACTIVE
    if submission is None or not submission.webhook_url or not tells_more:
        return None
    return NewDelivery(callback.CALLBACK, callback.ROUTE, callback.lane_of(submission.webhook_url, submission.key_id))


def is_old_news(event: OldEvent) -> bool:
    """Whether its run has gone on since it was told."""
    return event.disposition == "interim" and not event.newest


def view_of(event: OldEvent) -> RunView:
    """Return what rules are asked about."""
    run = parse(event.body)
    run = run.with_data(completed(run.data, loads(event.completion)))
    return RunView(run, event.source, event.via, event.disposition, event.labels, event.received_at, event.id)
