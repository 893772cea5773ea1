"""The sink `notify`: a short notification by Apprise to Teams, Discord, e-mail, PagerDuty, …

Apprise (https://appriseit.com) is an extra: pip install 'runhook[notify]'. It seldom reports a reason, so every failure
is Unavailable. Its services have no idempotency keys: after a lost response, a notification may arrive twice. URLs that
accepted a delivery are skipped at later attempts in this process.
"""

from __future__ import annotations

import logging
import re
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SecretStr, field_validator, model_validator

from handlers.contract import Delivery, Notification, Receipt, Services, Sink, SinkOptions, Unavailable
from handlers.support import templating, wording

VARIABLES = templating.VARIABLES | wording.TEMPLATE_VARIABLES
TITLE_MAX = 250
BODY_MAX = 8000
REASON_MAX = 1500
LINKS_MAX = 12
# Deliveries whose accepting URLs this process remembers.
REMEMBERED = 5000

Kind = Literal["info", "success", "warning", "failure"]
KINDS: Mapping[str, Kind] = {
    "completed": "success",
    "failed": "failure",
    "terminated": "failure",
    "timed_out": "failure",
    "canceled": "warning",
}
_STATUS = re.compile(r"error=(\d{3})\b")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]{0,30}", re.IGNORECASE)


_Urls = Annotated[tuple[SecretStr, ...], Field(min_length=1, max_length=20)]


