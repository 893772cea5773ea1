"""GET of a run: from the ledger once it is final, else from Skyvern; on request held until it is final, or streamed.

A final answer that Skyvern gives before its webhook came is committed as an event, via poll, and dispatched like any
other.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Final
from urllib.parse import quote

from receiver.domain.event import Event, event_id
from receiver.domain.run import RunKey, parse
from receiver.errors import RequestError
from receiver.ledger import LedgerUnavailable, runs
from receiver.ledger.api_keys import Key
from receiver.ledger.async_ledger import AsyncLedger
from receiver.ledger.runs import RunResult, RunStatus
from receiver.ledger.submissions.visibility import webhook_of
from receiver.skyvern import Answered, Unreachable, expires_at, token_of
from receiver.submit.callback_mask import CallbackMask
from receiver.submit.json_edit import NotAnObject, edit_members, parse_object
from receiver.submit.long_poll import LongPoll, SingleFlight, TooManyWaiters
from receiver.submit.replies import (
    SOURCE_HEADER,
    STATUS_HEADER,
    SUBMISSION_HEADER,
    WEBHOOK_HEADER,
    Reply,
    error,
    read_failed,
    relay,
)
from receiver.submit.request.source import Source

# Seconds for which the signed URLs of the ledger's body must still be valid; else Skyvern is asked for new ones.
URL_MARGIN = 30.0
# Seconds between two signs of life in a stream of events.
KEEP_ALIVE = 15.0
# Seconds in which Skyvern must answer when the process stops.
FETCH_STOP_LIMIT = 3.0
# Seconds in which the same final answer is not committed again: the dispatcher may not have recorded it yet.
COMMIT_INTERVAL = 60.0
_MAX_COMMITTED = 10_000
# Characters of a URL that a header may have too; not %, so that all can be decoded again.
_UNQUOTED = ":/?&=#+@,;~*()'!$[]"
# The smallest run object that the official SDK accepts.
_REQUIRED: Final = ("run_id", "run_type", "status", "created_at", "modified_at")

_SharedKey = tuple[RunKey, str]  # with the id of an API key: what one may see, another may not


class Results:
    """Results for callers. `commit`: puts an event into the inbox; it may raise RequestError."""

    def __init__(
        self,
        ledger: AsyncLedger,
        runs_poll: LongPoll[RunKey, RunStatus],
        mask: CallbackMask,
        commit: Callable[[Event], Awaitable[None]],
    ) -> None:
        self._ledger = ledger
        self._runs_poll = runs_poll
        self._mask = mask
        self._commit = commit
        self._from_ledger_once: SingleFlight[_SharedKey, Reply | None] = SingleFlight()
        self._after_wait_once: SingleFlight[_SharedKey, Reply] = SingleFlight()
        self._committed: dict[tuple[str, str, int, str], float] = {}

    async def get(self, source: Source, key: Key, run_id: str, wait: float = 0.0) -> Reply:
        """Return the run. `wait`: seconds to wait until it is final; only then LedgerUnavailable may be raised."""
        try:
            found = await self._from_ledger(source, key, run_id)
        except LedgerUnavailable:
            if wait > 0:
                raise
            found = None
        if found is not None:
            return found
        if wait <= 0:
            return await self._from_skyvern(source, key, run_id)
        if not await self._is_known(source, run_id):
            reply = await self._from_skyvern(source, key, run_id)
            if reply.status != 200 or parse(reply.body).final:
                return reply
        try:
            status = await self.wait((source.name, run_id), wait)
        except TooManyWaiters:
            return error(503, "too many requests wait for runs", retry_after="5")
        found = await self._from_ledger(source, key, run_id) if status else None
        return found or await self._after_wait(source, key, run_id)

    async def get_from_skyvern(self, source: Source, key: Key, run_id: str) -> Reply:
        """Return Skyvern's current answer, with the run's request, which most webhooks lack. Raises LedgerUnavailable.

        Skyvern does not know the webhook that the caller asked for: a header has it, percent-encoded, if `key` may see
        it.
        """
        run = (source.name, run_id)
        status = (await self._ledger.read(lambda connection: runs.run_statuses(connection, [run]))).get(run)
        submission, visible = await self._ledger.read(lambda connection: webhook_of(connection, run, key))
        reply = await self._from_skyvern(source, key, run_id, known=status is not None and status.final)
        if submission is None or reply.status != 200:
            return reply
        webhook = {WEBHOOK_HEADER: quote(submission.webhook_url, safe=_UNQUOTED)} if visible else {}
        return reply.for_submission(submission.id).with_headers(**webhook)

    async def wait(self, key: RunKey, seconds: float) -> RunStatus | None:
        """Return the run's status once it is final in the ledger; None after `seconds`, or when the process stops.

        Raises TooManyWaiters.
        """
        return await self._runs_poll.wait_until(key, lambda status: status.final, seconds)

    async def _after_wait(self, source: Source, key: Key, run_id: str) -> Reply:
        """Return the run as it is when the time is up. Requests with one key that waited for it share an answer: when
        the process stops, all end at once, and Skyvern has FETCH_STOP_LIMIT seconds to answer."""
        shared = ((source.name, run_id), key.id)
        try:
            async with asyncio.timeout(FETCH_STOP_LIMIT if self._runs_poll.stopped else None):
                return await self._after_wait_once.run(shared, lambda: self._from_skyvern(source, key, run_id))
        except TimeoutError:
            return error(503, "The receiver is being stopped; ask again", retry_after="2")

    async def events(self, source: Source, key: Key, run_id: str) -> AsyncGenerator[bytes, None] | Reply:
        """Return the run's server-sent events until it is final; or a Reply when there is no such run."""
        if not await self._is_known(source, run_id):
            reply = await self._from_skyvern(source, key, run_id)
            if reply.status != 200:
                return reply
        return self._events(source, key, run_id)

    async def _events(self, source: Source, key: Key, run_id: str) -> AsyncGenerator[bytes, None]:
        known: RunStatus | None = None
        yield b"retry: 2000\n\n"
        while True:
            try:
                status = await self._runs_poll.wait_for_change((source.name, run_id), known, KEEP_ALIVE)
            except TooManyWaiters:
                yield _sse("error", "", b'{"detail":"too many requests wait for runs"}')
                return
            if status is None and self._runs_poll.stopped:
                return  # the client connects again, to the next process
            if status is None:
                yield b": still here\n\n"
                continue
            known = status
            if status.final and (reply := await self._from_ledger(source, key, run_id)) is not None:
                yield _sse("result", status.event_id, reply.body)
                return
            data = {
                "run_id": run_id,
                "run_type": status.run_type,
                "status": status.outcome,
                "attempt": status.attempt,
                "final": status.final,
            }
            yield _sse("status", status.event_id, json.dumps(data).encode())

    async def _is_known(self, source: Source, run_id: str) -> bool:
        """Return whether the run is in the ledger: then Skyvern need not be asked whether it exists."""
        key = (source.name, run_id)
        return await self._ledger.read(
            lambda connection: bool(runs.run_statuses(connection, [key])) or runs.is_ours(connection, *key)
        )

    async def _from_ledger(self, source: Source, key: Key, run_id: str) -> Reply | None:
        """Return the final run as the ledger has it, with new URLs where those in it have expired. None: ask Skyvern.

        Concurrent requests with one key share one answer: a thousand that wait for a run are woken at once.
        """
        shared = ((source.name, run_id), key.id)
        return await self._from_ledger_once.run(shared, lambda: self._read_final(source, key, run_id))

    async def _read_final(self, source: Source, key: Key, run_id: str) -> Reply | None:
        result = await self._ledger.read(lambda connection: runs.result(connection, source.name, run_id))
        if result is None:
            return None
        body, origin = result.body, "ledger"
        expiry = expires_at(body)
        if expiry is not None and expiry < time.time() + URL_MARGIN:
            answer = await source.api.get_run(run_id)
            # Skyvern is asked for its URLs only: the run's outcome is in the ledger.
            if isinstance(answer, Answered) and answer.ok and parse(answer.body).run_id == run_id:
                body, origin = answer.body, "skyvern"
            else:
                origin = "ledger; urls=lapsed"
        return await self._result_reply(source, key, result, body, origin)

    async def _result_reply(
        self, source: Source, key: Key, result: RunResult, body: bytes, origin: str
    ) -> Reply | None:
        status = result.status
        try:
            members = parse_object(body)
        except NotAnObject:
            return None
        if any(name not in members for name in _REQUIRED):
            return None
        headers = {"content-type": "application/json", SOURCE_HEADER: origin}
        if status.submission_id:
            headers[SUBMISSION_HEADER] = status.submission_id
        if members["status"] != status.outcome:
            headers[STATUS_HEADER] = quote(str(members["status"])[:100], safe="")
            body = edit_members(body, {"status": json.dumps(status.outcome).encode()})
        reply = relay(Answered(200, await self._mask.apply(source, key, body), headers), source.secrets)
        return Reply(200, reply.body, headers) if reply.status == 200 else reply

    async def _from_skyvern(self, source: Source, key: Key, run_id: str, *, known: bool = False) -> Reply:
        """Return Skyvern's answer. `known`: the ledger has the result, so that none need be committed."""
        answer = await source.api.get_run(run_id)
        if isinstance(answer, Unreachable):
            return read_failed(answer)
        if answer.ok and not isinstance(answer.json(), dict):
            return error(502, "Skyvern's answer was not understood")
        reply = relay(answer, source.secrets)
        if reply.status != 200:
            return reply
        if not known:
            await self._commit_final(source, run_id, answer)
        run = parse(answer.body)
        body = await self._mask.apply(source, key, reply.body)
        headers = {**reply.headers, SOURCE_HEADER: "skyvern"}
        if run.outcome and run.outcome != run.status:
            headers[STATUS_HEADER] = quote(run.status, safe="")
            body = edit_members(body, {"status": json.dumps(run.outcome).encode()})
        return Reply(200, body, headers)

    async def _commit_final(self, source: Source, run_id: str, answer: Answered) -> None:
        """Commit a final answer as an event. Where that fails the request goes on: the clock polls the run later.

        A run without a submission is bound by the token in its callback URL, as by a webhook: the answer to its submit
        was lost, and its caller waits for a webhook.
        """
        body = answer.body
        run = parse(body)
        now = time.monotonic()
        key = (source.name, run.run_id, run.attempt, run.status)
        if not run.final or run.problem or now - self._committed.get(key, float("-inf")) < COMMIT_INTERVAL:
            return
        if len(self._committed) >= _MAX_COMMITTED:
            self._committed.clear()
        self._committed[key] = now
        try:
            ours = await self._ledger.read(lambda connection: runs.is_ours(connection, source.name, run_id))
            token = "" if ours else token_of(answer.json())
            await self._commit(Event(event_id(source.name, body), source.name, body, time.time(), "poll", token))
        except (RequestError, LedgerUnavailable):
            self._committed.pop(key, None)


def _sse(kind: str, event: str, data: bytes) -> bytes:
    """Return one server-sent event. `data` may have lines."""
    lines = b"".join(b"data: " + line + b"\n" for line in data.splitlines() or [b""])
    return b"event: " + kind.encode() + b"\n" + (b"id: " + event.encode() + b"\n" if event else b"") + lines + b"\n"
