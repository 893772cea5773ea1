"""A submit: recorded, sent on with our callback URL, its answer recorded. Each one runs in a task of its own.

The task outlives the caller's connection: a caller that disconnects has still submitted, and finds the answer with the
same Idempotency-Key, or with the same request for as long as its answer is not known (receiver.submit.idempotency).
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from typing import Any

from receiver.domain.poll_schedule import first_poll
from receiver.domain.redaction import Redactor
from receiver.domain.submission import Submission, SubmissionMove
from receiver.ledger import LedgerDataError, LedgerUnavailable
from receiver.ledger.database.async_ledger import AsyncLedger
from receiver.ledger.submissions import lifecycle
from receiver.ledger.submissions.lifecycle import SubmitOutcome, WhenLate
from receiver.runtime.background import awaited
from receiver.skyvern.responses import Answer, Answered, Created, Lost, Unreachable, submitted
from receiver.submit.endpoints import SubmitCall
from receiver.submit.idempotency import Repeats, keeps_key
from receiver.submit.limits import SubmitLimits
from receiver.submit.lost_answer import DISCONNECTED, IsDisconnected, LostAnswers, redacted
from receiver.submit.prepare import Prepared, prepare
from receiver.submit.replies import for_submission, submit_reply
from receiver.submit.source import Caller, Source
from receiver.web.responses import Reply
from receiver.web.work import off_loop

_WRITE_RETRIES = (0.2, 1.0, 3.0, 10.0, 30.0)

log = logging.getLogger("runhook.submit")


async def _never() -> bool:
    return False


class Submitter:
    """Submits of all sources in this process. `poll_after`: seconds until a run without limits of its own is polled."""

    def __init__(
        self, ledger: AsyncLedger, redactor: Redactor, poll_after: float, when_late: WhenLate, limits: SubmitLimits
    ) -> None:
        self._ledger = ledger
        self._when_late = when_late
        self._redactor = redactor
        self._lost = LostAnswers(ledger, redactor, limits)
        self._poll_after = poll_after
        self._recording = limits.recording
        self._tasks: dict[str, asyncio.Future[Reply]] = {}
        self._recordings: set[asyncio.Future[Submission | None]] = set()
        self._repeats = Repeats(ledger, self._lost, self._tasks)

    async def submit(self, caller: Caller, call: SubmitCall, is_disconnected: IsDisconnected) -> Reply:
        """Return the reply to a submit. Raises Refusal, and LedgerUnavailable when nothing was sent.

        Where the caller has disconnected, so that it does not know of the run, the reply is kept for the same request.
        """
        prepared = await off_loop(len(call.body), prepare, caller, call, self._redactor)
        new = prepared.new
        if new.idempotency_key is not None:
            is_disconnected = _never  # by its key it finds the answer anyway
        while True:
            submission, is_new = await self._ledger.write(
                lambda connection: lifecycle.begin(connection, new, self._ledger.now()),
                undo=lambda connection: lifecycle.withdraw(connection, new.id, self._ledger.now()),
            )
            if is_new:
                break
            reply = await self._repeats.reply(caller.source, new.request_hash, submission, is_disconnected)
            if reply is not None:
                return reply
        # A shielded task: the caller may disconnect, the request is sent and its answer recorded all the same.
        task = awaited(self._send(caller.source, prepared, is_disconnected), "submit.send")
        self._tasks[submission.id] = task
        task.add_done_callback(lambda _: self._tasks.pop(submission.id, None))
        return await asyncio.shield(task)

    async def _send(self, source: Source, prepared: Prepared, is_disconnected: IsDisconnected) -> Reply:
        """Send the request, record how it ended, and return the reply."""
        new = prepared.new
        answer = await source.api.send(prepared.call)
        size = len(answer.body) if isinstance(answer, Answered) else 0
        reply, outcome = await off_loop(size, self._read_answer, source, prepared, answer, self._ledger.now())
        created = outcome.move is SubmissionMove.ACCEPT
        if unread := created and await is_disconnected():
            outcome = replace(outcome, status=DISCONNECTED, body=None)
        submission = await self._record_outcome_in_time(new.id, outcome)
        if created and not unread:
            await self._lost.withdraw_if_unread(new.id, is_disconnected)
        log.info(
            "submit.%s submission=%s source=%s call=%s run=%s status=%d",
            outcome.move.value.replace(" ", "_"), new.id, new.source, new.call, outcome.run_id, reply.status,
        )  # fmt: skip
        if outcome.move is SubmissionMove.MISS and submission is not None:
            return await self._lost.resolve(source, submission, is_disconnected) or reply
        return reply

    def _read_answer(
        self, source: Source, prepared: Prepared, answer: Answer, now: float
    ) -> tuple[Reply, SubmitOutcome]:
        """Return the reply that Skyvern's answer makes, and what is recorded of it."""
        reply = for_submission(submit_reply(answer, source.secrets, prepared.replacing), prepared.new.id)
        result = submitted(answer)
        if isinstance(result, Created):
            due_at = first_poll(prepared.fields, prepared.call.headers, now, self._poll_after)
            outcome = SubmitOutcome(SubmissionMove.ACCEPT, result.run_id, result.run_type, due_at=due_at)
            return reply, replace(outcome, status=reply.status, body=redacted(self._redactor, reply.body))
        if isinstance(result, Lost):
            outcome = SubmitOutcome(SubmissionMove.MISS, reason=result.reason, due_at=now)
        else:
            reason = answer.reason if isinstance(answer, Unreachable) else f"status {result.status}"
            outcome = SubmitOutcome(SubmissionMove.REJECT, reason=reason, release=not keeps_key(answer))
        return reply, replace(outcome, status=reply.status, body=reply.body)

    async def _record_outcome_in_time(self, submission_id: str, outcome: SubmitOutcome) -> Submission | None:
        """Record how a submit ended. Returns None if that takes longer than the caller may wait; it then continues."""
        recording = awaited(self._record_outcome(submission_id, outcome), "submit.record")
        self._recordings.add(recording)
        recording.add_done_callback(self._recordings.discard)
        await asyncio.wait({recording}, timeout=self._recording)
        return recording.result() if recording.done() else None

    async def _record_outcome(self, submission_id: str, outcome: SubmitOutcome) -> Submission | None:
        """Record how a submit ended. Returns None when the ledger does not take it: the caller gets its reply, and the
        clock finds the submission pending."""
        for pause in (*_WRITE_RETRIES, None):
            try:
                submission, _ = await self._ledger.write_patiently(
                    lambda connection: lifecycle.record_outcome(
                        connection, submission_id, outcome, self._ledger.now(), self._when_late
                    )
                )
                return submission
            except (LedgerUnavailable, LedgerDataError) as trouble:
                if pause is None or isinstance(trouble, LedgerDataError):
                    log.error("submit.unwritten submission=%s ledger=%s", submission_id, trouble)
                    break
                await asyncio.sleep(pause)
        return None

    async def close(self, seconds: float) -> None:
        """Wait up to `seconds` for submits to be answered, and recorded. The clock resolves those that are not."""
        until = time.monotonic() + seconds
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()), timeout=seconds)
        if self._recordings:
            await asyncio.wait(list(self._recordings), timeout=max(0.0, until - time.monotonic()))
        left: list[asyncio.Future[Any]] = [*self._tasks.values(), *self._recordings]
        for task in left:
            task.cancel()
