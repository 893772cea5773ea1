"""The callers' own webhooks: the sink `callback`, which is built in. Knows a delivery, its submission and its key.

An upstream app that gave a webhook_url gets what Skyvern would have sent it, signed with the app's own key in Skyvern's
format and in that of Standard Webhooks, with our retries and dead letters. The URL is untrusted, so the guarded client
calls it, and each origin of each caller has a lane of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from handlers import Delivery, Receipt, Refused, Services, Sink, SinkOptions, Unavailable
from handlers.http import sign as standard_signature
from handlers.support.deadline import Deadline
from handlers.support.excerpt import credentials, keep_response
from handlers.support.guarded_client import GuardedClient, Response, parse_url
from handlers.support.retry_after import retry_after
from handlers.support.url import split_userinfo
from receiver.domain import callback, signature
from receiver.domain.api_key import derive, digest
from receiver.domain.callback_url import mask_bytes
from receiver.domain.submission import Submission
from receiver.ledger import Connection, Ledger, LedgerUnavailable
from receiver.ledger.access import api_keys
from receiver.ledger.access.api_keys import Key
from receiver.ledger.deliveries import resend
from receiver.ledger.submissions import records

TIMESTAMP_HEADER = "x-skyvern-timestamp"
# The 4xx that Skyvern retries; a caller's server may count on that.
RETRIED = frozenset({403, 408, 425, 429})
_MAX_ANSWER = 64 * 1024
# Seconds for the connection to a caller's server: one that drops packets holds a place no longer.
CONNECT_TIMEOUT = 5.0


class CallbackSink(Sink[SinkOptions]):
    """Posts to the URL that each caller gave. `master`: returns the secret that keys are derived from.

    `allowed`: private addresses that may be posted to. Those are what the operator listed, without the origin of
    Skyvern's API, which artifacts may come from: a self-hosted server may trust all calls from its own host.
    """

    def __init__(
        self,
        options: SinkOptions,
        services: Services,
        ledger: Ledger,
        master: Callable[[], str],
        allowed: Sequence[str],
    ) -> None:
        super().__init__(callback.CALLBACK, options, services)
        self._client = GuardedClient(allowed, timeout=options.timeout, connect_timeout=CONNECT_TIMEOUT)
        self._ledger = ledger
        self._master = master
        self._keys: dict[str, str] = {}

    def send(self, delivery: Delivery) -> Receipt:
        """Find the caller, and post the signed body. The receipt's id is the delivery's key, sent as webhook-id."""
        deadline = Deadline(self.options.timeout)
        try:
            submission, owner, target = self._ledger.read(lambda connection: _destination(connection, delivery))
        except LedgerUnavailable:
            why = "the ledger is unavailable, so the caller's webhook URL is not known"
            raise Unavailable(why, dependency=True) from None
        address = target or (submission.webhook_url if submission else "")
        if submission is None or not address or owner is None:
            raise Refused("no webhook was requested for this run")
        key = self._key(owner.id, owner.hash)
        try:
            url, authorization = split_userinfo(address.strip())
        except ValueError:
            raise Refused("the caller's webhook URL is invalid") from None
        # A server at a URL that was given with retry_webhook may not see the submission's own.
        body = mask_bytes(delivery.payload, {} if target else {submission.id: submission.webhook_url})
        now = time.time()
        headers = signed_headers(delivery.key, delivery.event_id, key, body, now) | {
            "x-runhook-submission-id": submission.id
        }
        if authorization:
            headers["authorization"] = authorization
        response = self._client.request(
            "POST", parse_url(url), content=body, headers=headers, deadline=deadline, max_answer=_MAX_ANSWER
        )
        with keep_response(response.body, url, {*credentials(authorization), key}):
            raise_for_status(response, now)
        return Receipt(delivery.key, note=f"answered {response.status}")

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
        self._ledger.close()

    def _key(self, key_id: str, key_hash: str) -> str:
        """Derive the caller's key. A wrong master secret must not sign: that would look like a forgery."""
        key = self._keys.get(key_id)
        if key is None:
            master = self._master()
            if not master:
                raise Unavailable("RUNHOOK_SECRET is not set here, so the caller's webhook can't be signed")
            key = derive(master, key_id)
            if digest(key) != key_hash:
                raise Unavailable("RUNHOOK_SECRET is another one here than where the caller's key was made")
            self._keys[key_id] = key
        return key


def _destination(connection: Connection, delivery: Delivery) -> tuple[Submission | None, Key | None, str]:
    """Return the run's submission, the key that signs, and the URL that was given with retry_webhook, or "".

    A URL is signed for with the key that gave it: the caller's key must not vouch for bodies sent to another party.
    """
    submission = records.of_run(connection, delivery.source, delivery.run_id)
    target, target_key = resend.target_of(connection, delivery.key)
    if target_key:
        return submission, api_keys.get(connection, target_key), target
    return submission, records.caller_of(connection, submission) if submission else None, target


def signed_headers(delivery_key: str, event: str, key: str, body: bytes, now: float) -> dict[str, str]:
    """Return the headers of a caller's webhook: Skyvern's, and Standard Webhooks'. `now`: seconds since the epoch."""
    timestamp = int(now)
    return {
        "content-type": "application/json",
        signature.HEADER: signature.sign(body, key),
        TIMESTAMP_HEADER: str(timestamp),
        "webhook-id": delivery_key,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": standard_signature(key.encode(), delivery_key, timestamp, body),
        "x-runhook-event-id": event,
    }


def raise_for_status(answer: Response, now: float) -> None:
    """Raise Refused or Unavailable unless the caller accepted."""
    status = answer.status
    if 200 <= status < 300:
        return
    if status >= 500 or status in RETRIED:
        raise Unavailable(f"the caller's server answered {status}", retry_after=retry_after(answer.headers, now))
    if 300 <= status < 400:
        raise Refused(f"the caller's server answered {status}; redirects are not followed")
    raise Refused(f"the caller's server answered {status}")
