"""Takes in what Skyvern's API says of a run: decides whether it is the result yet, and hands it to dispatch.

A poll lacks some of the webhook's members, which one more call of Skyvern's API has (measured on 1.0.56).
An end is taken for the result only when it is `webhook_grace` old, for its webhook has the same facts and more files.
A state that needs a person becomes an interim event, once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from receiver.config.models import ReconcileConfig
from receiver.dispatch.recorder import EventRecorder
from receiver.domain.attention import needs_report
from receiver.domain.event import Event, Via, event_id
from receiver.domain.run import Run, parse
from receiver.domain.webhook_grace import ended_for
from receiver.ledger import Ledger, polls, runs
from receiver.reconcile.source import PolledSource
from receiver.skyvern.responses import Answered

# Seconds for which an end waits for the details of its run; then it goes without.
DETAILS_PATIENCE: Final = 600.0
# Seconds between two tries to get them.
DETAILS_AGAIN: Final = 30.0

Details = Mapping[str, Any]
# Seconds to wait for a call in the budget: less than a poll's lease.
BUDGET_WAIT: Final = 20.0
# Skyvern has no such call, no such run, or not for this key: older servers, runs of types that are not known yet.
_NONE = frozenset(
    {HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.UNPROCESSABLE_ENTITY}
)

log = logging.getLogger("runhook.reconcile")


@dataclass(frozen=True, slots=True)
class Intake:
    """What became of a body. `taken`: it is an event now. `again_at`: when to ask again for an end that is too young,
    in seconds since the epoch. `reason`: why it was not taken."""

    taken: bool
    again_at: float | None = None
    reason: str = ""


class ResultIntake:
    """Takes in bodies for all sources. Threads may share it: they take turns at the recorder."""

    def __init__(self, ledger: Ledger, recorder: EventRecorder, settings: ReconcileConfig) -> None:
        self._ledger = ledger
        self._recorder = recorder
        self._settings = settings
        self._recording = threading.Lock()  # the router is not made for two threads at once

    def take(
        self,
        source: PolledSource,
        body: bytes,
        run: Run,
        via: Via,
        submission_id: str = "",
        *,
        submitted_at: float | None = None,
        first_seen_at: float | None = None,
        noted_at: float | None = None,
    ) -> Intake:
        """Take in what the API said of a run. Raises LedgerUnavailable.

        `submitted_at`, `first_seen_at`, `noted_at`: when the run was submitted, first heard of, and first seen final.
        """
        now = self._ledger.now()
        key = source.name, run.run_id
        known = self._ledger.read(lambda connection: runs.run_statuses(connection, [key])).get(key)
        if not run.final:
            since = first_seen_at if submitted_at is None else submitted_at
            return self._interim(source.name, body, run, via, since, known.status if known else None, submission_id)
        if known is None or not known.final:
            ended = ended_for(run, now, noted_at=noted_at, submitted_at=submitted_at)
            if (left := self._settings.webhook_grace - ended) > 0:
                first = self._ledger.write(lambda connection: polls.note_end(connection, key, now))
                left = self._settings.webhook_grace - max(ended, now - first)
            if left > 0:
                return Intake(False, now + left, f"the run is {run.status}; its webhook may still come")
        details: Details = {}
        try:
            if known is None or not known.final:  # else the event that brought its end has them
                details = details_of(source, run)
        except DetailsUnavailable as error:
            noted_at = self._ledger.write(lambda connection: polls.note_end(connection, key, now))
            if now - noted_at < DETAILS_PATIENCE:
                return Intake(False, now + DETAILS_AGAIN, str(error))
        self._dispatch(source.name, body, run, via, submission_id, details)
        return Intake(True)

    def _interim(
        self,
        source: str,
        body: bytes,
        run: Run,
        via: Via,
        since: float | None,
        last_status: str | None,
        submission_id: str,
    ) -> Intake:
        seconds = self._ledger.now() - since if since is not None else 0.0
        if (
            run.run_id
            and not run.retry_pending
            and needs_report(run.status, seconds, last_status, self._settings.stuck_after)
        ):
            log.info("reconcile.attention source=%s run=%s status=%s", source, run.run_id, run.status)
            self._dispatch(source, body, run, via, submission_id)
        return Intake(False, None, f"the run is {run.status or 'unreadable'}")

    def _dispatch(
        self,
        source: str,
        body: bytes,
        run: Run,
        via: Via,
        submission_id: str = "",
        details: Details | None = None,
    ) -> None:
        """Make what the API said an event, now. `run`: parsed from `body`. Raises LedgerUnavailable."""
        event = Event(event_id(source, body), source, body, time.time(), via, submission_id)
        with self._recording:
            self._recorder.record(self._recorder.parse([event], {event.id: run}, {event.id: details or {}}))


class DetailsUnavailable(Exception):
    """The details can't be had now; they may be later."""


def details_of(source: PolledSource, run: Run) -> Details:
    """Return the details of a polled `run`, {} where Skyvern has none. Raises DetailsUnavailable."""
    until = time.monotonic() + BUDGET_WAIT
    # While it waits it holds a poll's place, so no new polls use up the budget.
    if not source.wait_for_budget(lambda: time.monotonic() > until):
        raise DetailsUnavailable("no call is left in the budget for its details")
    request = run.data.get("run_request")
    agent = request.get("workflow_id") if isinstance(request, Mapping) else None
    answer = source.reader.get_details(run.run_type, run.run_id, agent if isinstance(agent, str) else "")
    if isinstance(answer, Answered):
        # As carefully as a body: what it holds goes to the same columns and sinks.
        if answer.ok and (found := parse(answer.body).data):
            return found
        if answer.status in _NONE:
            return {}
        raise DetailsUnavailable(f"its details: Skyvern answered {answer.status}")
    raise DetailsUnavailable(f"its details: {answer.reason}")
