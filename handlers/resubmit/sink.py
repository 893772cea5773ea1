"""The sink `resubmit`: asks Runhook's own submit API for a failed run once more.

It goes by HTTP like any other app, so the new try is written down first, labelled, called back and polled as any
submission is; this file knows nothing of how that is done. One run is submitted again at most once, however many events
it has and however often a delivery is replayed: its id is the Idempotency-Key.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar, Final
from urllib.parse import quote, unquote

from handlers.contract import Delivery, Receipt, Refused, Services, Sink, SinkOptions, Unavailable
from handlers.resubmit.options import ResubmitOptions
from handlers.resubmit.request import Changes, Request, rebuilt
from handlers.support.guarded_client import Deadline, GuardedClient, Response, parse_url
from handlers.support.resubmit_chain import CHAIN, RETRIED, TRY, next_labels, skip_reason
from handlers.support.retry_after import retry_after

SCOPES: Final = "submit, read and resubmit"
FROM: Final = "x-runhook-from"
"""The header by which an answer shows that Runhook gave it, and not Skyvern, which would lose the labels."""
WEBHOOK: Final = "x-runhook-webhook-url"
"""The header that tells the webhook which the first caller wanted, whatever Skyvern was told."""
MAX_ANSWER = 64 * 1024 * 1024
"""Bytes of an answer that are read: a run tells all of its output beside its request."""

_ANYWHERE = ("0.0.0.0/0", "::/0")
_LATER = frozenset({401, 403, 408, 409, 425, 429})
"""The 4xx that say nothing against the request: a key that an operator can put right, too many calls, not yet."""


class ResubmitSink(Sink[ResubmitOptions]):
    """Submits of one key. Connections are kept open between deliveries."""

    Options: ClassVar[type[SinkOptions]] = ResubmitOptions

    def __init__(self, name: str, options: ResubmitOptions, services: Services) -> None:
        super().__init__(name, options, services)
        self._host = parse_url(options.base_url).host
        self._key = options.key.get_secret_value()
        self._changes = Changes(options.changes)
        self._client: GuardedClient | None = None
        self._opening = threading.Lock()

    def send(self, delivery: Delivery) -> Receipt:
        """Submit the delivery's run again. The receipt's id is the new run's; its note says which try that is.

        Where there is nothing to submit the receipt has the old run's id, and the note says why.
        """
        deadline = Deadline(self.options.timeout)
        if delivery.test:
            return self._try_out(delivery, deadline)
        if delivery.problem or not delivery.run_id:
            raise Refused("the run's body is not understood, so nothing is known to submit again")
        note = skip_reason(delivery, self.options.budget, self.options.max_age, datetime.now(UTC))
        if note:
            return Receipt(delivery.run_id, note=note)
        said = self._run(delivery, deadline)
        if said.get("status") not in RETRIED or said.get("retry_pending") is True:
            return Receipt(delivery.run_id, note="Skyvern says by now that the run is no failure: not submitted again")
        labels = next_labels(delivery)
        number = int(labels[TRY])
        request = rebuilt(said, delivery, self._changes, number)
        return self._submit(delivery, request, labels, number, deadline)

    def close(self) -> None:
        """Close the connections."""
        with self._opening:
            if self._client is not None:
                self._client.close()
            self._client = None

    def _run(self, delivery: Delivery, deadline: Deadline) -> dict[str, Any]:
        """The run as Skyvern tells it: the ledger's own body has no request for most kinds of runs, or a masked one."""
        answer = self._call("GET", f"/v1/runs/{quote(delivery.run_id, safe='')}?from=skyvern", deadline)
        self._judge(answer)
        if FROM not in answer.headers:
            raise Refused(
                f"{self._host} is no submit API of Runhook: labels would be lost, and with them the count of tries"
            )
        said = _object(answer)
        webhook = answer.headers.get(WEBHOOK)
        if webhook is not None and isinstance(said.get("run_request"), dict):
            said["run_request"]["webhook_url"] = unquote(webhook) or None
        return said

    def _submit(
        self, delivery: Delivery, request: Request, labels: Mapping[str, str], number: int, deadline: Deadline
    ) -> Receipt:
        body = json.dumps({**request.fields, "labels": dict(labels)}, sort_keys=True).encode()
        once = "again-" + hashlib.sha256(delivery.run_id.encode("utf-8", "surrogatepass")).hexdigest()[:40]
        headers = {**request.headers, "idempotency-key": once}
        answer = self._call("POST", request.path, deadline, body, headers)
        self._judge(answer)
        run = _object(answer)
        run_id, link = run.get("run_id"), run.get("app_url")
        if not isinstance(run_id, str) or not run_id:
            raise Unavailable(f"{self._host} answered without the new run's id")
        note = f"try {number} of {self.options.budget + 1} since {labels[CHAIN]}"
        if "idempotent-replayed" in answer.headers:
            note += ", submitted before"
        submission = answer.headers.get("x-runhook-submission-id", "")
        urls = {"next try": link} if isinstance(link, str) and link.startswith(("http://", "https://")) else {}
        return Receipt(run_id, keys=(submission,) if submission else (), urls=urls, note=note)

    def _try_out(self, delivery: Delivery, deadline: Deadline) -> Receipt:
        """Whether a submit would be let in, without making a run: what is no request is refused after the key."""
        self._judge(self._call("GET", "/v1/runs?page_size=1", deadline))
        answer = self._call("POST", "/v1/run/tasks", deadline, b'"runhook-test"')
        if answer.status != 422:
            self._judge(answer)
        return Receipt(
            delivery.run_id or delivery.key, note="only tested: the key may submit and read; no run was made"
        )

    def _call(
        self, method: str, path: str, deadline: Deadline, content: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Response:
        sent = {"x-api-key": self._key, "content-type": "application/json", **(headers or {})}
        url = self.options.base_url + path
        return self._open().request(
            method, url, content=content, headers=sent, deadline=deadline, max_answer=MAX_ANSWER
        )

    def _judge(self, answer: Response) -> None:
        """Return when the call was accepted; raises Refused or Unavailable, with the words of the answer."""
        status = answer.status
        if 200 <= status < 300:
            return
        said = f"{self._host} answered {status}" + (f": {words}" if (words := _words(answer)) else "")
        said = said.replace(self._key, "…")
        if status in (401, 403):
            said += f"; the key needs the scopes {SCOPES}"
        if status >= 500 or status in _LATER:
            raise Unavailable(said, retry_after=retry_after(answer.headers, time.time()))
        if 300 <= status < 400:
            raise Refused(f"{said}; redirects are not followed: write the last address into base_url")
        submission = answer.headers.get("x-runhook-submission-id")
        raise Refused(f"{said} ({submission})" if submission else said)

    def _open(self) -> GuardedClient:
        with self._opening:
            if self._client is None:
                self._client = GuardedClient(_ANYWHERE, timeout=self.options.timeout)
            return self._client


def _object(answer: Response) -> dict[str, Any]:
    if len(answer.body) >= MAX_ANSWER:
        raise Refused(f"the run is told in more than {MAX_ANSWER:,} bytes")
    try:
        found = json.loads(answer.body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Unavailable("the answer is no JSON object")
    return found


def _words(answer: Response) -> str:
    """What an error in Skyvern's shape says: {"detail": text}, or a list of {loc, msg}, of which no input is shown."""
    try:
        detail = json.loads(answer.body)["detail"]
    except (ValueError, RecursionError, TypeError, KeyError):
        return ""
    if isinstance(detail, list):
        detail = "; ".join(
            ".".join(map(str, each.get("loc", [])[1:])) + ": " + str(each.get("msg", ""))
            for each in detail
            if isinstance(each, dict) and isinstance(each.get("loc", []), list)
        )
    if not isinstance(detail, str):
        return ""
    text = " ".join(detail.split())[:300]
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
