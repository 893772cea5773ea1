"""Polls of single runs: what Runhook does with what Skyvern answers."""

from __future__ import annotations

import logging
import random
from http import HTTPStatus
from typing import Final, NamedTuple

from receiver.config.models import ReconcileConfig
from receiver.domain import poll_schedule
from receiver.domain.callback_url import token_of
from receiver.domain.deduplication import CANCELED
from receiver.domain.event import Via
from receiver.domain.members import WORKFLOW
from receiver.domain.run import RESTARTABLE, Run, parse
from receiver.domain.submission import Submission
from receiver.ledger import Connection, Ledger, polls, runs, watches
from receiver.ledger.polls import Poll
from receiver.ledger.runs import RunStatus
from receiver.ledger.submissions import records
from receiver.reconcile.intake import Intake, ResultIntake
from receiver.reconcile.source import PolledSource
from receiver.skyvern.responses import Answer, Answered, Unreachable, listed_runs

# Maximum runs that one search for restarts of a run returns.
RESTARTED: Final = 20

log = logging.getLogger("runhook.reconcile")


class PolledRun(NamedTuple):
    """What the ledger knows of a run when it is polled. `status`: None without an event. `own`: its submission, unless
    the run is a retry of the submission's run. `first_seen_at`: when it was submitted, or first seen."""

    status: RunStatus | None
    own: Submission | None
    first_seen_at: float

    @classmethod
    def read(cls, connection: Connection, poll: Poll) -> PolledRun:
        """Return what is known of the run."""
        submission = records.of_run(connection, *poll.key)
        own = submission if submission and submission.run_id == poll.run_id else None
        seen = [each.first_seen_at for each in watches.active(connection, poll.source, [poll.run_id])]
        first_seen_at = own.created_at if own else min([poll.created_at, *seen])
        return cls(runs.run_statuses(connection, [poll.key]).get(poll.key), own, first_seen_at)

    @property
    def final(self) -> bool:
        """Whether the ledger has its end."""
        return self.status is not None and self.status.final

    def may_be_restarted(self) -> bool:
        """Whether Skyvern may have started it again, as another run with the same callback URL."""
        it = self.status
        ended = it is not None and it.final and it.run_type == WORKFLOW and it.status in RESTARTABLE
        return ended and it is not None and it.submission_id != ""

    def is_complete(self, poll: Poll) -> bool:
        """Whether its end has come by an event since it was seen, with all data: a workflow's has, and of a submitted
        run the request is known. A cancelled run may have output still."""
        it = self.status
        if it is None or not it.final or it.status == CANCELED:
            return False
        has_request = it.run_type == WORKFLOW or it.submission_id != ""
        return has_request and (poll.noted_at is not None or self.may_be_restarted())


