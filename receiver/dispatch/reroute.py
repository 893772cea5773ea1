"""Apply the current rules to old events, and create the deliveries that they lack.

Nothing is sent twice: a sink that has a delivery of a result, in any state, does not get another one. Skips an event
whose run has continued since, such as after a pause or a retry, because it is outdated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from receiver.config.models import Config
from receiver.dispatch.decide import make_router
from receiver.dispatch.late_binding import is_outdated, view_of
from receiver.dispatch.missing import missing, note_of
from receiver.domain.event import UNEVALUATED
from receiver.ledger import Connection, Ledger, reroutes
from receiver.ledger.deliveries.creation import AddedDelivery
from receiver.ledger.lists.filters import Filter
from receiver.ledger.reroutes import EventNote, OldEvent, ResultKey
from receiver.routing.route import RouteConfig
from receiver.routing.router import Router

# Maximum deliveries that one transaction creates.
STEP = 500
# The route of deliveries that a sink gets regardless of the routes.
BY_HAND: Final = "backfill"


class Rerouted(NamedTuple):
    """The verdict of the current routes on an old event. `result`: the first event with the same result.

    `reaches`: all of its sinks. `added`: those that lack the result.
    """

    id: str
    source: str
    run_id: str
    status: str
    disposition: str
    result: str
    reaches: tuple[str, ...]
    added: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReroutePage:
    """The plan for a page of events, the newest first. `left`: number of events whose runs have continued since.

    `oldest`: the position of its last event, before which the next page begins. `notes`: of the events for which a rule
    had failed. `to_newest`: a result that is updated meanwhile is delivered with its last update.
    """

    events: list[Rerouted]
    deliveries: list[AddedDelivery]
    left: int
    oldest: int
    notes: list[EventNote] = field(default_factory=list)
    to_newest: bool = False


class Rerouter:
    """Plans the missing deliveries of recorded events by the current routes.

    `sink`: only deliveries to it; "" for all sinks. `ignore_routes`: the sink gets all results.
    """

    def __init__(self, ledger: Ledger, config: Config, sink: str = "", *, ignore_routes: bool = False) -> None:
        self._ledger = ledger
        all_results = RouteConfig(name=BY_HAND, to=[sink]) if ignore_routes else None
        self._router = Router([all_results]) if all_results else make_router(config)
        self._sink = sink
        self._ignore_routes = ignore_routes
        self._reached: dict[ResultKey, set[str]] = {}

    @property
    def failures(self) -> Counter[str]:
        """By route, on how many events its rule could not be evaluated."""
        return self._router.failures

    def pages(self, filters: Filter, before: int | None = None) -> Iterator[ReroutePage]:
        """Yield the plans, page by page. `before`: the position to continue at. Raises LedgerUnavailable."""
        for page in reroutes.read_back(self._ledger, filters, before):
            if page:
                yield self._plan(page)

    def _plan(self, page: list[OldEvent]) -> ReroutePage:
        known = self._ledger.read(lambda connection: reroutes.sinks_of(connection, page))
        left = sum(is_outdated(each) for each in page)
        plan = ReroutePage([], [], left, page[-1].seq, to_newest=self._ignore_routes)
        for event in page:
            failed_before = UNEVALUATED in event.problem and not self._sink
            if is_outdated(event):
                if failed_before:
                    plan.notes.append(EventNote(event.id, event.problem, ""))
                continue
            view, reached = view_of(event), self._reached.setdefault(event.result, set())
            verdict = missing(view, self._router, reached | known.get(event.result, set()))
            if failed_before:
                plan.notes.append(EventNote(event.id, event.problem, note_of(view.run, verdict)))
            new = [each for each in verdict.targets if self._sink in ("", each.sink)]
            reached.update(each.sink for each in new)
            reaches = tuple(sink for sink in verdict.reaches if self._sink in ("", sink))
            which = (event.id, event.source, event.run_id, event.outcome, event.disposition, event.result[1])
            plan.events.append(Rerouted(*which, reaches, tuple(each.sink for each in new)))
            plan.deliveries.extend(
                AddedDelivery(event.id, event.source, event.run_id, each.sink, each.route, after=each.after)
                for each in new
            )
        return plan


def apply(ledger: Ledger, page: ReroutePage) -> int:
    """Create the deliveries of a page, STEP in each transaction. Returns how many. Raises LedgerUnavailable.

    It may be repeated at any time: a sink that has a result by then is skipped.
    """
    created: set[str] = set()
    for start in range(0, len(page.deliveries), STEP):
        step = page.deliveries[start : start + STEP]

        def add(connection: Connection) -> None:
            added = reroutes.add(connection, step, ledger.now(), to_newest=page.to_newest)  # noqa: B023 - runs at once
            created.update(added.made)  # by any try: one may be committed though its COMMIT had no reply

        ledger.write(add)
    if page.notes:
        ledger.write(lambda connection: reroutes.put_notes(connection, page.notes))
    return len(created)
