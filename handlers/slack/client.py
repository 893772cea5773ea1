"""Call Slack: slack_sdk's clients without their redirects, retries, sleeps and logs, and its responses as errors.

    accepted      200 "ok" of a webhook, {"ok": true} of the API
    Unavailable   429 (with Slack's Retry-After), 5xx, timeouts, redirects, garbage, and everything that an operator
                  can fix without changing the delivery: a revoked webhook or token, a missing scope
    Refused       Slack read the message and will never take it as it is

This file knows no run and no message layout. No error it raises holds a URL, a token or a text.
"""

from __future__ import annotations

import json
import logging
import re
import ssl
import time
from collections.abc import Mapping
from functools import cache
from http.client import HTTPException
from typing import IO, Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, HTTPSHandler, OpenerDirector, Request, build_opener

from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError, SlackClientError
from slack_sdk.web.file_upload_v2_result import FileUploadV2Result
from slack_sdk.webhook import WebhookClient, WebhookResponse

from handlers.contract import Refused, SinkError, Unavailable
from handlers.support.retry_after import retry_after

# Bytes of a response; the largest that we ask for is a page of conversations.history with metadata.
MAX_RESPONSE = 8 * 1024 * 1024

# Slack understood the request, and the message is at fault. Any other error may pass, so it is retried.
REFUSALS = frozenset(
    """
    invalid_payload invalid_blocks invalid_blocks_format invalid_attachments no_text too_many_attachments
    too_many_blocks msg_too_long msg_blocks_too_long message_too_long attachment_payload_limit_exceeded
    markdown_text_conflict invalid_metadata_format invalid_metadata_schema metadata_too_large invalid_arguments
    invalid_array_arg invalid_form_data invalid_json json_not_object invalid_post_type missing_post_type
    """.split()  # noqa: SIM905 - a list of words is read more easily without quotes
)
# What an operator should do about the most common errors.
HINTS = {
    "no_service": "the webhook was revoked: make a new one and put it into the config",
    "no_service_id": "the webhook's address is not whole",
    "no_team": "the webhook's workspace is gone",
    "invalid_token": "the webhook's address is wrong or was revoked",
    "action_prohibited": "an administrator of the workspace forbids it",
    "posting_to_general_channel_denied": "an administrator forbids posts to that channel",
    "channel_is_archived": "the channel is archived",
    "is_archived": "the channel is archived",
    "channel_not_found": "no such channel, or the bot is not in it",
    "not_in_channel": "invite the bot to the channel",
    "invalid_auth": "the token is wrong",
    "not_authed": "the token is missing",
    "token_revoked": "the token was revoked",
    "token_expired": "the token has expired",
    "account_inactive": "the bot was removed from the workspace",
    "missing_scope": "the bot's token lacks a scope; docs/reference/sinks/slack.md lists them",
}
_CODE = re.compile(r"[a-z][a-z0-9_.]{1,60}")

# slack_sdk logs bodies and answers on the logger that it is given; this one drops everything.
_silent = logging.getLogger(f"{__name__}.silent")
_silent.setLevel(logging.CRITICAL + 1)


class ApiError(Unavailable):
    """Unavailable with Slack's error code in `code`, for a caller that has an alternative."""

    def __init__(self, message: str, code: str, *, retry_after: float | None = None) -> None:
        super().__init__(message, retry_after=retry_after)
        self.code = code


class _NoRedirect(HTTPRedirectHandler):
    """Refuses redirects: Slack sends none, so another server would get the text and the token."""

    def redirect_request(self, *_: object, **__: object) -> None:
        return None


@cache
def _opener() -> OpenerDirector:
    return build_opener(_NoRedirect(), HTTPSHandler(context=ssl.create_default_context()))


def _exchange(request: Request, deadline: float) -> tuple[int, dict[str, str], str]:
    """Send one request; return status, headers (names in lower case), body. Raises Unavailable on network errors."""
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise Unavailable("Slack did not answer in time")
    try:
        try:
            response: Any = _opener().open(request, timeout=remaining)
        except HTTPError as error:
            response = error
        with response:
            headers = {name.lower(): str(value) for name, value in response.headers.items()}
            return response.status, headers, _read(response, deadline).decode("utf-8", "replace")
    except TimeoutError:
        raise Unavailable("Slack did not answer in time") from None
    except (OSError, HTTPException) as error:
        cause = getattr(error, "reason", error)
        if isinstance(cause, TimeoutError):
            raise Unavailable("Slack did not answer in time") from None
        raise Unavailable(f"Slack can't be reached ({type(cause).__name__})") from None


