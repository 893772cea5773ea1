"""The reply to a submit whose answer was lost: made of its run, once that is known by its webhook or by a search in
Skyvern's API, which is repeated while the caller waits."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

from receiver.domain.redaction import Redactor
from receiver.domain.run import parse
from receiver.domain.submission import OPEN, Submission
from receiver.ledger import LedgerDataError, LedgerUnavailable
from receiver.ledger.async_ledger import AsyncLedger
from receiver.ledger.submissions import lifecycle, records
from receiver.skyvern.responses import Answer, Answered
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
    """Answers of all sources that did not come. `redactor`: masks what is kept of a reply. `poll_after`: seconds until
    a run that was found is polled."""

    def __init__(self, ledger: AsyncLedger, redactor: Redactor, poll_after: float, limits: SubmitLimits) -> None:
        self._ledger = ledger
        self._redactor = redactor
        self._poll_after = poll_after
        self._limits = limits
        self._pool = ThreadPoolExecutor(8, "submit-proof")  # of its own: the searches may all hang at once

    async def find_run(self, source: Source, submission: Submission) -> Answered | None:
        """Search for the run of a submission a few times. Returns the GET of it, or None if it is not found."""
        if source.resolver is None:
            return None
        loop = asyncio.get_running_loop()
        with suppress(LedgerUnavailable, TimeoutError):
            async with asyncio.timeout(self._limits.searching):
                for pause in self._limits.searches:
                    await asyncio.sleep(pause)
                    search = partial(source.resolver.resolve, [submission], poll_after=self._poll_after)
                    resolved, _ = await loop.run_in_executor(self._pool, search)
                    if submission.id in resolved:
                        return resolved[submission.id].answer
                    current = await self.reload(submission)
                    if current is None or current.state not in OPEN:
                        return None
        return None

    def close(self) -> None:
        """End the searches that have not begun."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def reload(self, submission: Submission) -> Submission | None:
        """Return the submission as it is now. Raises LedgerUnavailable."""
        return await self._ledger.read(lambda connection: records.get(connection, submission.id))

    async def resolve(self, source: Source, submission: Submission, is_disconnected: IsDisconnected) -> Reply | None:
        """Return the reply to a submit whose answer was lost, once its run is known, by webhook or by a search in
        Skyvern's API. None while it is not."""
        answer = None
        try:
            current = await self.reload(submission)
            if current is None or not current.run_id:
                answer = await self.find_run(source, submission)
                current = await self.reload(submission)
        except LedgerUnavailable:
            return None
        submission = current or submission
        if not submission.run_id:
            return None
        reply = await self._run_reply(source, submission, answer)
        if reply.status >= 300:
            return None
        if not await is_disconnected():
            await self._record_reply(submission.id, reply.status, redacted(self._redactor, reply.body))
            await self.withdraw_if_unread(submission.id, is_disconnected)
        return reply

    async def _run_reply(self, source: Source, submission: Submission, answer: Answer | None) -> Reply:
        """Return the reply to a submit, made of its run. `answer`: to a GET of the run, if it was fetched."""
        body = short_answer(submission.call, submission.run_id)
        if body is None:
            answer = answer or await source.api.get_run(submission.run_id)
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
