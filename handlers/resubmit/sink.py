"""The sink `resubmit`: submits a failed run again, through Runhook's own submit API.

It calls the API over HTTP like any other app, so the new try is recorded, labelled, called back and polled like any
submission. A run is submitted again at most once, even with several events or replays: its id is the Idempotency-Key.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar, Final
from urllib.parse import quote, unquote

from pydantic import Field, SecretStr, field_validator

from handlers.contract import Delivery, Receipt, Refused, Services, Sink, SinkOptions, Unavailable
from handlers.resubmit.request import Changes, Request, build_request
from handlers.support.deadline import Deadline
from handlers.support.duration import Seconds
from handlers.support.excerpt import keep_response
from handlers.support.guarded_client import ANY_ADDRESS, GuardedClient, Response, parse_url
from handlers.support.resubmit_chain import CHAIN, RETRIED, TRY, next_labels, skip_reason
from handlers.support.retry_after import retry_after

SCOPES: Final = "submit, read and resubmit"
# The header that marks a Runhook response. Skyvern itself would drop the labels.
FROM_HEADER: Final = "x-runhook-from"
# The header with the first caller's webhook URL, which Skyvern does not know.
WEBHOOK_HEADER: Final = "x-runhook-webhook-url"
# The header with the submitted run, if the requested run is Skyvern's retry of it.
FIRST_HEADER: Final = "x-runhook-submitted-run"
# The header with the run that Skyvern started to retry the requested run.
RETRIED_BY_HEADER: Final = "x-runhook-retried-by"
# Maximum bytes read of a response: a run includes its output and its request.
MAX_ANSWER = 64 * 1024 * 1024

# 4xx statuses that a retry may resolve: a wrong key, too many calls, not yet.
_RETRYABLE = frozenset({401, 403, 408, 409, 425, 429})


class ResubmitOptions(SinkOptions):
    """Submits a failed run again, with changes, until its chain's budget is spent."""

    base_url: str = Field(description="Base URL of Runhook's submit API, such as http://127.0.0.1:8000.")
    key: SecretStr = Field(
        description="A Runhook key (rhk_…) with the scopes submit, read and resubmit, for the source of these runs."
    )
    budget: int = Field(2, ge=1, le=20, description="Maximum resubmissions over a run's chain of tries.")
    changes: dict[str, Any] = Field(
        default_factory=dict,
        description="Changed fields of the request, as a JSON merge patch; strings may be templates:"
        ' {max_steps: 50, title: "{{ run.title }} again"}. null omits a field.',
    )
    max_age: Seconds = Field(
        86_400.0,
        gt=0,
        description="Maximum age of a result to submit again: seconds, or such as 1d.",
    )
    # Without a url, Skyvern asks a language model for one before it answers a submit.
    timeout: Seconds = Field(90.0, gt=0, le=3600, description="Time that one send may take: seconds, or such as 90s.")

    @field_validator("base_url")
    @classmethod
    def _is_address(cls, value: str) -> str:
        try:
            url = parse_url(value.strip())
        except Refused as error:
            raise ValueError(f"{error}; right would be http://127.0.0.1:8000") from None
        if url.query or url.path.rstrip("/").endswith("/v1"):
            raise ValueError("must be the API's base URL, without /v1 and query: http://127.0.0.1:8000")
        return str(url).rstrip("/")

    @field_validator("key")
    @classmethod
    def _is_ours(cls, value: SecretStr) -> SecretStr:
        text = value.get_secret_value().strip()
        if not text.startswith("rhk_") or not text.isprintable() or not text.isascii():
            raise ValueError(
                "must be a key of Runhook's own, which begins with rhk_:"
                " runhook keys create resubmit --scope submit,read,resubmit"
            )
        return SecretStr(text)

    @field_validator("changes")
    @classmethod
    def _can_be_made(cls, value: dict[str, Any]) -> dict[str, Any]:
        if "labels" in value:
            raise ValueError("labels can't be changed: they are copied from the first submission")
        Changes(value)
        return {name: _hidden(item) if "headers" in name else item for name, item in value.items()}


