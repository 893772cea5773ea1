"""retry_webhook of a run that was submitted here: the caller's webhook is sent by us, so it is we who resend it.

Passed on, Skyvern would post to Runhook's callback URL, which has the result already, and the caller would get nothing.
The delivery is replayed in the ledger, as durable as any, and its next attempt awaited; the answer has Skyvern's shape.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

from receiver.domain.callback import CALLBACK, ROUTE, lane_of
from receiver.domain.delivery import DeliveryState
from receiver.domain.run import RunKey, parse_outline
from receiver.ledger import LedgerUnavailable, runs
from receiver.ledger.database.async_ledger import AsyncLedger
from receiver.ledger.deliveries import resend
from receiver.ledger.deliveries.resend import DeliveryStatus
from receiver.ledger.runs import RunResult
from receiver.ledger.submissions.records import webhook_of
from receiver.skyvern.responses import Answered
from receiver.submit.callback_mask import mask_callbacks
from receiver.submit.long_poll import LongPoll
from receiver.submit.prepare import parse_request
from receiver.submit.replies import SUBMISSION_HEADER, for_submission, invalid, relay
from receiver.submit.results import Results
from receiver.submit.source import Caller, Source
from receiver.submit.waited_runs import WaitedRun
from receiver.web.responses import Refusal, Reply, error
from receiver.web.work import off_loop

# The route that lists show for a delivery to a URL that was given with the call.
RETRY_ROUTE: Final = "retry_webhook"
# Seconds between two looks at the delivery that a call waits for.
LOOK_INTERVAL: Final = 0.3
_ANSWERED = re.compile(r"answered ([1-5][0-9]{2})")


class WebhookRetrier:
    """Sends the webhook of a run again, at a caller's request. `wait`: seconds that a call waits for the attempt."""

    def __init__(self, ledger: AsyncLedger, results: Results, states: LongPoll[RunKey, WaitedRun], wait: float) -> None:
        self._ledger = ledger
        self._results = results
        self._states = states
        self._wait = wait

    async def retry(self, caller: Caller, run_id: str, body: bytes) -> Reply | None:
        """Return the reply; None for a run that was not submitted here. Raises Refusal and LedgerUnavailable."""
        if not run_id:
            return None
        submission, visible = await self._ledger.read(
            lambda connection: webhook_of(connection, (caller.source.name, run_id), caller.key)
        )
        if submission is None:
            return None
        given = caller.source.webhook_url(await off_loop(len(body), _url_in, body))
        url = given or submission.webhook_url
        if not url:
            raise Refusal(error(400, "No webhook URL configured for the run."))
        if visible and given == submission.webhook_url:  # else the answer would tell that it is
            given = ""
        deadline = time.monotonic() + self._wait
        result = await self._final_result(caller, run_id, deadline)
        if isinstance(result, Reply):
            return result
        if not result.body:
            return error(410, f"Run {run_id} was erased here: its webhook cannot be sent again")
        signer, route = (caller.key.id, RETRY_ROUTE) if given else ("", ROUTE)
        lane = lane_of(url, signer or submission.key_id)
        delivery, before = await self._ledger.write(
            lambda connection: resend.resend(
                connection, result.status, CALLBACK, route, lane, self._ledger.now(), given, signer
            )
        )
        attempt = await self._wait_for_attempt(delivery, before, deadline)
        problem = _problem_of(attempt, self._wait)
        # A reason names the host, which not every key may see.
        if problem and not (visible or given):
            problem = problem.replace(urlsplit(url).hostname or url, "the caller's server")
        default = submission.webhook_url if visible else ""
        answered = _ANSWERED.search((attempt.note or attempt.reason) if attempt else "")
        payload = await mask_callbacks(self._ledger, caller.source.name, None if given else caller.key, result.body)
        members = {
            "run_id": result.status.run_id,
            "run_type": result.status.run_type,
            "default_webhook_url": default or None,
            "target_webhook_url": given or default or None,
            "payload": payload.decode("utf-8", "replace"),
            # Without the signatures: those of another caller's key would be shown as well.
            "headers": {
                "content-type": "application/json",
                "webhook-id": delivery,
                "x-runhook-event-id": result.status.event_id,
                SUBMISSION_HEADER: submission.id,
            },
            "status_code": int(answered[1]) if answered else None,
            "latency_ms": round((attempt.ended_at - attempt.started_at) * 1000) if attempt and attempt.number else None,
            "response_body": None,
            "error": problem,
        }
        shown = await off_loop(len(payload), json.dumps, members)
        answer = Answered(200, shown.encode(), {"content-type": "application/json"})
        return for_submission(await off_loop(len(shown), relay, answer, caller.source.secrets), submission.id)

    async def _final_result(self, caller: Caller, run_id: str, deadline: float) -> RunResult | Reply:
        """Return the run's result; or the reply to the caller, when it has none, or it is not in the ledger yet."""
        result = await self._result(caller.source, run_id)
        if result is not None:
            return result
        # Its webhook may have been lost: the clock takes a final answer of Skyvern, which becomes the caller's webhook.
        reply = await self._results.from_skyvern(caller, run_id, is_recorded=True)
        if reply.status != 200:
            return reply
        run = await off_loop(len(reply.body), parse_outline, reply.body)
        if not run.final:
            return error(400, f"Run {run_id} has not reached a terminal state (status={run.status}).")
        await self._results.note_end(caller.source.name, run, at_once=True)
        await self._states.wait_until((caller.source.name, run_id), WaitedRun.is_known, deadline - time.monotonic())
        return await self._result(caller.source, run_id) or error(
            503, "The run's result has only just been fetched and is not in the ledger yet", retry_after="5"
        )

    async def _result(self, source: Source, run_id: str) -> RunResult | None:
        return await self._ledger.read(lambda connection: runs.result(connection, source.name, run_id))

    async def _wait_for_attempt(self, delivery: str, before: DeliveryStatus, deadline: float) -> DeliveryStatus | None:
        """Return the delivery after its next attempt; None if it took too long, or the process stops."""
        while time.monotonic() < deadline and not self._states.stopped:
            with suppress(LedgerUnavailable):
                statuses = await self._ledger.read(lambda connection: resend.statuses(connection, [delivery]))
                now = statuses.get(delivery, before)
                if now.state is DeliveryState.CANCELLED or (now.number > before.number and now.outcome != "lapsed"):
                    return now
            await asyncio.sleep(LOOK_INTERVAL)
        return None


def _url_in(body: bytes) -> str:
    """Return the webhook URL in the body, "" when it names none. Raises Refusal."""
    if body.strip() in (b"", b"null"):
        return ""
    given = parse_request(body).get("webhook_url")
    if given is not None and not isinstance(given, str):
        raise Refusal(invalid("webhook_url", "Input should be a valid string", "string_type"))
    return given or ""


def _problem_of(attempt: DeliveryStatus | None, wait: float) -> str | None:
    if attempt is None:
        return f"not sent within {wait:g} s; it stays due, and is sent as soon as it can be"
    if attempt.outcome == "accepted":
        return None
    if attempt.state is DeliveryState.CANCELLED:
        return "an operator cancelled this delivery"
    is_retried = attempt.state in (DeliveryState.WAITING, DeliveryState.QUEUED)
    return attempt.reason + ("; it is tried again" if is_retried else "")
