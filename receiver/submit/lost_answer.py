"""The reply to a submit whose answer was lost: made of its run, once the ledger has it from its webhook, or from the
clock's search in Skyvern's API, which is hastened while the caller waits."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress

from receiver.domain.redaction import Redactor
from receiver.domain.run import parse
from receiver.domain.submission import OPEN, Submission
from receiver.ledger import LedgerDataError, LedgerUnavailable, polls
from receiver.ledger.database.async_ledger import AsyncLedger
from receiver.ledger.submissions import lifecycle, records
from receiver.skyvern.responses import Answered
from receiver.submit.endpoints import short_answer
from receiver.submit.limits import SubmitLimits
from receiver.submit.replies import for_submission, relay
from receiver.submit.source import Source
from receiver.web.responses import Reply
from receiver.web.work import off_loop

DISCONNECTED = 499  # as nginx has it: the client closed the connection before the response

# Whether the caller has closed its connection.
IsDisconnected = Callable[[], Awaitable[bool]]


def json_reply(status: int, body: bytes) -> Reply:
    """Return a reply with this JSON body."""
    return Reply(status, body, {"content-type": "application/json"})


def redacted(redactor: Redactor, body: bytes) -> bytes:
    """Return the body of a reply as it is recorded."""
    return redactor.apply(body, parse(body).data)[0]


class LostAnswers:
    """Answers of all sources that did not come. `redactor`: masks what is kept of a reply."""

    def __init__(self, ledger: AsyncLedger, redactor: Redactor, limits: SubmitLimits) -> None:
        self._ledger = ledger
        self._redactor = redactor
        self._limits = limits

    async def wait_for_run(self, submission: Submission) -> Submission:
        """Return the submission once its run is known, or after a while in its current state. Raises
        LedgerUnavailable."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._limits.searching):
                while submission.state in OPEN:
                    await self.hasten_search(submission)
                    await asyncio.sleep(self._limits.look)
                    submission = await self.reload(submission) or submission
        return submission

    async def hasten_search(self, submission: Submission) -> None:
        """Have the clock search for the run of a submission, if the last search is some time ago."""
        now = self._ledger.now()
        key = submission.source, submission.id
        poll = (await self._ledger.read(lambda connection: polls.of_runs(connection, [key]))).get(key)
        if poll and poll.is_late(now):
            await self._ledger.write(lambda connection: polls.hasten(connection, [key], now))

    async def reload(self, submission: Submission) -> Submission | None:
        """Return the submission as it is now. Raises LedgerUnavailable."""
        return await self._ledger.read(lambda connection: records.get(connection, submission.id))

    async def resolve(self, source: Source, submission: Submission, is_disconnected: IsDisconnected) -> Reply | None:
        """Return the reply to a submit whose answer was lost, once its run is known, by webhook or by a search in
        Skyvern's API. None while it is not."""
        try:
            submission = await self.wait_for_run(await self.reload(submission) or submission)
        except LedgerUnavailable:
            return None
        if not submission.run_id:
            return None
        reply = await self._run_reply(source, submission)
        if reply.status >= 300:
            return None
        if not await is_disconnected():
            await self._record_reply(submission.id, reply.status, redacted(self._redactor, reply.body))
            await self.withdraw_if_unread(submission.id, is_disconnected)
        return reply

    async def _run_reply(self, source: Source, submission: Submission) -> Reply:
        """Return the reply to a submit, made of its run."""
        body = short_answer(submission.call, submission.run_id)
        if body is None:
            answer = await source.api.get_run(submission.run_id)
            size = len(answer.body) if isinstance(answer, Answered) else 0
            run = await off_loop(size, answer.json) if isinstance(answer, Answered) and answer.ok else None
            body = short_answer(submission.call, submission.run_id, run)
            if body is None:
                ours, theirs = source.callback_url(submission.id), submission.webhook_url or None
                replacing = {json.dumps(ours).encode(): json.dumps(theirs).encode()} if ours else {}
                reply = await off_loop(size, relay, answer, source.secrets, replacing=replacing)
                return for_submission(reply, submission.id)
        return for_submission(json_reply(200, body), submission.id)

    async def withdraw_if_unread(self, submission_id: str, is_disconnected: IsDisconnected) -> None:
        """Record that the caller does not know of the run when it disconnected while its reply was being recorded."""
        if await is_disconnected():
            await self._record_reply(submission_id, DISCONNECTED, None)

    async def _record_reply(self, submission_id: str, status: int, body: bytes | None) -> None:
        with suppress(LedgerUnavailable, LedgerDataError):
            await self._ledger.write(
                lambda connection: lifecycle.set_answer(connection, submission_id, status, body, self._ledger.now())
            )