def _hidden(value: Any) -> Any:
    """Return `value` with its strings as secrets, since headers carry credentials and options are printed."""
    if isinstance(value, dict):
        return {name: _hidden(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_hidden(item) for item in value]
    return SecretStr(value) if isinstance(value, str) else value


class ResubmitSink(Sink[ResubmitOptions]):
    """Submits with one API key. Connections stay open between deliveries."""

    Options: ClassVar[type[SinkOptions]] = ResubmitOptions
    shares_worker: ClassVar[bool] = True

    def __init__(self, name: str, options: ResubmitOptions, services: Services) -> None:
        super().__init__(name, options, services)
        self._host = parse_url(options.base_url).host
        self._key = options.key.get_secret_value()
        self._changes = Changes(options.changes)
        self._client = GuardedClient(ANY_ADDRESS, timeout=options.timeout)

    def send(self, delivery: Delivery) -> Receipt:
        """Submit the delivery's run again. The receipt's id is the new run's; its note gives the try's number.

        Without a resubmission, the receipt has the old run's id, and the note the reason.
        """
        deadline = Deadline(self.options.timeout)
        if delivery.test:
            return self._send_test(delivery, deadline)
        if delivery.problem or not delivery.run_id:
            raise Refused("the run's body could not be parsed, so there is no request to submit again")
        note = skip_reason(delivery, self.options.budget, self.options.max_age, datetime.now(UTC))
        if note:
            return Receipt(delivery.run_id, note=note)
        run, first, following = self._fetch_run(delivery, deadline)
        if following:
            return Receipt(delivery.run_id, note=f"Skyvern itself has started {following} for it: not submitted again")
        if run.get("status") not in RETRIED or run.get("retry_pending") is True:
            return Receipt(
                delivery.run_id, note="Skyvern reports by now that the run did not fail: not submitted again"
            )
        labels = next_labels(delivery, first)
        number = int(labels[TRY])
        request = build_request(run, delivery, self._changes, number, self._fetch_request(delivery, deadline))
        return self._submit(first, request, labels, number, deadline)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _fetch_run(self, delivery: Delivery, deadline: Deadline) -> tuple[dict[str, Any], str, str]:
        """Fetch the run from Skyvern: its current status, and its unmasked request.

        Returns it, the id of the submitted run (this one, or the first of a chain of Skyvern's retries), and the id of
        Skyvern's retry of this run, or "".
        """
        answer = self._call("GET", f"/v1/runs/{quote(delivery.run_id, safe='')}?from=skyvern", deadline)
        self._raise_for_status(answer)
        if FROM_HEADER not in answer.headers:
            raise Refused(f"{self._host} is not Runhook's submit API: labels, and so the count of tries, would be lost")
        run = _object(answer)
        webhook = answer.headers.get(WEBHOOK_HEADER)
        if webhook is not None and isinstance(run.get("run_request"), dict):
            run["run_request"]["webhook_url"] = unquote(webhook) or None
        first = unquote(answer.headers.get(FIRST_HEADER, "")) or delivery.run_id
        return run, first, unquote(answer.headers.get(RETRIED_BY_HEADER, ""))

    def _fetch_request(self, delivery: Delivery, deadline: Deadline) -> dict[str, Any] | None:
        """Fetch the run's stored request from Runhook. None if not submitted through it, or not stored."""
        answer = self._call("GET", f"/v1/runs/{quote(delivery.run_id, safe='')}?from=submission", deadline)
        if answer.status == 404:
            return None
        self._raise_for_status(answer)
        return _object(answer)

    def _submit(
        self, first: str, request: Request, labels: Mapping[str, str], number: int, deadline: Deadline
    ) -> Receipt:
        body = json.dumps({**request.fields, "labels": dict(labels)}, sort_keys=True).encode()
        once = "again-" + hashlib.sha256(first.encode("utf-8", "surrogatepass")).hexdigest()[:40]
        headers = {**request.headers, "idempotency-key": once}
        answer = self._call("POST", request.path, deadline, body, headers)
        self._raise_for_status(answer)
        run = _object(answer)
        run_id = run.get("run_id") or run.get("task_id") or run.get("workflow_run_id")  # older calls use the second
        link = run.get("app_url")
        if not isinstance(run_id, str) or not run_id:
            raise Unavailable(f"the response of {self._host} lacks the new run's id")
        note = f"try {number} of {self.options.budget + 1} since {labels[CHAIN]}"
        if "idempotent-replayed" in answer.headers:
            note += ", submitted before"
        submission = answer.headers.get("x-runhook-submission-id", "")
        urls = {"next try": link} if isinstance(link, str) and link.startswith(("http://", "https://")) else {}
        return Receipt(run_id, keys=(submission,) if submission else (), urls=urls, note=note)

    def _send_test(self, delivery: Delivery, deadline: Deadline) -> Receipt:
        """Check that a submit would be authorised, without creating a run: the API checks the key first."""
        self._raise_for_status(self._call("GET", "/v1/runs?page_size=1", deadline))
        answer = self._call("POST", "/v1/run/tasks", deadline, b'"runhook-test"')
        if answer.status != 422:
            self._raise_for_status(answer)
        return Receipt(
            delivery.run_id or delivery.key, note="only tested: the key may submit and read; no run was made"
        )

    def _call(
        self, method: str, path: str, deadline: Deadline, content: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Response:
        sent = {"x-api-key": self._key, "content-type": "application/json", **(headers or {})}
        url = self.options.base_url + path
        return self._client.request(
            method, url, content=content, headers=sent, deadline=deadline, max_answer=MAX_ANSWER
        )

    def _raise_for_status(self, answer: Response) -> None:
        """Raise Refused or Unavailable, with the response's detail, unless the call was accepted."""
        with keep_response(answer.body, "", [self._key]):
            self._check_status(answer)

    def _check_status(self, answer: Response) -> None:
        status = answer.status
        if 200 <= status < 300:
            return
        message = f"{self._host} answered {status}" + (f": {detail}" if (detail := _error_detail(answer)) else "")
        message = message.replace(self._key, "…")
        if status in (401, 403):
            message += f"; the key needs the scopes {SCOPES}"
        if status >= 500 or status in _RETRYABLE:
            raise Unavailable(message, retry_after=retry_after(answer.headers, time.time()))
        if 300 <= status < 400:
            raise Refused(f"{message}; redirects are not followed: set base_url to the final address")
        submission = answer.headers.get("x-runhook-submission-id")
        raise Refused(f"{message} ({submission})" if submission else message)


def _object(answer: Response) -> dict[str, Any]:
    if len(answer.body) >= MAX_ANSWER:
        raise Refused(f"the response has more than {MAX_ANSWER:,} bytes")
    try:
        value = json.loads(answer.body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise Unavailable("the response is not a JSON object")
    return value


def _error_detail(answer: Response) -> str:
    """Return the text of {"detail": text} or of a list of {loc, msg}, without its `input`; "" for another body."""
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
