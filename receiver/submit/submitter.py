"""A submit: written down, sent on with our callback URL, its answer written down. Each one runs in a task of its own.

The task outlives the caller's connection: whoever hangs up has still submitted, and finds the answer under the same
Idempotency-Key, or with the same request while nobody knows yet what became of it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from receiver.domain.redaction import Redactor
from receiver.domain.run import parse as parse_run
from receiver.domain.submission import SubmissionMove, SubmissionState
from receiver.ledger import LedgerDataError, LedgerUnavailable
from receiver.ledger.api_keys import Key
from receiver.ledger.async_ledger import AsyncLedger
from receiver.ledger.submissions import lifecycle
from receiver.ledger.submissions.lifecycle import Submission, SubmitOutcome
from receiver.skyvern import Answer, Answered, Created, Lost, Unreachable, submitted
from receiver.submit.replies import (
    REPLAYED_HEADER,
    Reply,
    error,
    held_for_good,
    invalid,
    of_submit,
    relay,
)
from receiver.submit.request.endpoints import Endpoint, short_answer
from receiver.submit.request.prepare import Prepared, prepare
from receiver.submit.request.source import Source

JOIN_FOR = 60.0
"""Seconds that a request waits for the answer to an earlier one that it repeats."""
LOOK_EVERY = 0.3
OTHERS = 3.0
"""Seconds that an answer which another process waits for may take before it is asked whether there is a run."""
DUE_AFTER = 600.0
"""Seconds after which a run that was accepted is looked for."""
_WRITE_AGAIN = (0.2, 1.0, 3.0)
_HUNG_UP = 499  # as nginx writes it down: there was nobody to answer any more

log = logging.getLogger("runhook.submit")

Prove = Callable[[Submission], Awaitable[Answered | None]]
"""Looks in Skyvern's API for the run of a submission whose answer was lost: the GET of it, or None."""
Gone = Callable[[], Awaitable[bool]]
"""Whether the caller has hung up."""
Due = Callable[[str, Mapping[str, Any], Mapping[str, str], float], float]
"""(call, the request's members, its headers, now) → when a run of this kind is overdue."""


def _unanswered(submission: Submission) -> bool:
    """Whether its answer is still awaited. Its webhook may have come before."""
    young = time.time() - submission.created_at < lifecycle.PENDING_LIMIT
    return submission.state is SubmissionState.PENDING or (
        submission.state is SubmissionState.ACCEPTED and submission.answered_at is None and young
    )


async def _stays() -> bool:
    return False


