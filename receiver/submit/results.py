"""GET of a run: from the ledger once it is final, else from Skyvern; held until it is final, or told as it changes.

A final answer that is seen at Skyvern before its webhook came is kept as an event, via poll, and goes down the same
road as any other.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import UTC, datetime
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
from receiver.reconcile.resolver import token_of
from receiver.skyvern import Answered, Unreachable
from receiver.submit.callback_mask import CallbackMask
from receiver.submit.json_edit import NotAnObject, splice
from receiver.submit.json_edit import parse as parse_object
from receiver.submit.long_poll import TooManyWaiters, Waiters
from receiver.submit.replies import (
    SOURCE_HEADER,
    STATUS_HEADER,
    SUBMISSION_HEADER,
    WEBHOOK_HEADER,
    Reply,
    error,
    relay,
)
from receiver.submit.request.source import Source

SPARE = 30.0
"""Seconds that a signed URL must still live for the ledger's body to do."""
KEEP_ALIVE = 15.0
STOP_ASK = 3.0
"""Seconds in which Skyvern must say how a run is when the process stops."""
KEEP_ONCE_IN = 60.0
"""Seconds in which a final answer of one run, seen again, is not kept again: the dispatcher may be on its way."""
_MOST_KEPT = 10_000
# What a URL may have that a header may have too; not %, so that all can be decoded again.
_PLAIN = ":/?&=#+@,;~*()'!$[]"
# The smallest run object that the official SDK accepts.
_NEEDED: Final = ("run_id", "run_type", "status", "created_at", "modified_at")
# How signed URLs say when they expire: Skyvern's own and Google's, Amazon's, Azure's.
_URL = re.compile(rb'https?:[^\s"<>]+')
_EPOCH = re.compile(rb"(?:[?&]|\\u0026|&amp;)(?:expiry|Expires)=([0-9]{9,11})(?![0-9])")
_AMAZON_DATE = re.compile(rb"X-Amz-Date=([0-9]{8}T[0-9]{6})Z")
_AMAZON_SECONDS = re.compile(rb"X-Amz-Expires=([0-9]{1,7})(?![0-9])")
_AZURE = re.compile(rb"(?:[?&]|\\u0026)se=([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}(?:%3A|:)[0-9]{2}(?:%3A|:)[0-9]{2})Z")

Keep = Callable[[Event], Awaitable[None]]
_Shared = tuple[RunKey, str]  # with the id of a key: what one answer may show, another may not