class RunPolls:
    """Polls single runs, and records what Skyvern answers."""

    def __init__(self, ledger: Ledger, intake: ResultIntake, settings: ReconcileConfig) -> None:
        self._ledger = ledger
        self._intake = intake
        self._settings = settings

    def poll(self, source: PolledSource, poll: Poll) -> None:
        """Send one poll, and decide whether another follows. Raises LedgerUnavailable."""
        run = self._ledger.read(lambda connection: PolledRun.read(connection, poll))
        if run.may_be_restarted() and not source.watch:  # else a walk finds the restart
            self._search_restarted(source, poll, run)
        if run.is_complete(poll):
            self._stop(poll, "")
            return
        answer: Answer = source.reader.get_run(poll.run_id)
        shown = parse(answer.body) if isinstance(answer, Answered) and answer.ok else None
        if shown is not None and shown.run_id != poll.run_id:
            answer, shown = Unreachable(False, "Skyvern's answer is of no such run"), None
        taken = self._take(source, poll, run, answer, shown)
        if taken.again_at is not None:
            self._postpone(poll, taken.again_at, taken.reason, shown)
        else:
            self._decide(poll, run, answer, taken, shown)

    def _take(self, source: PolledSource, poll: Poll, run: PolledRun, answer: Answer, shown: Run | None) -> Intake:
        """Record what the answer shows of the run, if it is to be an event."""
        if shown is None or not isinstance(answer, Answered):
            return Intake(False)
        if not shown.final and poll.noted_at is not None:
            self._ledger.write(lambda connection: polls.clear_note(connection, poll.key))
        via: Via = "import" if poll.found_by == polls.IMPORT and not run.final and run.own is None else "poll"
        taken = self._intake.take(
            source,
            answer.body,
            shown,
            via,
            run.own.id if run.own else token_of(shown.data),
            submitted_at=run.own.created_at if run.own else None,
            first_seen_at=run.first_seen_at,
            noted_at=poll.noted_at,
        )
        if taken.taken:
            log.info("reconcile.found source=%s run=%s via=%s", source.name, poll.run_id, via)
        return taken

    def _decide(self, poll: Poll, run: PolledRun, answer: Answer, taken: Intake, shown: Run | None) -> None:
        """Stop the polling, or plan the next poll."""
        now = self._ledger.now()
        a_day_ago = now - poll_schedule.LOST_AFTER
        if isinstance(answer, Answered):
            reason = taken.reason or (f"the run is {shown.status}" if shown else f"Skyvern answered {answer.status}")
            status, retry_after = answer.status, answer.retry_after
        else:
            reason, status, retry_after = answer.reason, HTTPStatus.GATEWAY_TIMEOUT, None
        in_trouble = status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR
        ended_at = self._ledger.read(lambda connection: runs.ended_at(connection, *poll.key))
        if ended_at is not None and not (in_trouble and ended_at > a_day_ago):
            self._stop(poll, "")  # the ledger has the end: this poll was for what its events lack
        elif status == HTTPStatus.NOT_FOUND and self._is_gone(poll, run, reason, a_day_ago):
            self._stop(poll, reason)
        else:
            longest = self._settings.longest
            at = poll_schedule.next_poll(poll.polls, now, random.random(), longest, retry_after=retry_after)
            is_refused = status == HTTPStatus.TOO_MANY_REQUESTS or (in_trouble and retry_after is not None)
            # A caller that waits may have hastened this poll: then its next one is planned.
            due_at = poll.planned_at if poll.planned_at > now else at
            self._postpone(poll, due_at, reason, shown, at if is_refused else None)

    def _is_gone(self, poll: Poll, run: PolledRun, reason: str, a_day_ago: float) -> bool:
        """Whether a run that Skyvern does not know is no longer polled."""
        if poll.noted_at is None and poll.found_by == "" and run.status is None and run.own is None:
            return True  # it is known only from an unsigned request
        # Not at the first 404: a run may take days, and a proxy before Skyvern may say that for a moment.
        since = run.first_seen_at if poll.noted_at is None else poll.noted_at
        return poll.reason == reason and since < a_day_ago

    def _search_restarted(self, source: PolledSource, poll: Poll, run: PolledRun) -> None:
        """Poll runs without an event that have the callback URL of this one: it was started again as them. If the
        search fails, it finds nothing."""
        answer = source.reader.list_runs(1, RESTARTED, search_key=run.status.submission_id if run.status else "")
        rows = listed_runs(answer) if isinstance(answer, Answered) else None
        others = {row.run_id for row in rows or () if row.run_id != poll.run_id}
        keys = [(poll.source, run_id) for run_id in others]
        known = self._ledger.read(lambda connection: runs.run_statuses(connection, keys))
        now = self._ledger.now()
        due_times = {run_id: now for run_id in others if (poll.source, run_id) not in known}
        if due_times:
            restarts = ",".join(sorted(due_times))
            log.info("reconcile.restarted source=%s run=%s as=%s", poll.source, poll.run_id, restarts)
            self._ledger.write(lambda connection: polls.ask(connection, poll.source, due_times, now))

    def _postpone(
        self, poll: Poll, at: float, reason: str, shown: Run | None, refused_until: float | None = None
    ) -> None:
        log.debug("reconcile.again source=%s run=%s reason=%s", poll.source, poll.run_id, reason)
        now, status = self._ledger.now(), shown.status if shown else ""
        self._ledger.write(
            lambda connection: polls.postpone(
                connection, poll, at, now, reason, status=status, refused_until=refused_until
            )
        )

    def _stop(self, poll: Poll, reason: str) -> None:
        if reason:
            log.info("reconcile.stopped source=%s run=%s reason=%s", poll.source, poll.run_id, reason)
        self._ledger.write(lambda connection: polls.stop(connection, [poll.key], reason))
