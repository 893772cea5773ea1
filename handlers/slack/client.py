"""Call Slack over HTTP, and translate its responses into errors.

    accepted      200 "ok" of a webhook, {"ok": true} of the API
    Unavailable   429 (with Slack's Retry-After), 5xx, timeouts, redirects, garbage, and all that an operator can fix
                  without changing the delivery: a revoked webhook or token, a missing scope
    Refused       Slack read the message and will never accept it

This file knows no runs or message layouts. Its errors contain no URL, token or text.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

from handlers.contract import Refused, SinkError, Unavailable
from handlers.support.deadline import Deadline
from handlers.support.excerpt import keep_response
from handlers.support.guarded_client import GuardedClient
from handlers.support.retry_after import retry_after

# Maximum bytes of a response; the largest is a page of conversations.history with metadata.
MAX_RESPONSE = 8 * 1024 * 1024

# Errors caused by the message. Others may be temporary, so they are retried.
REFUSALS = frozenset(
    """
    invalid_payload invalid_blocks invalid_blocks_format invalid_attachments no_text too_many_attachments
    too_many_blocks msg_too_long msg_blocks_too_long message_too_long attachment_payload_limit_exceeded
    markdown_text_conflict invalid_metadata_format invalid_metadata_schema metadata_too_large invalid_arguments
    invalid_array_arg invalid_form_data invalid_json json_not_object invalid_post_type missing_post_type
    """.split()  # noqa: SIM905 - a list of words is read more easily without quotes
)
# Remedies for common errors.
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


class ApiError(Unavailable):
    """Unavailable with Slack's error code in `code`, for callers with a fallback."""

    def __init__(self, message: str, code: str, *, retry_after: float | None = None) -> None:
        super().__init__(message, retry_after=retry_after)
        self.code = code


@dataclass(frozen=True, slots=True)
class Webhook:
    """An incoming webhook, for one send. `deadline`: when the send must end."""

    http: GuardedClient
    url: str
    deadline: Deadline

    def post(self, message: Mapping[str, Any]) -> None:
        """Post `message`. Returns when Slack accepted it; raises Refused or Unavailable."""
        headers = {"content-type": "application/json"}
        answer = self.http.request(
            "POST", self.url, content=json.dumps(message).encode(), headers=headers, deadline=self.deadline
        )
        body = answer.body.decode(errors="replace").strip()
        if answer.status == 204 or (answer.status == 200 and _is_ok(body)):
            return
        with keep_response(answer.body, self.url):
            if answer.status == 200:
                raise Unavailable("the webhook responded 200 but not like Slack; is its address right?")
            raise failure(answer.status, answer.headers, body)


def _is_ok(body: str) -> bool:
    """Whether the body means accepted: `ok` from Slack; JSON from compatible servers (Rocket.Chat, Zulip)."""
    answer = _parsed(body)
    accepted = answer.get("ok") is True or answer.get("success") is True or answer.get("result") == "success"
    return accepted or body.lower() == "ok"


def _parsed(body: str | bytes) -> dict[str, Any]:
    """Return the JSON object in `body`; {} for anything else."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


@dataclass(frozen=True, slots=True)
class Api:
    """The Web API with a bot token, for one send. `deadline`: when the send must end."""

    http: GuardedClient
    token: str
    base_url: str
    deadline: Deadline

    def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        """Call `method`, such as chat.postMessage. Raises Refused or Unavailable (ApiError if Slack gave a code).

        Nested arguments are sent as JSON; methods without them accept only forms.
        """
        if any(isinstance(value, (Mapping, list)) for value in arguments.values()):
            kind, content = "application/json; charset=utf-8", json.dumps(arguments)
        else:
            kind, content = "application/x-www-form-urlencoded", urlencode(arguments)
        answer = self.http.request(
            "POST",
            f"{self.base_url.rstrip('/')}/{method}",
            content=content.encode(),
            headers={"authorization": f"Bearer {self.token}", "content-type": kind},
            deadline=self.deadline,
            max_answer=MAX_RESPONSE,
        )
        result = _parsed(answer.body)
        if answer.status == 200 and result.get("ok") is True:
            return result
        with keep_response(answer.body, "", [self.token]):
            raise failure(answer.status, answer.headers, str(result.get("error") or ""))

    def upload(self, content: bytes, name: str, channel: str, thread: str, *, title: str, alt_text: str) -> None:
        """Post a file into a thread. Raises Refused or Unavailable."""
        place = self.call("files.getUploadURLExternal", filename=name, length=len(content), alt_txt=alt_text)
        url = str(place.get("upload_url"))
        if urlsplit(url).scheme != urlsplit(self.base_url).scheme:
            raise Unavailable("Slack returned an unsafe upload address")
        headers = {"content-type": "application/octet-stream"}
        if self.http.request("POST", url, content=content, headers=headers, deadline=self.deadline).status != 200:
            raise Unavailable("Slack did not accept the file")
        files = [{"id": place.get("file_id"), "title": title}]
        self.call("files.completeUploadExternal", files=files, channel_id=channel, thread_ts=thread)


def failure(status: int, headers: Mapping[str, str], code: str) -> SinkError:
    """Return the error for a rejecting response. `code`: Slack's error code, or any body."""
    wait = retry_after(headers, time.time())
    known = code if _CODE.fullmatch(code) else ""
    message = f"Slack answered {status}" + (f" {known}" if known else "")
    if status == 429 or known in ("ratelimited", "rate_limited"):
        return ApiError(f"{message}: too many messages", known or "ratelimited", retry_after=wait)
    if 300 <= status < 400:
        return Unavailable(f"{message}: redirects are not followed; is the address right?")
    if status >= 500 or status in (408, 425):
        return Unavailable(message, retry_after=wait)
    if known in REFUSALS or status in (413, 414, 431):
        return Refused(message)
    if status == 200 and not known:
        return Unavailable("the response 200 is not from Slack's API; is the address right?")
    return ApiError(f"{message}: {HINTS[known]}" if known in HINTS else message, known)