def _read(response: IO[bytes], deadline: float) -> bytes:
    body = bytearray()
    read = getattr(response, "read1", response.read)
    while chunk := read(65536):
        body += chunk
        if len(body) > MAX_RESPONSE:
            raise Unavailable("Slack's answer is too large to be one")
        if time.monotonic() > deadline:
            raise TimeoutError
    return bytes(body)


class Webhook(WebhookClient):
    """An incoming webhook, made for one send. `deadline`: time.monotonic(), in seconds."""

    def __init__(self, url: str, deadline: float) -> None:
        super().__init__(url, retry_handlers=[], logger=_silent)
        self.deadline = deadline

    def _perform_http_request_internal(self, url: str, req: Request) -> WebhookResponse:
        status, headers, body = _exchange(req, self.deadline)
        return WebhookResponse(url=url, status_code=status, body=body, headers=headers)

    def post(self, message: Mapping[str, Any]) -> None:
        """Post `message`. Returns when Slack accepted it; raises Refused or Unavailable."""
        answer = self.send_dict(dict(message))
        body = answer.body.strip()
        if answer.status_code == 204 or (answer.status_code == 200 and _is_ok(body)):
            return
        if answer.status_code == 200:
            raise Unavailable("the webhook answered 200 but not as Slack does; is its address right?")
        raise failure(answer.status_code, answer.headers, body)


def _is_ok(body: str) -> bool:
    """Whether the body accepts: Slack says `ok`; compatible servers (Rocket.Chat, Zulip) say it in JSON."""
    if body.lower() == "ok":
        return True
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(said, dict) and (
        said.get("ok") is True or said.get("success") is True or said.get("result") == "success"
    )


class Api(WebClient):
    """The Web API with a bot token, made for one send. `deadline`: time.monotonic(), in seconds."""

    def __init__(self, token: str, base_url: str, deadline: float) -> None:
        super().__init__(token, base_url, retry_handlers=[], logger=_silent)
        self.deadline = deadline

    def _perform_urllib_http_request_internal(self, url: str, req: Request) -> dict[str, Any]:  # noqa: ARG002
        status, headers, body = _exchange(req, self.deadline)
        try:
            parsed = json.loads(body)
        except (ValueError, RecursionError):
            parsed = None
        if not isinstance(parsed, dict):
            parsed = {"ok": False, "error": ""}
        return {"status": status, "headers": headers, "body": body, "parsed_body": parsed}

    def remaining(self) -> float:
        """Return the seconds until the deadline; 0 when it is over."""
        return max(0.0, self.deadline - time.monotonic())

    def _upload_file(self, *, url: str, data: bytes, **__: Any) -> FileUploadV2Result:
        if urlsplit(url).scheme != urlsplit(self.base_url).scheme:
            raise Unavailable("Slack wants the file at an address that is not safe")
        headers = {"Content-Type": "application/octet-stream"}
        status, _, body = _exchange(Request(url, data, headers, method="POST"), self.deadline)  # noqa: S310
        return FileUploadV2Result(status=status, body=body)

    def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        """Call `method`, named as in slack_sdk. Raises Refused, or Unavailable (ApiError where Slack gave a code)."""
        try:
            answer = getattr(self, method)(**arguments)
        except SlackApiError as error:
            response: Any = error.response
            said = response.data if isinstance(response.data, dict) else {}
            raise failure(response.status_code, response.headers, str(said.get("error") or "")) from None
        except SlackClientError:
            raise Unavailable("Slack did not take the file") from None
        data: dict[str, Any] = answer.data
        return data


def failure(status: int, headers: Mapping[str, str], code: str) -> SinkError:
    """Return the error that a rejecting answer means. `code`: Slack's error code, or any body."""
    wait = retry_after(headers, time.time())
    known = code if _CODE.fullmatch(code) else ""
    said = f"Slack answered {status}" + (f" {known}" if known else "")
    if status == 429 or known in ("ratelimited", "rate_limited"):
        return ApiError(f"{said}: too many messages", known or "ratelimited", retry_after=wait)
    if 300 <= status < 400:
        return Unavailable(f"{said}: a redirect, which is not followed; is the address right?")
    if status >= 500 or status in (408, 425):
        return Unavailable(said, retry_after=wait)
    if known in REFUSALS or status in (413, 414, 431):
        return Refused(said)
    if status == 200 and not known:
        return Unavailable("Slack answered 200 but not as its API does; is the address right?")
    return ApiError(f"{said}: {HINTS[known]}" if known in HINTS else said, known)
