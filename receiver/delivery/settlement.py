"""The settlement of deliveries: attempts, states and the breaker in one transaction, then counters and the log."""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence

from handlers import Receipt
from receiver.config.destinations import RetryPolicy
from receiver.delivery import outcome
from receiver.delivery.send_task import SendTask
from receiver.domain import breaker
from receiver.domain.delivery import state_after
from receiver.ledger import Connection
from receiver.ledger.deliveries import attempts, lanes
from receiver.ledger.deliveries.attempts import AttemptResult
from receiver.ledger.deliveries.claimed import Claimed
from receiver.telemetry.logs import Fields
from receiver.telemetry.workers import AttemptCounter

log = logging.getLogger("runhook.deliver")

Results = list[tuple[SendTask, list[AttemptResult]]]


class Settlement:
    """Settles the deliveries of one sink in the worker process `owner`."""

    def __init__(self, sink: str, retry: RetryPolicy, owner: str, counter: AttemptCounter) -> None:
        self._sink = sink
        self._retry = retry
        self._owner = owner
        self._counter = counter
        self._watched: set[str] = set()  # lanes that have met trouble lately

    def record(
        self, connection: Connection, tasks: Sequence[SendTask], now: float, started: Mapping[str, int] = {}
    ) -> tuple[list[str], Results]:
        """Record what became of the ended `tasks`, and commit. `started`: what has taken their slots.

        Returns the events whose held deliveries are to be released, and the results.
        """
        changes = self._breaker_changes(connection, tasks, now)
        results: Results = []
        by_claim: dict[int, list[AttemptResult]] = {}
        for task in tasks:
            started_at = now - (time.monotonic() - task.started)  # by the ledger's clock, as all that it tells
            found = [
                outcome.outcome_of(
                    each,
                    answer,
                    self._retry,
                    changes.get(each.lane),
                    started_at,
                    now,
                    chance=random.random(),
                    ended_at=min(started_at + task.seconds, now),
                )
                for each, answer in zip(task.claimed, task.answers, strict=True)
            ]
            by_claim.setdefault(task.claim_number, []).extend(found)
            results.append((task, found))
        return attempts.settle(connection, self._owner, by_claim, now, started=started, commit=True), results

    def log(self, results: Results) -> None:
        """Count and log results, once they are committed."""
        counts: Counter[str] = Counter()
        for task, found in results:
            for each, answer, result in zip(task.claimed, task.answers, found, strict=True):
                counts[result.outcome] += 1
                self._counter.add(result.outcome, task.seconds)
                if result.outcome != "accepted":
                    _log(each, answer, result)
        log.info("deliver.settled sink=%s %s", self._sink, Fields(counts))

    def _breaker_changes(
        self, connection: Connection, tasks: Sequence[SendTask], now: float
    ) -> dict[str, outcome.BreakerChange]:
        """Move the breaker of each lane that met trouble, or was probed. Returns their changes by lane."""
        answers: dict[str, list[breaker.Observation]] = {}
        touched: set[str] = set()
        for task in tasks:
            for each, answer in zip(task.claimed, task.answers, strict=True):
                seen = outcome.availability(answer)
                if seen is not None:
                    answers.setdefault(each.lane, []).append(seen)
                if each.probe or (seen is not None and not seen.available) or each.lane in self._watched:
                    touched.add(each.lane)
        if not touched:
            return {}
        rows = lanes.named(connection, touched)
        changes = {}
        for name in sorted(touched):
            before = rows.get(name) or breaker.Lane(name, self._sink)
            after = breaker.after(before, answers.get(name, []), now)
            if after != before:
                lanes.put(connection, after, now)
                if after.breaker != before.breaker:
                    log.warning("breaker.%s lane=%s reason=%s", after.breaker, name, after.reason)
            (self._watched.add if after.failures else self._watched.discard)(name)
            changes[name] = outcome.BreakerChange(before, after)
        return changes


def _log(claimed: Claimed, answer: Receipt | Exception, result: AttemptResult) -> None:
    bug = answer if result.outcome == "error" and isinstance(answer, Exception) else None
    log.log(
        logging.ERROR if bug else logging.WARNING,
        "delivery.%s id=%s sink=%s run=%s event=%s attempt=%d outcome=%s reason=%s",
        state_after(result.move),
        claimed.id,
        claimed.sink,
        claimed.run_id,
        claimed.event_id,
        claimed.attempt_number,
        result.outcome,
        result.reason,
        exc_info=bug,
    )
