"""The settlement of deliveries: attempts, states and the breaker in one transaction, then counters and the log."""

from __future__ import annotations

import logging
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from handlers import Receipt
from receiver.config.destinations import RetryPolicy
from receiver.delivery import outcome
from receiver.delivery.send_task import SendTask
from receiver.domain import breaker
from receiver.domain.delivery import state_after
from receiver.domain.redaction import Redactor
from receiver.ledger import Connection, Ledger
from receiver.ledger.deliveries import attempts, lanes
from receiver.ledger.deliveries.attempts import AttemptResult
from receiver.ledger.deliveries.claimed import Claimed
from receiver.telemetry.logs import Fields
from receiver.telemetry.workers import WorkerCounter

log = logging.getLogger("runhook.deliver")

Results = list[tuple[SendTask, list[AttemptResult]]]


class Settlement:
    """Settles the deliveries of one sink in the worker process `owner`."""

    def __init__(
        self, sink: str, retry: RetryPolicy, owner: str, counter: WorkerCounter, redact: Iterable[str] = ()
    ) -> None:
        self._sink = sink
        self._redactor = Redactor(redact)
        self._retry = retry
        self._owner = owner
        self._counter = counter

    def settle(
        self, ledger: Ledger, tasks: Sequence[SendTask], unstarted: Sequence[Claimed] = ()
    ) -> tuple[list[str], bool]:
        """Record what became of the ended `tasks`, and hand back what never started, in one transaction; count and log
        it. Returns the sinks of held deliveries that are due now, and whether the sink is paused. Raises
        LedgerUnavailable.
        """
        released: set[str] = set()  # by any try: an earlier one may be committed although its COMMIT had no reply

        def work(connection: Connection) -> tuple[bool, Results]:
            sinks, paused, results = self.record(connection, tasks, ledger.now(), unstarted)
            released.update(sinks)
            return paused, results

        paused, results = ledger.write(work)
        if results:
            self._log(results)
        return sorted(released), paused

    def record(
        self, connection: Connection, tasks: Sequence[SendTask], now: float, unstarted: Sequence[Claimed] = ()
    ) -> tuple[list[str], bool, Results]:
        """Record what `settle` does, in a transaction at a given time; return also what there is to log."""
        names = {self._sink, *(each.lane for task in tasks for each in task.claimed)} if tasks else ()
        seen = [
            (each, found)
            for task in tasks
            for each, answer in zip(task.claimed, task.answers, strict=True)
            if (found := outcome.availability(answer)) is not None
        ]
        failing = not all(found.available for _, found in seen)
        rows = lanes.by_name(connection, names, lock=failing) if names else {}
        if failing:  # skip what an earlier try, or another worker, has counted
            counted = attempts.ids_with_result(connection, [each for each, _ in seen])
            seen = [(each, found) for each, found in seen if each.id not in counted]
        parked = self._move_breakers(connection, rows, seen, now)
        results = [(task, self._results(task, parked, now)) for task in tasks]
        settled = [result for _, found in results for result in found]
        sinks = attempts.settle(connection, self._owner, settled, now, unstarted)
        return sinks, self._sink in rows and rows[self._sink].paused, results

    def _results(self, task: SendTask, parked: Mapping[str, float], now: float) -> list[AttemptResult]:
        started_at = now - (time.monotonic() - task.started)  # by the ledger's clock, as all that it records
        ended_at = min(started_at + task.seconds, now)
        return [
            outcome.outcome_of(
                *(each, answer, self._retry, parked.get(each.lane), started_at, now, random.random()),
                ended_at=ended_at,
                redactor=self._redactor,
            )
            for each, answer in zip(task.claimed, task.answers, strict=True)
        ]

    def _log(self, results: Results) -> None:
        counts: Counter[str] = Counter()
        for task, found in results:
            for each, answer, result in zip(task.claimed, task.answers, found, strict=True):
                counts[result.outcome] += 1
                self._counter.add_attempt(self._sink, result.outcome, task.seconds)
                if result.outcome != "accepted":
                    _log_trouble(each, answer, result)
        log.info("deliver.settled sink=%s %s", self._sink, Fields(counts))

    def _move_breakers(
        self,
        connection: Connection,
        rows: Mapping[str, breaker.Lane],
        seen: Iterable[tuple[Claimed, breaker.Observation]],
        now: float,
    ) -> dict[str, float]:
        """Move the breakers by what was `seen` of their lanes. `rows`: the lanes that have one, by name.

        Returns, for each lane that was shut before, the time of its next probe.
        """
        by_lane: defaultdict[str, list[breaker.Observation]] = defaultdict(list)
        for each, found in seen:
            by_lane[each.lane].append(found)
        parked = {}
        for name in sorted(by_lane):
            before = rows.get(name) or breaker.Lane(name, self._sink)
            after = breaker.after(before, by_lane[name], now)
            if after != before:
                lanes.put(connection, after, now)
                if after.breaker != before.breaker:
                    log.warning("breaker.%s lane=%s reason=%s", after.breaker, name, after.reason)
            if before.breaker != "closed":
                parked[name] = after.until
        return parked


def _log_trouble(claimed: Claimed, answer: Receipt | Exception, result: AttemptResult) -> None:
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
