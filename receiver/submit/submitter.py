"""A submit: recorded, sent on with our callback URL, its answer recorded. Each one runs in a task of its own.

The task outlives the caller's connection: a caller that disconnects has still submitted, and finds the answer with the
same Idempotency-Key, or with the same request for as long as its answer is not known.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from typing import Any

from receiver.domain.poll_schedule import first_poll
from receiver.domain.redaction import Redactor
from receiver.domain.submission import SubmissionMove, SubmissionState
from receiver.ledger import LedgerDataError, LedgerUnavailable
from receiver.ledger.async_ledger import AsyncLedger
from receiver.ledger.submissions import lifecycle
from receiver.ledger.submissions.lifecycle import SubmitOutcome, WhenLate
from receiver.ledger.submissions.records import Submission
from receiver.runtime.background import awaited
from receiver.skyvern.responses import Answer, Answered, Created, Lost, Unreachable, submitted
from receiver.submit.endpoints import SubmitCall
from receiver.submit.limits import SubmitLimits
from receiver.submit.lost_answer import DISCONNECTED, IsDisconnected, LostAnswers, json_reply, redacted
from receiver.submit.prepare import Prepared, prepare
from receiver.submit.replies import (
    REPLAYED_HEADER,
    RETRY_AFTER,
    for_submission,
    invalid,
    keeps_idempotency_key,
    submit_reply,
)
from receiver.submit.source import Caller, Source
from receiver.web.responses import Reply, error
from receiver.web.work import off_loop

# Seconds that a request waits for the answer to an earlier one that it repeats.
REPEAT_WAIT = 60.0
# Seconds between two reads of a submission whose answer another process waits for.
POLL_INTERVAL = 0.3
# Seconds that such an answer may take before Skyvern is asked whether there is a run.
RESOLVE_INTERVAL = 3.0
_WRITE_RETRIES = (0.2, 1.0, 3.0, 10.0, 30.0)

log = logging.getLogger("runhook.submit")


def _awaits_answer(submission: Submission, now: float) -> bool:
    """Return whether Skyvern's answer may still come. Its webhook may have come before."""
    young = now - submission.created_at < lifecycle.PENDING_LIMIT
    return submission.state is SubmissionState.PENDING or (
        submission.state is SubmissionState.ACCEPTED and submission.answered_at is None and young
    )


def _retry_after(task: asyncio.Future[Reply] | None) -> str:
    """Return the Retry-After of a task's reply; of one that another process had, or that had none, the usual one."""
    known = task is not None and task.done() and not task.cancelled() and task.exception() is None
    return task.result().headers.get("retry-after", RETRY_AFTER) if task is not None and known else RETRY_AFTER


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
        self._lost = LostAnswers(ledger, redactor, poll_after, limits)
        self._poll_after = poll_after
        self._recording = limits.recording
        self._tasks: dict[str, asyncio.Future[Reply]] = {}
        self._recordings: set[asyncio.Future[Submission | None]] = set()

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
            reply = await self._repeat(caller.source, prepared, submission, is_disconnected)
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
            outcome = SubmitOutcome(SubmissionMove.REJECT, reason=reason, release=not keeps_idempotency_key(answer))
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

    # A request that repeats an earlier one.

    async def _repeat(
        self, source: Source, prepared: Prepared, submission: Submission, is_disconnected: IsDisconnected
    ) -> Reply | None:
        """Return the reply to a request that repeats an earlier one; None when the earlier one was taken back."""
        if submission.request_hash != prepared.new.request_hash:
            refusal = invalid(None, "Idempotency-Key: was used before for another request")
            return for_submission(refusal, submission.id)
        first = self._tasks.get(submission.id)
        submission = await self._wait_for_answer(source, submission)
        if submission.state is SubmissionState.REJECTED and submission.reason == lifecycle.NEVER_SENT:
            return None
        if submission.state is SubmissionState.PENDING:
            reply = error(409, "The first request with this content is still on its way", retry_after="5")
        else:
            reply = await self._earlier_reply(source, submission, is_disconnected)
        if submission.state is SubmissionState.REJECTED and reply.status in (429, 503):
            reply = reply.with_headers(retry_after=_retry_after(first))  # it created no run, so all get Retry-After
        return for_submission(reply, submission.id).with_headers(**{REPLAYED_HEADER: "true"})

    async def _wait_for_answer(self, source: Source, submission: Submission) -> Submission:
        """Return the submission once it is answered, or as it is when REPEAT_WAIT is over."""
        now = time.monotonic()
        deadline, resolve_at = now + REPEAT_WAIT, now + RESOLVE_INTERVAL
        while _awaits_answer(submission, self._ledger.now()) and time.monotonic() < deadline:
            task = self._tasks.get(submission.id)
            if task is not None:
                await asyncio.wait([task], timeout=deadline - time.monotonic())
            else:
                await asyncio.sleep(POLL_INTERVAL)  # another process waits for the answer, or did until it died
                if time.monotonic() > resolve_at:
                    if submission.run_id:
                        break  # its run is known; that answer will do
                    if await self._lost.find_run(source, submission) is not None:
                        return await self._lost.reload(submission) or submission
                    resolve_at = time.monotonic() + RESOLVE_INTERVAL
            current = await self._lost.reload(submission)
            if current is None or (task is not None and _awaits_answer(current, self._ledger.now())):
                break  # its answer could not be recorded
            submission = current
        return submission

    async def _earlier_reply(self, source: Source, submission: Submission, is_disconnected: IsDisconnected) -> Reply:
        """Return the reply that was recorded for the submission, or one that can be given now that more is known."""
        recorded = None
        if submission.answer_status is not None and submission.answer is not None:
            recorded = json_reply(submission.answer_status, submission.answer)
            if recorded.status < 300:
                return recorded
        resolved = None
        if submission.state in (SubmissionState.UNKNOWN, SubmissionState.ACCEPTED):
            resolved = await self._lost.resolve(source, submission, is_disconnected)
        return resolved or recorded or error(502, "what became of the call is not known yet")

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
        self._lost.close()
