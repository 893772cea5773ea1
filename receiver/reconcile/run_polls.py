"""Polls of runs that no submission is polled for: ends that a walk or a GET has shown, results that were too large, and
webhooks that lack what an answer has.
"""

from __future__ import annotations

import logging
import random
from http import HTTPStatus
from typing import Final

from receiver.config.models import ReconcileConfig
from receiver.domain import poll_schedule
from receiver.domain.callback_url import token_of
from receiver.domain.deduplication import CANCELED
from receiver.domain.event import Via
from receiver.domain.members import WORKFLOW
from receiver.domain.run import RESTARTABLE, parse
from receiver.ledger import Ledger, run_polls, runs, watches
from receiver.ledger.run_polls import DueRun
from receiver.reconcile.intake import ResultIntake
from receiver.reconcile.source import PolledSource
from receiver.skyvern.responses import Answered, listed_runs

# Runs that one submission may have become, of which one search tells.
RESTARTED: Final = 20

log = logging.getLogger("runhook.reconcile")


class RunPolls:
    """Asks Skyvern for single runs, and has what it says taken in."""

    def __init__(self, ledger: Ledger, intake: ResultIntake, settings: ReconcileConfig) -> None:
        self._ledger = ledger
        self._intake = intake
        self._settings = settings

    def poll(self, source: PolledSource, due: DueRun) -> None:
        """Make one poll, and decide whether there is another. Raises LedgerUnavailable."""
        if _may_be_restarted(due) and not source.watch:  # else a walk finds what it became
            self._search_restarted(source, due)
        if _is_complete(due):
            self._stop(due, "")
            return
        answer = source.reader.get_run(due.run_id)
        now = self._ledger.now()
        if not isinstance(answer, Answered):
            self._again(due, now, answer.reason)
        elif answer.ok:
            self._answered(source, due, answer, now)
        elif answer.status == HTTPStatus.NOT_FOUND and (_is_unverified(due) or _is_old(due, now)):
            self._stop(due, "Skyvern knows no such run")
        elif due.final and 400 <= answer.status < 500 and answer.status != HTTPStatus.TOO_MANY_REQUESTS:
            self._stop(due, f"Skyvern answered {answer.status}")  # its end is known: this was for completeness
        else:
            self._again(due, now, f"Skyvern answered {answer.status}", answer.retry_after)

    def _answered(self, source: PolledSource, due: DueRun, answer: Answered, now: float) -> None:
        run = parse(answer.body)
        if run.run_id != due.run_id:
            self._again(due, now, "Skyvern's answer is of no such run")
            return
        first_seen_at = due.first_seen_at
        if not run.final:
            active = self._ledger.read(lambda connection: watches.active(connection, source.name, [due.run_id]))
            first_seen_at = min([first_seen_at, *(each.first_seen_at for each in active)])
            if due.noted_at is not None:
                self._ledger.write(lambda connection: run_polls.clear_note(connection, source.name, due.run_id))
        via: Via = "import" if due.found_by == run_polls.IMPORT and not due.final else "poll"
        ages = {"first_seen_at": first_seen_at, "noted_at": due.noted_at}
        taken = self._intake.take(source, answer.body, run, via, token_of(run.data), **ages)
        if taken.taken:
            log.info("reconcile.found source=%s run=%s via=%s", source.name, due.run_id, via)
            self._stop(due, "")
        elif (at := taken.again_at) is not None:
            self._ledger.write(lambda connection: run_polls.postpone(connection, due.source, due.run_id, at))
        else:
            self._again(due, now, taken.reason, answer.retry_after)

    def _search_restarted(self, source: PolledSource, due: DueRun) -> None:
        """Ask for the runs that have the callback URL of this one, and of which no event has come: those that it was
        started again as. A search that fails finds nothing."""
        answer = source.reader.list_runs(1, RESTARTED, search_key=due.submission_id)
        rows = listed_runs(answer) if isinstance(answer, Answered) else None
        others = {row.run_id for row in rows or () if row.run_id != due.run_id}
        keys = [(due.source, run_id) for run_id in others]
        known = self._ledger.read(lambda connection: runs.run_statuses(connection, keys))
        now = self._ledger.now()
        due_times = {run_id: now for run_id in others if (due.source, run_id) not in known}
        if due_times:
            log.info("reconcile.restarted source=%s run=%s as=%s", due.source, due.run_id, ",".join(sorted(due_times)))
            self._ledger.write(lambda connection: run_polls.ask(connection, due.source, due_times, now))

    def _again(self, due: DueRun, now: float, reason: str, retry_after: float | None = None) -> None:
        if due.final and _is_old(due, now):
            self._stop(due, reason)
            return
        at = poll_schedule.next_poll(due.polls, now, random.random(), self._settings.longest, retry_after=retry_after)
        log.debug("reconcile.again source=%s run=%s reason=%s", due.source, due.run_id, reason)
        self._ledger.write(lambda connection: run_polls.postpone(connection, due.source, due.run_id, at))

    def _stop(self, due: DueRun, reason: str) -> None:
        if reason:
            log.info("reconcile.stopped source=%s run=%s reason=%s", due.source, due.run_id, reason)
        self._ledger.write(lambda connection: run_polls.stop(connection, due.source, due.run_id))


def _may_be_restarted(due: DueRun) -> bool:
    return due.final and due.run_type == WORKFLOW and due.submission_id != "" and due.status in RESTARTABLE


def _is_complete(due: DueRun) -> bool:
    """Whether the end of the run has come by an event since it was seen, and has all that there is: a workflow's has,
    and of a run that was submitted here the request is known. A cancelled run may have output still."""
    complete = due.run_type == WORKFLOW or due.submission_id != ""
    return due.final and (due.noted_at is not None or _may_be_restarted(due)) and complete and due.status != CANCELED


def _is_unverified(due: DueRun) -> bool:
    """Whether the run is known only from an unsigned request."""
    return due.noted_at is None and due.found_by == "" and due.events == 0


def _is_old(due: DueRun, now: float) -> bool:
    """Whether it is a day since the end of the run was seen, or since it was heard of."""
    since = due.first_seen_at if due.noted_at is None else due.noted_at
    return since < now - poll_schedule.LOST_AFTER
