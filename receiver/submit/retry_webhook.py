"""retry_webhook of a run that was submitted here: the caller's webhook is ours, so it is we who send it again.

Passed on, Skyvern would post to our own callback URL, which has the result already, and the caller would hear nothing.
The delivery is replayed in the ledger, as durable as any, and its next attempt awaited; the answer has Skyvern's shape.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import urlsplit

from receiver.domain.callback import CALLBACK, ROUTE, lane_of
from receiver.domain.delivery import DeliveryState
from receiver.domain.run import parse as parse_run
from receiver.ledger import runs
from receiver.ledger.api_keys import Key
from receiver.ledger.async_ledger import AsyncLedger
from receiver.ledger.deliveries import resend
from receiver.ledger.deliveries.resend import DeliveryStatus
from receiver.ledger.runs import RunResult
from receiver.ledger.submissions.lifecycle import Submission
from receiver.ledger.submissions.visibility import webhook_of
from receiver.skyvern import Answered
from receiver.submit.callback_mask import CallbackMask
from receiver.submit.json_edit import NotAnObject, parse
from receiver.submit.long_poll import TooManyWaiters, Waiters
from receiver.submit.replies import SUBMISSION_HEADER, Refusal, Reply, error, invalid, malformed, relay
from receiver.submit.request.source import Source
from receiver.submit.results import Results

WAIT: Final = 30.0
"""Seconds that the caller waits for the attempt. Skyvern itself takes up to 60; SDKs wait that long."""
RETRY_ROUTE: Final = "retry_webhook"
"""What lists show as the route of a delivery to an address that was given with the call."""
_ANSWERED = re.compile(r"answered ([1-5][0-9]{2})")


class Resender:
    """`wake`: tells the workers that there is something to send; it never raises."""

    def __init__(
        self,
        store: AsyncLedger,
        results: Results,
        waiters: Waiters[str, DeliveryStatus],
        disguise: CallbackMask,
        wake: Callable[[], Awaitable[None]],
    ) -> None:
        self._store = store
        self._results = results
        self._waiters = waiters
        self._disguise = disguise
        self._wake = wake

    async def retry(self, source: Source, key: Key, run_id: str, body: bytes) -> Reply | None:
        """The answer to retry_webhook; None for a run that is not ours. Raises Refusal and LedgerUnavailable."""
        if not run_id:
            return None
        submission, shown = await self._store.read(
            lambda connection: webhook_of(connection, (source.name, run_id), key)
        )
        if submission is None:
            return None
        elsewhere = source.webhook(_given(body))
        address = elsewhere or submission.callback_url
        if not address:
            raise Refusal(error(400, "No webhook URL configured for the run."))
        if elsewhere == submission.callback_url:
            elsewhere = ""
        until = time.monotonic() + WAIT
        result = await self._final(source, key, run_id, until)
        if isinstance(result, Reply):
            return result
        lane, route = lane_of(address), RETRY_ROUTE if elsewhere else ROUTE
        delivery, before = await self._store.write(
            lambda connection: resend.resend(connection, result.standing, CALLBACK, route, lane, time.time(), elsewhere)
        )
        await self._wake()
        tried = await self._outcome(delivery, before, until)
        payload = await self._disguise.put_on(source, None if elsewhere else key, result.body)
        default = submission.callback_url if shown else ""
        # A reason names the host, which is not for everybody either.
        trouble = _error(tried)
        if trouble and not (shown or elsewhere):
            trouble = trouble.replace(urlsplit(address).hostname or address, "the caller's server")
        return _told(source, submission, result, delivery, payload, (default, elsewhere or default), tried, trouble)

    async def _final(self, source: Source, key: Key, run_id: str, until: float) -> RunResult | Reply:
        """The run's result; or what the caller is told, because it has none, or it is not here yet."""
        found = await self._result(source, run_id)
        if found is not None:
            return found
        # Its webhook may have been lost: what Skyvern says of a final run is kept, and becomes the caller's webhook.
        reply = await self._results.get(source, key, run_id)
        if reply.status != 200:
            return reply
        run = parse_run(reply.body)
        if not run.final:
            return error(400, f"Run {run_id} has not reached a terminal state (status={run.status}).")
        await self._results.wait((source.name, run_id), until - time.monotonic())
        return await self._result(source, run_id) or error(
            503, "The run's result has only just been fetched and is not in the ledger yet", retry_after="5"
        )

    async def _result(self, source: Source, run_id: str) -> RunResult | None:
        return await self._store.read(lambda connection: runs.result(connection, source.name, run_id))

    async def _outcome(self, delivery: str, before: DeliveryStatus, until: float) -> DeliveryStatus | None:
        """The delivery after its next attempt; None when there was none in time."""

        def over(now: DeliveryStatus) -> bool:
            return now.state is DeliveryState.CANCELLED or (now.number > before.number and now.outcome != "lapsed")

        try:
            return await self._waiters.until(delivery, over, until - time.monotonic())
        except TooManyWaiters:
            return None


def _told(
    source: Source,
    submission: Submission,
    result: RunResult,
    delivery: str,
    payload: bytes,
    addresses: tuple[str, str],
    tried: DeliveryStatus | None,
    trouble: str | None,
) -> Reply:
    """Skyvern's shape. `addresses`: the default one and the one that was sent to, "" where the caller is not told."""
    default, target = addresses
    answered = _ANSWERED.search((tried.note or tried.reason) if tried else "")
    headers = {
        "content-type": "application/json",
        "webhook-id": delivery,
        "x-runhook-event-id": result.standing.event_id,
        SUBMISSION_HEADER: submission.id,
    }
    members = {
        "run_id": result.standing.run_id,
        "run_type": result.standing.run_type,
        "default_webhook_url": default or None,
        "target_webhook_url": target or None,
        "payload": payload.decode("utf-8", "replace"),
        "headers": headers,  # without the signatures: those of another key would be told as well
        "status_code": int(answered[1]) if answered else None,
        "latency_ms": round((tried.ended_at - tried.started_at) * 1000) if tried and tried.number else None,
        "response_body": None,
        "error": trouble,
    }
    said = Answered(200, json.dumps(members).encode(), {"content-type": "application/json"})
    return relay(said, source.secrets).for_submission(submission.id)


def _given(body: bytes) -> str:
    """The address in the body, which may be empty. Raises Refusal."""
    if body.strip() in (b"", b"null"):
        return ""
    try:
        members: dict[str, Any] = parse(body)
    except NotAnObject as problem:
        raise Refusal(malformed(problem)) from None
    given = members.get("webhook_url")
    if given is not None and not isinstance(given, str):
        raise Refusal(invalid("webhook_url", "Input should be a valid string", "string_type"))
    return given or ""


def _error(tried: DeliveryStatus | None) -> str | None:
    if tried is None:
        return f"not sent within {WAIT:g} s; it stays due, and is sent as soon as it can be"
    if tried.outcome == "accepted":
        return None
    if tried.state is DeliveryState.CANCELLED:
        return "an operator cancelled this delivery"
    return tried.reason + (
        "; it is tried again" if tried.state in (DeliveryState.WAITING, DeliveryState.QUEUED) else ""
    )