class NotifyOptions(SinkOptions):
    """The URLs to notify, and the text."""

    urls: _Urls = Field(
        description="One or more Apprise URLs (discord://…, msteams://…, mailto://…); each is a secret.",
    )
    title: str = Field("", description="Template of the title (Jinja, sandboxed). Default: the run's name and outcome.")
    body: str = Field("", description="Template of the body, plain text. Default: reason, duration, steps and links.")

    @field_validator("urls", mode="before", json_schema_input_type=SecretStr | _Urls)
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, (str, SecretStr)) else value

    @field_validator("urls")
    @classmethod
    def _are_apprise_urls(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for number, url in enumerate(value, 1):
            if _plugin(url.get_secret_value(), 4.0) is None:
                scheme, mark, _ = url.get_secret_value().partition("://")
                shown = f"{scheme}://…" if mark and _SCHEME.fullmatch(scheme) else "it"
                raise ValueError(f"number {number}: {shown} is not an Apprise URL; see https://appriseit.com/services")
        return value

    @model_validator(mode="after")
    def _templates_can_be_used(self) -> NotifyOptions:
        _compile(self)
        return self


def _compile(options: NotifyOptions) -> tuple[templating.Template | None, templating.Template | None]:
    """Compile the templates of title and body. Raises templating.TemplateError."""
    compiled = [
        templating.compile(source, name=name, variables=VARIABLES, finalize=_escaped, max_length=limit)
        if source
        else None
        for name, source, limit in (("title", options.title, 2000), ("body", options.body, BODY_MAX))
    ]
    return compiled[0], compiled[1]


def _escaped(value: Any) -> str:
    return _inert(wording.visible_text(templating.plain(value), BODY_MAX))


def _inert(text: str) -> str:
    """Return a payload's text without mentions, labelled links and images."""
    return wording.without_links(wording.without_mentions(text))


class NotifySink(Sink[NotifyOptions]):
    """Sends one notification for each delivery to each URL."""

    Options: ClassVar[type[SinkOptions]] = NotifyOptions
    notifies: ClassVar[bool] = True

    def __init__(self, name: str, options: NotifyOptions, services: Services) -> None:
        super().__init__(name, options, services)
        self._title, self._body = _compile(options)
        self._accepted: OrderedDict[str, set[int]] = OrderedDict()
        self._guard = threading.Lock()

    def send(self, delivery: Delivery) -> Receipt:
        """Notify every URL that has not accepted this delivery yet. The receipt's keys are the URLs' schemes."""
        title, body = self._text(delivery)
        self._notify_all(delivery.key, title, body, kind_of(delivery))
        return Receipt("notified", keys=tuple(map(_scheme, self.options.urls)))

    def notify(self, notification: Notification) -> None:
        """Notify every URL that has not accepted this notification yet."""
        body = "\n".join([*notification.lines, *([notification.link] if notification.link else [])])
        kind: Kind = "failure" if notification.urgent else "info"
        self._notify_all(notification.key, notification.title[:TITLE_MAX], _inert(body)[:BODY_MAX], kind)

    def _notify_all(self, key: str, title: str, body: str, kind: Kind) -> None:
        """Notify every URL that has not accepted the message `key` yet. Raises Unavailable if one does not."""
        deadline = time.monotonic() + self.options.timeout
        with self._guard:
            accepted = set(self._accepted.get(key, ()))
        failures = []
        for number, url in enumerate(self.options.urls):
            if number in accepted:
                continue
            failure = _notify(url.get_secret_value(), title, body, kind, deadline - time.monotonic())
            if failure:
                failures.append(f"{_scheme(url)} (number {number + 1}) {failure}")
            else:
                self._accept(key, number)
        if failures:
            raise Unavailable("; ".join(failures))

    def _accept(self, key: str, number: int) -> None:
        with self._guard:
            self._accepted.setdefault(key, set()).add(number)
            while len(self._accepted) > REMEMBERED:
                self._accepted.popitem(last=False)

    def _text(self, delivery: Delivery) -> tuple[str, str]:
        context = {**templating.context_of(delivery), **wording.template_context(delivery)}
        title = self._title.render(context) if self._title else _inert(wording.headline(delivery))
        body = self._body.render(context) if self._body else default_body(delivery)
        line = " ".join(title.split())
        return line[:TITLE_MAX], body.strip() or line


def kind_of(delivery: Delivery) -> Kind:
    """Return Apprise's notification type for the delivery's outcome."""
    if delivery.problem or delivery.run.get("retry_pending") is True:
        return "warning"
    return KINDS.get(delivery.status, "info")


def default_body(delivery: Delivery) -> str:
    """Return reason, facts and links as plain text, one on each line."""
    run = delivery.run
    lines = [wording.visible_text(wording.failure_reason(delivery), REASON_MAX)[:REASON_MAX].strip()]
    lines += [f"{code}: {text}".strip(": ")[:300] for code, text in wording.run_errors(delivery)[:5]]
    facts = [
        ("Duration", wording.run_duration(run)),
        ("Steps", wording.step_count(run)),
        ("Finished", wording.format_time(run.get("finished_at"))),
    ]
    lines.append(" · ".join(f"{name} {value}" for name, value in facts if value))
    app_url = wording.safe_url(run.get("app_url"))
    lines += [f"Open the run: {app_url}"] if app_url else []
    files = [(name, wording.safe_url(url)) for name, url in wording.stored_links(delivery) if wording.safe_url(url)]
    lines += [f"{name}: {url}" for name, url in files[:LINKS_MAX]]
    lines += [f"and {len(files) - LINKS_MAX} more"] if len(files) > LINKS_MAX else []
    lines += [f"Kept by {sink} as {place}" for sink, place in wording.stored_places(delivery)[:5]]
    lines += [
        f"The sink {sink} did not take this result." for sink, receipt in delivery.receipts.items() if receipt is None
    ]
    lines.append(" · ".join(part for part in (delivery.run_id, delivery.source, delivery.route) if part))
    text = "\n".join(wording.visible_text(line, wording.URL_MAX) for line in lines if line)
    return _inert(text)[:BODY_MAX]


def _notify(url: str, title: str, body: str, kind: Kind, seconds: float) -> str:
    """Notify one URL within `seconds`. Returns the error, or ""."""
    if seconds <= 0:
        return "was not reached in time"
    apprise = _apprise()
    plugin = _plugin(url, seconds)
    if plugin is None:
        return "is no longer an Apprise URL"
    service = apprise.Apprise()
    service.add(plugin)
    try:
        result = service.notify(body=body, title=title, notify_type=kind, body_format="text", timeout=seconds)
    except Exception as error:  # noqa: BLE001 - a plugin's bug; its message may hold the URL or the text
        return f"failed with {type(error).__name__}"
    if result:
        return ""
    if result.status == apprise.AppriseResultStatus.TIMEOUT:
        return "did not respond in time"
    status = next((match[1] for entry in result.logs() if (match := _STATUS.search(str(entry)))), "")
    return f"answered {status}" if status else "did not accept it"


def _plugin(url: str, seconds: float) -> Any:
    """Return Apprise's service for `url`, or None. Made for each send, since threads must not share its state."""
    apprise = _apprise()
    asset = apprise.AppriseAsset(http_redirects=False, storage_mode="memory", app_id="Runhook", app_url="")
    asset.async_mode = False
    plugin = apprise.Apprise.instantiate(url, asset=asset, suppress_exceptions=True)
    if plugin is not None:
        plugin.socket_connect_timeout = min(plugin.socket_connect_timeout or seconds, seconds)
        plugin.socket_read_timeout = seconds
    return plugin


@cache
def _apprise() -> Any:
    """Import the library at first use: it is an extra, and takes 0.2 s. Raises ValueError without it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from imports of its plugins
        try:
            import apprise
        except ImportError:
            raise ValueError("needs the package apprise: pip install 'runhook[notify]'") from None
        apprise.Apprise.instantiate("json://localhost")  # import the plugins
    # It logs URLs and texts; what fails is reported by the errors here.
    logging.getLogger("apprise").propagate = False
    logging.getLogger("apprise").addHandler(logging.NullHandler())
    return apprise


def _scheme(url: SecretStr) -> str:
    return url.get_secret_value().partition("://")[0].lower()
