"""Rerouting: what today's rules say of old events, and the deliveries that those lack.

Nothing is sent twice: a sink that has a delivery of a result, however it ended, gets none of it here. What is told of a
run that has gone on since (it was paused, or tried again) would be old news, and is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from receiver.config.models import Config
from receiver.dispatch import completing_sinks
from receiver.domain.run import parse
from receiver.domain.shape import completed
from receiver.ledger import Ledger, reroutes
from receiver.ledger.earlier_events import loads
from receiver.ledger.filters import Filter
from receiver.ledger.reroutes import AddedDelivery, OldEvent, ResultKey
from receiver.routing.router import Router, RunView, Target

# Deliveries that one transaction makes at the most.
STEP = 500


@dataclass(frozen=True, slots=True)
class Rerouted:
    """What today's rules say of an old event. `reaches`: all of its sinks; `added`: those that lack it."""

    id: str
    source: str
    run_id: str
    status: str
    disposition: str
    reaches: tuple[str, ...]
    added: tuple[str, ...]


@dataclass(slots=True)
class Reroute:
    """The plan for a selection of events, the newest first. `left`: events of runs that have gone on since.
    `failures`: by route, on how many its rule could not be evaluated."""

    events: list[Rerouted] = field(default_factory=list)
    deliveries: list[AddedDelivery] = field(default_factory=list)
    left: int = 0
    failures: Counter[str] = field(default_factory=Counter)


def plan(ledger: Ledger, config: Config, wanted: Filter, sink: str = "") -> Reroute:
    """Ask today's rules about old events. `sink`: only what it would get. Raises LedgerUnavailable."""
    found = Reroute()
    router = Router(config.routes, completing_sinks(config))
    reached: dict[ResultKey, set[str]] = {}
    for page in reroutes.read_back(ledger, wanted):
        known = ledger.read(lambda connection: reroutes.sinks_of(connection, page))  # noqa: B023 - it runs at once
        for event in page:
            if event.disposition == "interim" and not event.newest:
                found.left += 1
                continue
            targets = [each for each in _targets(router, event) if sink in ("", each.sink)]
            there = reached.setdefault(event.result, set()) | known.get(event.result, set())
            new = [each for each in targets if each.sink not in there]
            reached[event.result].update(each.sink for each in new)
            found.events.append(
                Rerouted(
                    event.id,
                    event.source,
                    event.run_id,
                    event.outcome,
                    event.disposition,
                    tuple(each.sink for each in targets),
                    tuple(each.sink for each in new),
                )
            )
            found.deliveries += (
                AddedDelivery(event.id, event.source, event.run_id, each.sink, each.route, each.after) for each in new
            )
    found.failures = router.failures
    return found


@dataclass(frozen=True, slots=True)
class ComparedEvent:
    """An old event, and the sinks that it reaches by two sets of rules."""

    event: OldEvent
    before: tuple[str, ...]
    after: tuple[str, ...]


def compare(ledger: Ledger, before: Router, after: Router, wanted: Filter) -> Iterator[ComparedEvent]:
    """Yield for each old event which sinks it reaches by either rules, the newest first. Raises LedgerUnavailable."""
    for page in reroutes.read_back(ledger, wanted):
        for event in page:
            view = _view(event)
            was, would = ((each.sink for each in router.match(view).targets) for router in (before, after))
            yield ComparedEvent(event, tuple(was), tuple(would))


def _targets(router: Router, event: OldEvent) -> list[Target]:
    return router.match(_view(event)).targets


def _view(event: OldEvent) -> RunView:
    run = parse(event.body)
    run = run.with_data(completed(run.data, loads(event.completion)))
    return RunView(run, event.source, event.via, event.disposition, event.labels, event.received_at, event.id)


def apply(ledger: Ledger, found: Reroute) -> Iterator[int]:
    """Make the deliveries of a plan, a step a transaction. Yields how many each has made. Raises LedgerUnavailable."""
    for start in range(0, len(found.deliveries), STEP):
        step = found.deliveries[start : start + STEP]
        yield ledger.write(
            lambda connection: reroutes.add(connection, step, ledger.now())  # noqa: B023
        )
