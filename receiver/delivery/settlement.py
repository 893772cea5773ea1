"""What became of sends, written down in one transaction: attempts, states, the breaker, and a line in the log."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Sequence

from handlers import Receipt
from receiver.config.models import RetryPolicy
from receiver.delivery import outcome
from receiver.delivery.sender import SendTask
from receiver.domain import breaker
from receiver.domain.delivery import target
from receiver.ledger import Connection
from receiver.ledger.deliveries import attempts, claims, lanes
from receiver.ledger.deliveries.attempts import Settled
from receiver.ledger.deliveries.claims import Claimed
from receiver.telemetry.workers import AttemptCounter

log = logging.getLogger("runhook.deliver")

Results = list[tuple[SendTask, list[Settled]]]


class Settling:
    """For one sink in one worker process, called `owner`."""

    def __init__(self, sink: str, retry: RetryPolicy, owner: str, tally: AttemptCounter) -> None:
        self._sink = sink
        self._retry = retry
        self._owner = owner
        self._tally = tally
        self._watched: set[str] = set()  # lanes that have met trouble lately

    def write_down(self, connection: Connection, units: Sequence[SendTask], now: float) -> tuple[set[str], Results]:
        """Write down the ends of `units`, and what began in their places. Returns the sinks that this released."""
        gates = self._pass_gates(connection, units, now)
        results: Results = []
        by_token: dict[str, list[Settled]] = {}
        for unit in units:
            settled = [
                outcome.settled(
                    each, answer, self._retry, gates.get(each.lane), unit.started_at, now, chance=random.random()
                )
                for each, answer in zip(unit.claimed, unit.answers, strict=True)
            ]
            by_token.setdefault(unit.token, []).extend(settled)
            results.append((unit, settled))
        released = attempts.settle(connection, by_token, self._owner, now)
        ended = set(units)
        begun = {
            unit.next_task.claimed[0].id: unit.next_task.token
            for unit in units
            if unit.next_task is not None and unit.next_task not in ended
        }
        claims.take_places(connection, begun, now)
        return set(released), results

    def tell(self, results: Results) -> None:
        """Count and log them, once they are written down."""
        counts: Counter[str] = Counter()
        for unit, settled in results:
            for each, answer, one in zip(unit.claimed, unit.answers, settled, strict=True):
                counts[one.outcome] += 1
                self._tally.add(one.outcome, unit.seconds)
                if one.outcome != "accepted":
                    _tell(each, answer, one)
        log.info("deliver.settled sink=%s %s", self._sink, " ".join(f"{k}={v}" for k, v in counts.items()))

    def _pass_gates(
        self, connection: Connection, units: Sequence[SendTask], now: float
    ) -> dict[str, outcome.BreakerChange]:
        """Each lane that met trouble, or was probed, with its breaker before and after these answers."""
        answers: dict[str, list[breaker.Observation]] = {}
        touched: set[str] = set()
        for unit in units:
            for each, answer in zip(unit.claimed, unit.answers, strict=True):
                seen = outcome.availability(answer)
                if seen is not None:
                    answers.setdefault(each.lane, []).append(seen)
                if each.probe or (seen is not None and not seen.available) or each.lane in self._watched:
                    touched.add(each.lane)
        if not touched:
            return {}
        rows = {lane.lane: lane for lane in lanes.of_sink(connection, self._sink)}
        gates = {}
        for name in sorted(touched):
            before = rows.get(name) or breaker.Lane(name, self._sink)
            after = breaker.after(before, answers.get(name, []), now)
            if after != before:
                lanes.put(connection, after, now)
                if after.breaker != before.breaker:
                    log.warning("breaker.%s lane=%s reason=%s", after.breaker, name, after.reason)
            (self._watched.add if after.failures else self._watched.discard)(name)
            gates[name] = outcome.BreakerChange(before, after)
        return gates


def _tell(claimed: Claimed, answer: Receipt | Exception, settled: Settled) -> None:
    bug = answer if settled.outcome == "error" and isinstance(answer, Exception) else None
    log.log(
        logging.ERROR if bug else logging.WARNING,
        "delivery.%s id=%s sink=%s event=%s attempt=%d outcome=%s reason=%s",
        target(settled.move),
        claimed.id,
        claimed.sink,
        claimed.event_id,
        claimed.number,
        settled.outcome,
        settled.reason,
        exc_info=bug,
    )