class Submitter:
    """Submits of all sources in this process. `prove`: how a lost answer is made good at once, if that can be."""

    def __init__(
        self, store: AsyncLedger, redactor: Redactor, prove: Prove | None = None, due: Due | None = None
    ) -> None:
        self._store = store
        self._redactor = redactor
        self._prove = prove
        self._due = due
        self._going: dict[str, asyncio.Task[Reply]] = {}

    async def submit(
        self,
        source: Source,
        key: Key,
        call: Endpoint,
        path: str,
        query: str,
        body: bytes,
        headers: Mapping[str, str],
        gone: Gone = _stays,
    ) -> Reply:
        """The answer to a submit. Raises Refusal, and LedgerUnavailable when nothing was sent.

        `gone`: whether the caller has hung up, so that nobody hears of the run: the same request again is told of it.
        """
        prepared = prepare(source, key, call, path, query, body, headers)
        new, now = prepared.new, time.time()
        if new.idempotency_key is not None:
            gone = _stays  # by its key it finds the answer anyway
        submission, made = await self._store.write(lambda connection: lifecycle.begin(connection, new, now))
        if not made:
            return await self._join(source, prepared, submission, gone)
        # Made first and shielded: the caller may hang up, the request is on its way all the same.
        task = asyncio.create_task(self._carry(source, prepared, gone))
        self._going[submission.id] = task
        task.add_done_callback(lambda _: self._going.pop(submission.id, None))
        return await asyncio.shield(task)

    async def _carry(self, source: Source, prepared: Prepared, gone: Gone) -> Reply:
        new = prepared.new
        said = await source.api.submit(prepared.path, prepared.body, prepared.headers, prepared.query)
        reply = of_submit(said, source.secrets, prepared.replacing).for_submission(new.id)
        found = submitted(said)
        now = time.time()
        if isinstance(found, Created):
            due_at = self._due(new.call, prepared.members, prepared.headers, now) if self._due else now + DUE_AFTER
            answer = SubmitOutcome(SubmissionMove.ACCEPT, found.run_id, found.run_type, due_at=due_at)
        elif isinstance(found, Lost):
            answer = SubmitOutcome(SubmissionMove.MISS, reason=found.reason, due_at=now)
        else:
            reason = said.reason if isinstance(said, Unreachable) else f"status {found.status}"
            answer = SubmitOutcome(SubmissionMove.REJECT, reason=reason, release=not held_for_good(said))
        kept = self._redacted(reply.body) if isinstance(found, Created) else reply.body
        answer = replace(answer, status=reply.status, body=kept)
        if isinstance(found, Created) and await gone():
            answer = replace(answer, status=_HUNG_UP, body=None)
        submission = await self._write(new.id, answer)
        if answer.status == reply.status and isinstance(found, Created):
            await self._unhear(new.id, gone)
        log.info(
            "submit.%s submission=%s source=%s call=%s run=%s status=%d",
            answer.move.value.replace(" ", "_"), new.id, new.source, new.call, answer.run_id, reply.status,
        )  # fmt: skip
        if isinstance(found, Lost) and submission is not None:
            return await self._proof(source, submission, gone) or reply
        return reply

    async def _write(self, submission_id: str, answer: SubmitOutcome) -> Submission | None:
        """Write the answer down. None when the ledger does not take it: the caller is answered all the same, and the
        submission is found pending by the clock."""
        for pause in (*_WRITE_AGAIN, None):
            try:
                return await self._store.write(
                    lambda connection: lifecycle.answered(connection, submission_id, answer, time.time())
                )
            except (LedgerUnavailable, LedgerDataError) as trouble:
                if pause is None or isinstance(trouble, LedgerDataError):
                    log.error("submit.unwritten submission=%s ledger=%s", submission_id, trouble)
                    return None
                await asyncio.sleep(pause)
        return None

    def _redacted(self, body: bytes) -> bytes:
        masked, _ = self._redactor.apply(body, parse_run(body).data)
        return masked

    # A request that repeats an earlier one.

    async def _join(self, source: Source, prepared: Prepared, submission: Submission, gone: Gone) -> Reply:
        if submission.request_hash != prepared.new.request_hash:
            return invalid(None, "Idempotency-Key: was used before for another request").for_submission(submission.id)
        submission = await self._settled(submission)
        if _unanswered(submission) and submission.state is SubmissionState.PENDING:
            reply = error(409, "The first request with this content is still on its way", retry_after="5")
        else:
            reply = await self._again(source, submission, gone)
        return reply.for_submission(submission.id).with_headers(**{REPLAYED_HEADER: "true"})

    async def _settled(self, submission: Submission) -> Submission:
        """The submission when it is answered, or as it is after a while."""
        deadline = time.monotonic() + JOIN_FOR
        submission_id = submission.id
        patient = time.monotonic() + OTHERS
        while _unanswered(submission) and time.monotonic() < deadline:
            task = self._going.get(submission_id)
            if task is not None:
                await asyncio.wait([task], timeout=deadline - time.monotonic())
            else:
                await asyncio.sleep(LOOK_EVERY)  # another process carries it, or did until it died
                if time.monotonic() > patient:
                    if submission.run_id:
                        break  # its run is known; that answer will do
                    if self._prove is not None and await self._prove(submission) is not None:
                        return await self._store.read(lambda c: lifecycle.one(c, submission_id)) or submission
                    patient = time.monotonic() + OTHERS
            found = await self._store.read(lambda connection: lifecycle.one(connection, submission_id))
            if found is None or (task is not None and _unanswered(found)):
                break  # its answer could not be written down
            submission = found
        return submission

    async def _again(self, source: Source, submission: Submission, gone: Gone) -> Reply:
        """The answer that the submission has, or can have by now."""
        if submission.answer_status is not None and submission.answer is not None and submission.answer_status < 300:
            return Reply(submission.answer_status, submission.answer, {"content-type": "application/json"})
        if submission.state in (SubmissionState.UNKNOWN, SubmissionState.ACCEPTED):
            found = await self._proof(source, submission, gone)
            if found is not None:
                return found
        if submission.answer_status is not None and submission.answer is not None:
            return Reply(submission.answer_status, submission.answer, {"content-type": "application/json"})
        return error(502, "what became of the call is not known yet")

    async def _proof(self, source: Source, submission: Submission, gone: Gone) -> Reply | None:
        """The answer to a submit whose own was lost, once its run is known: by webhook, or found in Skyvern's API."""
        said: Answer | None = None
        try:
            now = await self._store.read(lambda connection: lifecycle.one(connection, submission.id))
            if now is not None and now.run_id:
                submission = now
            elif self._prove is not None:
                said = await self._prove(submission)
                now = await self._store.read(lambda connection: lifecycle.one(connection, submission.id))
                submission = now or submission
        except LedgerUnavailable:
            return None
        if not submission.run_id:
            return None
        body = short_answer(submission.call, submission.run_id)
        if body is None:
            said = said or await source.api.get_run(submission.run_id)
            run = said.json() if isinstance(said, Answered) and said.ok else None
            body = short_answer(submission.call, submission.run_id, run)
        if body is not None:
            reply = Reply(200, body, {"content-type": "application/json"}).for_submission(submission.id)
            return await self._told(submission, reply, gone)
        ours = source.callback(submission.id)
        replacing = {json.dumps(ours).encode(): json.dumps(submission.callback_url or None).encode()} if ours else {}
        assert said is not None
        reply = relay(said, source.secrets, replacing=replacing).for_submission(submission.id)
        return await self._told(submission, reply, gone) if reply.status < 300 else None

    async def _told(self, submission: Submission, reply: Reply, gone: Gone) -> Reply:
        """`reply`, which is the submission's answer from now on, unless nobody is there to hear it."""
        if await gone():
            return reply
        kept = self._redacted(reply.body)
        with suppress(LedgerUnavailable, LedgerDataError):
            await self._store.write(
                lambda connection: lifecycle.told(connection, submission.id, reply.status, kept, time.time())
            )
        await self._unhear(submission.id, gone)
        return reply

    async def _unhear(self, submission_id: str, gone: Gone) -> None:
        """Take back that the caller has heard of the run, when it hung up while that was being written down."""
        if await gone():
            with suppress(LedgerUnavailable, LedgerDataError):
                await self._store.write(
                    lambda connection: lifecycle.told(connection, submission_id, _HUNG_UP, None, time.time())
                )

    async def close(self, seconds: float) -> None:
        """Wait a while for submits that are on their way. What is not answered then is found by the clock."""
        if self._going:
            await asyncio.wait(list(self._going.values()), timeout=seconds)
        for task in list(self._going.values()):
            task.cancel()
