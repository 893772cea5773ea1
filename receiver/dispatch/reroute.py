"""Apply the current rules to old events, and create the deliveries that they lack.

Nothing is sent twice: a sink that has a delivery of a result, in any state, does not get another one. Skips an event
whose run has continued since, such as after a pause or a retry, because it is outdated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from receiver.config.models import Config
from receiver.dispatch.dispatcher import make_router
from receiver.dispatch.late_binding import is_old_news, view_of
from receiver.ledger import Ledger, reroutes
from receiver.ledger.deliveries.creation import AddedDelivery
from receiver.ledger.filters import Filter
from receiver.ledger.reroutes import OldEvent, ResultKey
from receiver.routing.router import Router

# Maximum deliveries that one transaction creates.
STEP = 500


@dataclass(frozen=True, slots=True)
class Rerouted:
    """What today's rules say of an old event. `result`: the first event that told the same, or itself; `reaches`: all
    of its sinks; `added`: those that lack the result."""

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

    `oldest`: the position of its last event, before which the next page begins."""

    events: list[Rerouted]
    deliveries: list[AddedDelivery]
    left: int
    oldest: int


class Rerouter:
    """Asks today's rules about old events. `sink`: only what it would get."""

    def __init__(self, ledger: Ledger, config: Config, sink: str) -> None:
        self._ledger = ledger
        self._router = make_router(config)
        self._sink = sink
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
        found = ReroutePage([], [], sum(is_old_news(each) for each in page), page[-1].seq)
        for event in page:
            if is_old_news(event):
                continue
            targets = [each for each in self._router.match(view_of(event)).targets if self._sink in ("", each.sink)]
            reached = self._reached.setdefault(event.result, set())
            new = [each for each in targets if each.sink not in reached | known.get(event.result, set())]
            reached.update(each.sink for each in new)
            found.events.append(
                Rerouted(
                    event.id,
                    event.source,
                    event.run_id,
                    event.outcome,
                    event.disposition,
                    event.result[1],
                    tuple(each.sink for each in targets),
                    tuple(each.sink for each in new),
                )
            )
            found.deliveries.extend(
                AddedDelivery(event.id, event.source, event.run_id, each.sink, each.route, after=each.after)
                for each in new
            )
        return found


def apply(ledger: Ledger, page: ReroutePage) -> int:
    """Create the deliveries of a page, STEP in each transaction. Returns how many. Raises LedgerUnavailable."""
    created: set[str] = set()
    for start in range(0, len(page.deliveries), STEP):
        step = page.deliveries[start : start + STEP]
        # By any try: one may be committed though its COMMIT had no reply.
        ledger.write(lambda connection: created.update(reroutes.add(connection, step, ledger.now()).made))  # noqa: B023
    return len(created)


@dataclass(frozen=True, slots=True)
class ComparedEvent:
    """An old event, and the sinks that it reaches by two sets of rules."""

    event: OldEvent
    before: tuple[str, ...]
    after: tuple[str, ...]


def compare(ledger: Ledger, before: Router, after: Router, filters: Filter) -> Iterator[ComparedEvent]:
    """Yield for each old event which sinks it reaches by either rules, the newest first. Raises LedgerUnavailable."""
    for page in reroutes.read_back(ledger, filters):
        for event in page:
            view = view_of(event)
            was, would = ((each.sink for each in router.match(view).targets) for router in (before, after))
            yield ComparedEvent(event, tuple(was), tuple(would))