class Results:
    """Results for callers. `keep`: takes an event to the inbox; it may raise RequestError."""

    def __init__(
        self, store: AsyncLedger, waiters: Waiters[RunKey, RunStatus], disguise: CallbackMask, keep: Keep
    ) -> None:
        self._store = store
        self._waiters = waiters
        self._disguise = disguise
        self._keep = keep
        self._asked: dict[_Shared, asyncio.Task[Reply | None]] = {}
        self._asking: dict[_Shared, asyncio.Task[Reply]] = {}
        self._kept: dict[tuple[str, str, int, str], float] = {}

    async def get(self, source: Source, key: Key, run_id: str, wait: float = 0.0) -> Reply:
        """The run. `wait`: seconds to hold the request until it is final. Raises LedgerUnavailable only if `wait`."""
        found = await self._from_ledger(source, key, run_id)
        if found is not None:
            return found
        if wait <= 0:
            return await self._from_skyvern(source, key, run_id)
        if not await self._is_known(source, run_id):
            reply = await self._from_skyvern(source, key, run_id)
            if reply.status != 200 or parse(reply.body).final:
                return reply
        try:
            standing = await self.wait((source.name, run_id), wait)
        except TooManyWaiters:
            return error(503, "too many requests wait for runs", retry_after="5")
        found = await self._from_ledger(source, key, run_id) if standing else None
        return found or await self._after_wait(source, key, run_id)

    async def fresh(self, source: Source, key: Key, run_id: str) -> Reply:
        """The run as Skyvern tells it now, with its request, which most webhooks lack. Raises LedgerUnavailable.

        Skyvern may never have heard of the webhook that the caller wanted: a header has it, percent-encoded, for a key
        that may be told.
        """
        run = (source.name, run_id)
        standing = (await self._store.read(lambda connection: runs.standings(connection, [run]))).get(run)
        submission, shown = await self._store.read(lambda connection: webhook_of(connection, run, key))
        reply = await self._from_skyvern(source, key, run_id, known=standing is not None and standing.final)
        if submission is None or reply.status != 200:
            return reply
        webhook = {WEBHOOK_HEADER: quote(submission.callback_url, safe=_PLAIN)} if shown else {}
        return reply.for_submission(submission.id).with_headers(**webhook)

    async def wait(self, key: RunKey, seconds: float) -> RunStatus | None:
        """How the run stands once the ledger knows its end; None when that is not so after `seconds`, or the process
        stops. Raises TooManyWaiters."""
        return await self._waiters.until(key, lambda standing: standing.final, seconds)

    async def _after_wait(self, source: Source, key: Key, run_id: str) -> Reply:
        """The run as it is when the time is up. Those with one key who waited for it share an answer; when the process
        stops, all are woken at once, and none is kept for longer than it may take to stop."""
        shared = ((source.name, run_id), key.id)
        task = self._asking.get(shared)
        if task is None:
            task = self._asking[shared] = asyncio.create_task(self._from_skyvern(source, key, run_id))
            task.add_done_callback(lambda _: self._asking.pop(shared, None))
        if not self._waiters.stopped:
            return await asyncio.shield(task)
        try:
            async with asyncio.timeout(STOP_ASK):
                return await asyncio.shield(task)
        except TimeoutError:
            return error(503, "The receiver is being stopped; ask again", retry_after="2")

    async def changes(self, source: Source, key: Key, run_id: str) -> AsyncGenerator[bytes, None] | Reply:
        """The run's server-sent events until it is final; or a Reply when there is no such run."""
        if not await self._is_known(source, run_id):
            reply = await self._from_skyvern(source, key, run_id)
            if reply.status != 200:
                return reply
        return self._changes(source, key, run_id)

    async def _changes(self, source: Source, key: Key, run_id: str) -> AsyncGenerator[bytes, None]:
        known: RunStatus | None = None
        yield b"retry: 2000\n\n"
        while True:
            try:
                standing = await self._waiters.change((source.name, run_id), known, KEEP_ALIVE)
            except TooManyWaiters:
                yield _sse("error", "", b'{"detail":"too many requests wait for runs"}')
                return
            if standing is None and self._waiters.stopped:
                return  # the client comes again, to the next process
            if standing is None:
                yield b": still here\n\n"
                continue
            known = standing
            if standing.final and (reply := await self._from_ledger(source, key, run_id)) is not None:
                yield _sse("result", standing.event_id, reply.body)
                return
            told = {
                "run_id": run_id,
                "run_type": standing.run_type,
                "status": standing.outcome,
                "attempt": standing.attempt,
                "final": standing.final,
            }
            yield _sse("status", standing.event_id, json.dumps(told).encode())

    async def _is_known(self, source: Source, run_id: str) -> bool:
        """Whether the ledger knows that there is such a run: then nobody needs to ask Skyvern whether it exists."""
        key = (source.name, run_id)
        return await self._store.read(
            lambda connection: bool(runs.standings(connection, [key])) or runs.is_ours(connection, *key)
        )

    async def _from_ledger(self, source: Source, key: Key, run_id: str) -> Reply | None:
        """The final run as the ledger has it, with fresh URLs where those in it have lapsed. None: ask Skyvern.

        Those who ask at the same time with one key share one answer: a thousand who waited wake in one moment.
        """
        shared = ((source.name, run_id), key.id)
        task = self._asked.get(shared)
        if task is None:
            task = self._asked[shared] = asyncio.create_task(self._look(source, key, run_id))
            task.add_done_callback(lambda _: self._asked.pop(shared, None))
        return await asyncio.shield(task)

    async def _look(self, source: Source, key: Key, run_id: str) -> Reply | None:
        try:
            result = await self._store.read(lambda connection: runs.result(connection, source.name, run_id))
        except LedgerUnavailable:
            return None
        if result is None:
            return None
        lapses = lapses_at(result.body)
        if lapses is not None and lapses < time.time() + SPARE:
            said = await source.api.get_run(run_id)
            # Skyvern is asked for its URLs only: what the run is, the ledger knows.
            if isinstance(said, Answered) and said.ok and parse(said.body).run_id == run_id:
                body, origin = said.body, "skyvern"
            else:
                body, origin = result.body, "ledger; urls=lapsed"
        else:
            body, origin = result.body, "ledger"
        return await self._reply(source, key, result, body, origin)

    async def _reply(self, source: Source, key: Key, result: RunResult, body: bytes, origin: str) -> Reply | None:
        standing = result.standing
        try:
            members = parse_object(body)
        except NotAnObject:
            return None
        if any(name not in members for name in _NEEDED):
            return None
        headers = {"content-type": "application/json", SOURCE_HEADER: origin}
        if standing.submission_id:
            headers[SUBMISSION_HEADER] = standing.submission_id
        if members["status"] != standing.outcome:
            headers[STATUS_HEADER] = quote(str(members["status"])[:100], safe="")
            body = splice(body, {"status": json.dumps(standing.outcome).encode()})
        reply = relay(Answered(200, await self._disguise.put_on(source, key, body), headers), source.secrets)
        return Reply(200, reply.body, headers) if reply.status == 200 else reply

    async def _from_skyvern(self, source: Source, key: Key, run_id: str, *, known: bool = False) -> Reply:
        """`known`: the ledger has the result, so that nothing need be kept."""
        said = await source.api.get_run(run_id)
        if isinstance(said, Unreachable):
            return error(504 if "in time" in said.reason else 503, said.reason, retry_after="5")
        if said.ok and not isinstance(said.json(), dict):
            return error(502, "Skyvern's answer was not understood")
        reply = relay(said, source.secrets)
        if reply.status != 200:
            return reply
        if not known:
            await self._note(source, run_id, said)
        run = parse(said.body)
        body = await self._disguise.put_on(source, key, reply.body)
        headers = {**reply.headers, SOURCE_HEADER: "skyvern"}
        if run.outcome and run.outcome != run.status:
            headers[STATUS_HEADER] = quote(run.status, safe="")
            body = splice(body, {"status": json.dumps(run.outcome).encode()})
        return Reply(200, body, headers)

    async def _note(self, source: Source, run_id: str, said: Answered) -> None:
        """Keep a final answer as an event. Never in the caller's way: what fails here, the clock finds later.

        A run that is nobody's yet is its submission's by the token in its callback URL, as in a webhook: the answer to
        that submit was lost, and its caller waits for a webhook.
        """
        body = said.body
        run = parse(body)
        now = time.monotonic()
        key = (source.name, run.run_id, run.attempt, run.status)
        if not run.final or run.problem or now - self._kept.get(key, float("-inf")) < KEEP_ONCE_IN:
            return
        if len(self._kept) >= _MOST_KEPT:
            self._kept.clear()
        self._kept[key] = now
        try:
            ours = await self._store.read(lambda connection: runs.is_ours(connection, source.name, run_id))
            token = "" if ours else token_of(said.json())
            await self._keep(Event(event_id(source.name, body), source.name, body, time.time(), "poll", token))
        except (RequestError, LedgerUnavailable):
            self._kept.pop(key, None)


def _sse(kind: str, event: str, data: bytes) -> bytes:
    """One server-sent event. `data` may have lines."""
    lines = b"".join(b"data: " + line + b"\n" for line in data.splitlines() or [b""])
    return b"event: " + kind.encode() + b"\n" + (b"id: " + event.encode() + b"\n" if event else b"") + lines + b"\n"


def lapses_at(body: bytes) -> float | None:
    """The earliest moment, in seconds since the epoch, at which a signed URL in `body` lapses; None: there is none."""
    moments = [moment for found in _URL.finditer(body) if (moment := _expiry_of(found[0])) is not None]
    return min(moments, default=None)


def _expiry_of(url: bytes) -> float | None:
    try:
        if found := _EPOCH.search(url):
            return float(found[1])
        if (date := _AMAZON_DATE.search(url)) and (seconds := _AMAZON_SECONDS.search(url)):
            begun = datetime.strptime(date[1].decode(), "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
            return begun.timestamp() + int(seconds[1])
        if found := _AZURE.search(url):
            return datetime.fromisoformat(found[1].decode().replace("%3A", ":")).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None  # a date that is none
    return None
