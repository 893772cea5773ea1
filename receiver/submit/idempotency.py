"""The Idempotency-Key of a submit: read and check it, and reply to repeats. The ledger stores it with the submission.

    key_of           reads the header
    request_hash     is equal for requests for the same run; without a key, it alone makes a repeat
    Repeats.reply    replies to a repeat with the earlier reply, and waits for that one
    keeps_key        an answer that says "later" frees the key for another request

`receiver.ledger.submissions.lifecycle.begin` finds the earlier submission, by the key or by the hash.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Mapping
from typing import Final

from receiver.domain.submission import Submission, SubmissionState
from receiver.ledger.database.async_ledger import AsyncLedger
from receiver.ledger.submissions import lifecycle
from receiver.skyvern.responses import Answer, Rejected, submitted
from receiver.submit import labels
from receiver.submit.endpoints import SubmitCall
from receiver.submit.lost_answer import IsDisconnected, LostAnswers, json_reply
from receiver.submit.replies import RETRY_AFTER, for_submission, invalid
from receiver.submit.source import Source
from receiver.web.responses import Refusal, Reply, error

REPLAYED_HEADER: Final = "idempotent-replayed"
# Seconds that a request waits for the answer to an earlier one that it repeats.
REPEAT_WAIT: Final = 60.0
# Seconds between two reads of a submission whose answer another process waits for.
POLL_INTERVAL: Final = 0.3
# Seconds that such an answer may take before Skyvern is asked whether there is a run.
RESOLVE_INTERVAL: Final = 3.0

_LONGEST: Final = 255
# Headers that change what Skyvern makes of a request.
_MATTER: Final = ("x-max-iterations-override", "x-user-agent")
# Statuses by which Skyvern refuses the request itself, and so would refuse it a second time.
_LASTING_REFUSALS: Final = frozenset({400, 413, 415, 422})


def key_of(headers: Mapping[str, str]) -> str | None:
    """Return the Idempotency-Key of a request. Raises Refusal for one that can't be recorded."""
    key = headers.get("idempotency-key") or None
    if key and not (len(key) <= _LONGEST and key.isprintable()):
        raise Refusal(invalid(None, f"Idempotency-Key: must be 1 to {_LONGEST} printable characters"))
    return key


def request_hash(call: SubmitCall) -> str:
    """Return a hash that is equal for requests for the same run."""
    endpoint, path, query, body, headers = call
    steps = headers.get("x-max-steps-override", "")
    fields: list[str | bytes] = [endpoint.name, headers.get(labels.HEADER, ""), steps, body]
    if query or "{" in endpoint.path:  # only where the path or the query belongs to the request
        fields += [path, query]
    fields += [f"{name}: {headers[name]}" for name in _MATTER if name in headers]
    if (kind := headers.get("content-type", "")).partition(";")[0].strip().lower() not in ("", "application/json"):
        fields.append(f"content-type: {kind}")  # Skyvern refuses it: the same body as JSON must not get that answer
    digest = hashlib.sha256()
    for field in fields:
        text = field if isinstance(field, bytes) else field.encode("utf-8", "surrogateescape")
        digest.update(b"%d:" % len(text) + text)
    return digest.hexdigest()


def keeps_key(answer: Answer) -> bool:
    """Return whether the Idempotency-Key of a submit stays bound to this answer. An answer that says "later", or that
    an operator can put right (Runhook's key is wrong), frees the key for another request."""
    result = submitted(answer)
    return not isinstance(result, Rejected) or result.status in _LASTING_REFUSALS


class Repeats:
    """Requests that repeat an earlier one. `sending`: the submits of this process under way, by submission id."""

    def __init__(self, ledger: AsyncLedger, lost: LostAnswers, sending: Mapping[str, asyncio.Future[Reply]]) -> None:
        self._ledger = ledger
        self._lost = lost
        self._sending = sending

    async def reply(
        self, source: Source, new_hash: str, earlier: Submission, is_disconnected: IsDisconnected
    ) -> Reply | None:
        """Return the reply to a request with `new_hash` that repeats `earlier`; None if that was taken back."""
        if earlier.request_hash != new_hash:
            refusal = invalid(None, "Idempotency-Key: was used before for another request")
            return for_submission(refusal, earlier.id)
        task = self._sending.get(earlier.id)
        earlier = await self._wait_for_answer(earlier)
        if earlier.state is SubmissionState.REJECTED and earlier.reason == lifecycle.NEVER_SENT:
            return None
        if earlier.state is SubmissionState.PENDING:
            reply = error(409, "The first request with this content is still on its way", retry_after="5")
        else:
            reply = await self._earlier_reply(source, earlier, is_disconnected)
        if earlier.state is SubmissionState.REJECTED and reply.status in (429, 503):
            reply = reply.with_headers(retry_after=_retry_after(task))  # it created no run, so all get Retry-After
        return for_submission(reply, earlier.id).with_headers(**{REPLAYED_HEADER: "true"})

    async def _wait_for_answer(self, submission: Submission) -> Submission:
        """Return the submission once it is answered, or in its current state after REPEAT_WAIT."""
        now = time.monotonic()
        deadline, resolve_at = now + REPEAT_WAIT, now + RESOLVE_INTERVAL
        while self._awaits_answer(submission) and time.monotonic() < deadline:
            task = self._sending.get(submission.id)
            if task is not None:
                await asyncio.wait([task], timeout=deadline - time.monotonic())
            else:
                await asyncio.sleep(POLL_INTERVAL)  # another process waits for the answer, or did until it died
                if time.monotonic() > resolve_at:
                    if submission.run_id:
                        break  # its run is known; that answer will do
                    await self._lost.hasten_search(submission)
                    resolve_at = time.monotonic() + RESOLVE_INTERVAL
            current = await self._lost.reload(submission)
            if current is None or (task is not None and self._awaits_answer(current)):
                break  # its answer could not be recorded
            submission = current
        return submission

    def _awaits_answer(self, submission: Submission) -> bool:
        """Return whether Skyvern's answer may still come. Its webhook may have come before."""
        young = self._ledger.now() - submission.created_at < lifecycle.PENDING_LIMIT
        return submission.state is SubmissionState.PENDING or (
            submission.state is SubmissionState.ACCEPTED and submission.answered_at is None and young
        )

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


def _retry_after(task: asyncio.Future[Reply] | None) -> str:
    """Return the Retry-After of a task's reply; of one that another process had, or that had none, the usual one."""
    known = task is not None and task.done() and not task.cancelled() and task.exception() is None
    return task.result().headers.get("retry-after", RETRY_AFTER) if task is not None and known else RETRY_AFTER
