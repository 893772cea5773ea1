"""Route the events of a run again after it is bound to its submission late.

The events came before that: they were routed without the submission's labels and its caller's webhook, and lack members
of its request. They are completed, and routed as if the submission had been known. A sink that has a result gets it
again only if the event has new data and the sink takes updates, by its type or by its route. Events of a run that has
continued since, such as after a pause or a retry, are outdated and skipped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import NamedTuple

from receiver.dispatch.decide import callers_webhook, with_request
from receiver.dispatch.missing import missing
from receiver.domain.event import Event
from receiver.domain.extent import extent_of
from receiver.domain.members import WORKFLOW
from receiver.domain.new_event import NewDelivery
from receiver.domain.parsed_event import ParsedEvent, completion_of_text, completion_text
from receiver.domain.redaction import Redactor
from receiver.domain.run import RESTARTABLE, Run, RunKey, parse
from receiver.domain.shape import completed
from receiver.domain.submission import Submission
from receiver.ledger import Connection, polls, reroutes
from receiver.ledger.deliveries.creation import AddedDelivery
from receiver.ledger.reroutes import LateCompletion, OldEvent, ResultKey
from receiver.ledger.submissions import records
from receiver.routing.router import Router, RunView

log = logging.getLogger("runhook.dispatch")


class LateBinding:
    """Routes events of runs that are bound late. Threads may share it.

    `make_router`: called for the first such run, which few processes ever have.
    """

    def __init__(self, make_router: Callable[[], Router], redactor: Redactor) -> None:
        self._router = cache(make_router)
        self._redactor = redactor

    def route_again(
        self, connection: Connection, run: RunKey, submission: Submission, now: float, in_order: Collection[str] = ()
    ) -> Collection[str]:
        """Complete the events of a run, and create the deliveries that it lacks as a run of `submission`.

        Call it in the transaction that has locked and bound the run. `in_order`: the events that this transaction has
        recorded with the submission. Returns the sinks with due deliveries, to wake after the commit.
        """
        page = [self._read(old, submission, in_order) for old in reroutes.of_run(connection, run)]
        _complete(connection, run, page, now)
        begun = reroutes.lock_deliveries(connection, [each.old.id for each in page])
        submission = records.for_callers(connection, {run: submission})[run]
        try:
            new = list(_missing(self._router(), page, begun, submission))
        except Exception:  # the run stays bound
            log.exception("late.failed source=%s run=%s submission=%s", *run, submission.id)
            return ()
        added, sinks = reroutes.add(connection, new, now)
        log.info("late.routed source=%s run=%s submission=%s deliveries=%d", *run, submission.id, len(added))
        return sinks

    def _read(self, old: OldEvent, submission: Submission, in_order: Collection[str]) -> _LateEvent:
        """Return a recorded event, completed."""
        parsed = parsed_again(old)
        try:
            whole = with_request(parsed, submission, self._redactor)
        except Exception:  # it is routed as it is
            log.exception("late.incomplete event=%s submission=%s", old.id, submission.id)
            whole = parsed
        more = whole is not parsed or (bool(submission.labels) and old.id not in in_order)
        return _LateEvent(old, whole, completed=whole is not parsed, more=more)


class _LateEvent(NamedTuple):
    """A recorded event of a run that is bound late, the newest first. `parsed`: in its current state.

    `completed`: its recorded form lacked members. `more`: its deliveries may lack those, or labels.
    """

    old: OldEvent
    parsed: ParsedEvent
    completed: bool
    more: bool


def _complete(connection: Connection, run: RunKey, page: Sequence[_LateEvent], now: float) -> None:
    """Store the completions of these events."""
    if not any(each.completed for each in page):
        return
    reroutes.complete(
        connection,
        [
            LateCompletion(each.old.id, completion_text(each.parsed.completion), str(extent_of(each.parsed.run.data)))
            for each in page
            if each.completed
        ],
    )
    for each in page:
        if each.old.newest:
            reroutes.put_status(connection, run, each.old.id, each.parsed.run, now)
            if _is_whole(each.parsed.run):
                polls.stop(connection, [run])


def _is_whole(run: Run) -> bool:
    """Whether an ended run needs no further poll for data that its webhook lacked. Others may still poll it."""
    return run.final and run.outcome != "canceled" and not (run.run_type == WORKFLOW and run.outcome in RESTARTABLE)


def _missing(
    router: Router, page: Sequence[_LateEvent], begun: Mapping[str, Mapping[str, bool]], submission: Submission
) -> Iterable[AddedDelivery]:
    """Yield the deliveries that the results of these events lack.

    `begun`: by event and sink, whether its delivery has been sent. If a sink has several events of a result, the newest
    counts.
    """
    reached: dict[ResultKey, set[str]] = {}
    outdated: dict[str, set[str]] = {}
    for old, _, _, more in page:
        has = reached.setdefault(old.result, set())
        outdated[old.id] = {sink for sink, sent in begun.get(old.id, {}).items() if sent and more and sink not in has}
        has.update(begun.get(old.id, ()))
    for old, parsed, *_ in page:
        if is_outdated(old):
            continue
        has, behind = reached[old.result], outdated[old.id]
        verdict = missing(view_of(old, parsed.run), router, has - behind, behind)
        new = [NewDelivery(each.sink, each.route, after=each.after) for each in verdict.targets]
        webhook = callers_webhook(submission, old.disposition, parsed.run)
        if webhook and webhook.sink not in has:
            new.append(webhook)
        for each in new:
            again = submission.id if each.sink in behind else ""
            yield AddedDelivery(old.id, old.source, old.run_id, *each, again=again)
        has.update(each.sink for each in new)


def is_outdated(event: OldEvent) -> bool:
    """Whether its run has continued since."""
    return event.disposition == "interim" and not event.newest


def view_of(event: OldEvent, run: Run | None = None) -> RunView:
    """Return the input of the rules. `run`: parsed from the event before."""
    run = run or parsed_again(event).run
    return RunView(run, event.source, event.via, event.disposition, event.labels, event.received_at, event.id)


def parsed_again(old: OldEvent) -> ParsedEvent:
    """Parse a recorded event, whose body is redacted, and apply its stored completion."""
    run, completion = parse(old.body), completion_of_text(old.completion)
    event = Event(old.id, old.source, old.body, old.received_at, old.via)
    return ParsedEvent(
        event, run.with_data(completed(run.data, completion)), old.body, completion=completion, data=run.data
    )
