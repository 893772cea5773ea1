"""The sink `slack`: one message for one delivery, by incoming webhook or by bot token.

It chooses the calls and their order. blocks.py builds the message, client.py translates the responses.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import ClassVar

from pydantic import Field, SecretStr, field_validator, model_validator

from handlers.contract import Delivery, Notification, Receipt, Refused, Services, Sink, SinkOptions
from handlers.slack.blocks import ALL_LINKS, ALL_PARTS, LinkTo, MessagePart, build, build_notification
from handlers.slack.client import Api, Webhook
from handlers.slack.incidents import ThreadBy, topic_of
from handlers.slack.screenshot import ScreenshotUploader, linked_artifacts
from handlers.slack.templates import ShortTemplate, Templates, When
from handlers.slack.threads import CHANNEL_ID, ThreadPoster, WebhookPoster
from handlers.support.address_policy import literal_addresses
from handlers.support.deadline import Deadline
from handlers.support.duration import Seconds
from handlers.support.guarded_client import ANY_ADDRESS, GuardedClient, parse_url


class SlackOptions(SinkOptions):
    """An incoming webhook (`webhook_url`), or a bot (`token` and `channel`)."""

    webhook_url: SecretStr | None = Field(
        None, description="URL of an incoming webhook, https://hooks.slack.com/services/…"
    )
    token: SecretStr | None = Field(None, description="Bot token (xoxb-…); needs the scope chat:write.")
    channel: str | None = Field(None, min_length=1, description="Channel for the bot: its id (C…) or #name.")
    api_url: str = Field("https://slack.com/api/", description="Base of Slack's Web API.")
    show: tuple[MessagePart, ...] = Field(ALL_PARTS, description="Sections of a message under its headline.")
    link_to: tuple[LinkTo, ...] = Field(
        ALL_LINKS,
        description="Links to show: the run in Skyvern, files stored by sinks in `after`; without any, the sender's"
        " signed links, which expire.",
    )

    templates: dict[When, ShortTemplate] = Field(
        default_factory=dict, description="Templates by outcome: a body, or {title, body}; Jinja, sandboxed."
    )
    thread: ThreadBy = Field(
        "none",
        description="run: later messages of a run reply to its first. incident: runs of a workflow that fail for the"
        " same reason are counted in one reply to the first.",
    )
    screenshot: bool = Field(True, description="With a bot token: add the run's final screenshot (scope files:write).")
    window: Seconds = Field(
        3600.0,
        ge=60,
        le=7 * 86400,
        description="Duration of an incident from its first message: seconds, or such as 1h.",
    )

    @field_validator("webhook_url")
    @classmethod
    def _webhook_is_safe(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            _check_address(value.get_secret_value(), "https://hooks.slack.com/services/…")
        return value

    @field_validator("api_url")
    @classmethod
    def _api_is_safe(cls, value: str) -> str:
        _check_address(value, "https://slack.com/api/")
        return value

    @model_validator(mode="after")
    def _one_way(self) -> SlackOptions:
        if (self.webhook_url is None) == (self.token is None):
            raise ValueError("needs either webhook_url, or token and channel")
        if self.token is not None and not self.channel:
            raise ValueError("token needs channel: the id (C…) or #name of the channel to post to")
        if self.webhook_url is not None and self.channel is not None:
            raise ValueError("channel needs token; a webhook always posts to its own channel")
        if self.webhook_url is not None and self.thread == "run":
            raise ValueError("thread: run needs a bot token; a webhook can't reply to a message")
        if self.token is not None and self.thread != "none" and not CHANNEL_ID.fullmatch(self.channel or ""):
            raise ValueError(
                "thread needs the channel's id (C…), which Slack shows at the end of the channel's details"
            )
        if self.token is not None and not self.token.get_secret_value().strip().isprintable():
            raise ValueError("token has invalid characters")
        return self


def _check_address(url: str, like: str) -> None:
    """Raise ValueError, which does not quote the URL, for a URL that must not receive a secret."""
    try:
        parts = parse_url(url)
    except Refused:
        raise ValueError(f"must be an address like {like}") from None
    if not url.isascii() or " " in url:
        raise ValueError(f"must be an address like {like}")
    addresses = literal_addresses(parts.host)
    if parts.scheme == "http" and not (addresses and all(address.is_loopback for address in addresses)):
        raise ValueError(f"must begin with https://, because it carries a secret; it looks like {like}")


class SlackSink(Sink[SlackOptions]):
    """Messages to one Slack channel."""

    Options: ClassVar[type[SinkOptions]] = SlackOptions
    shares_worker: ClassVar[bool] = True
    notifies: ClassVar[bool] = True

    def __init__(self, name: str, options: SlackOptions, services: Services) -> None:
        super().__init__(name, options, services)
        self._templates = Templates(options.templates)
        self._thread_poster = ThreadPoster(options.channel or "")
        self._webhook_poster = WebhookPoster()
        self._screenshots = ScreenshotUploader(services, options.timeout)
        self._http = GuardedClient(ANY_ADDRESS, timeout=options.timeout)

    def send(self, delivery: Delivery) -> Receipt:
        """Post the message. The receipt's id is the message's timestamp, or "webhook", since a webhook returns none."""
        now = time.time()
        show, link_to = self.options.show, self.options.link_to
        signed = linked_artifacts(delivery.run) if "signed" in link_to else ()
        message = build(delivery, *self._templates.words(delivery), signed, show=show, link_to=link_to)
        topic = topic_of(delivery, self.options.thread, self.options.window, now)
        if self.options.webhook_url is not None:
            return self._webhook_poster.post(self._hook(), message, topic, now)
        api = self._api()
        receipt, thread = self._thread_poster.post(api, delivery, message, topic)
        if not (thread and self.options.screenshot):
            return receipt
        failure = self._screenshots.upload(api, delivery, self._thread_poster.channel, thread)
        return replace(receipt, note="; ".join(filter(None, (receipt.note, failure))))

    def notify(self, notification: Notification) -> None:
        """Post the notification, in no thread."""
        message = build_notification(notification).to_dict()
        if self.options.webhook_url is not None:
            self._hook().post(message)
        else:
            self._api().call("chat.postMessage", channel=self.options.channel, **message)

    def check(self) -> str:
        """Ask Slack for the token's owner. A webhook can't be tested without posting."""
        if self.options.token is None:
            return ""
        who = self._api().call("auth.test")
        return f"Slack knows the token, of {who.get('user', '?')} in {who.get('team', '?')}"

    def close(self) -> None:
        """Close the connections."""
        self._screenshots.close()
        self._http.close()

    def _hook(self) -> Webhook:
        """Return the webhook for one send, and start its deadline."""
        assert self.options.webhook_url is not None
        return Webhook(self._http, self.options.webhook_url.get_secret_value(), Deadline(self.options.timeout))

    def _api(self) -> Api:
        """Return the API for one send, and start its deadline."""
        assert self.options.token is not None
        deadline = Deadline(self.options.timeout)
        return Api(self._http, self.options.token.get_secret_value(), self.options.api_url, deadline)
