"""The sink `http`: one request for each delivery, signed as in Standard Webhooks (https://www.standardwebhooks.com).

The URL is the operator's, so it may be private; nothing of a payload becomes part of it. Redirects are never followed,
even if `success` accepts one: body and signature go only to the configured URL.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
import ssl
import time
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import quote, urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from handlers.contract import Delivery, Notification, Receipt, Refused, Services, Sink, SinkOptions, Unavailable
from handlers.support import templating
from handlers.support.deadline import Deadline
from handlers.support.excerpt import credentials, keep_response
from handlers.support.guarded_client import ANY_ADDRESS, GuardedClient, Response, default_tls, parse_url
from handlers.support.retry_after import RETRYABLE, retry_after
from handlers.support.url import split_userinfo

# Maximum bytes read of a response body: only the status counts.
MAX_ANSWER = 64 * 1024

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_RESERVED_HEADERS = frozenset({"host", "content-length", "transfer-encoding", "connection", "content-type"})


# A status code of a response, or a class of them.
Status = Annotated[int, Field(ge=200, le=599)] | Literal["2xx", "3xx", "4xx", "5xx"]


class HttpOptions(SinkOptions):
    """An HTTP request with the received body, or one from a template."""

    url: SecretStr = Field(description="URL to call, http:// or https://. Only its host is ever shown.")
    method: Literal["POST", "PUT", "PATCH"] = Field("POST", description="POST, PUT or PATCH.")
    secret: SecretStr | tuple[SecretStr, ...] | None = Field(
        None,
        description="Signs the request: whsec_… (base64) or any text. A list, while secrets are rotated: the request"
        " gets one signature per secret.",
    )
    headers: dict[str, SecretStr] = Field(default_factory=dict, description="More headers, such as authorization.")
    template: str | None = Field(
        None, description="Jinja2 template of the body: '{\"text\": {{ run.failure_reason | tojson }} }'."
    )
    success: tuple[Status, ...] = Field(
        ("2xx",),
        min_length=1,
        description="Status codes and classes that mean accepted, such as [2xx, 302]. A listed redirect counts as"
        " accepted and is never followed.",
    )
    content_type: str = Field(
        "application/json", pattern=r"^[\x21-\x7e][\x20-\x7e]*$", description="Content type of the body."
    )
    cert: Path | None = Field(
        None, description="Client certificate for mTLS, a PEM file; its key too, if `key` is not given."
    )
    key: Path | None = Field(None, description="Key of the client certificate, a PEM file.")
    key_password: SecretStr | None = Field(None, description="Password of the key.")
    ca: Path | None = Field(None, description="PEM file of CA certificates to trust instead of the default ones.")

    @field_validator("cert", "key", "key_password", "ca", mode="before")
    @classmethod
    def _empty_is_none(cls, value: Any) -> Any:
        """Convert "" to None, for "${CLIENT_CERT:-}"."""
        return None if value == "" else value

    @field_validator("url")
    @classmethod
    def _is_address(cls, value: SecretStr) -> SecretStr:
        text = value.get_secret_value().strip()
        try:
            parse_url(split_userinfo(text)[0])
        except (Refused, ValueError) as error:
            reason = str(error) if isinstance(error, Refused) else "not an address"
            raise ValueError(f"{reason}; right would be https://app.example/hooks/runs") from None
        return SecretStr(text)

    @field_validator("secret")
    @classmethod
    def _is_secret(cls, value: Any) -> Any:
        # An empty "${OLD_SECRET:-}" is dropped.
        kept = tuple(each for each in _as_tuple(value) if each.get_secret_value().strip())
        if value is not None and not kept:
            raise ValueError("is empty; leave it out if requests need no signature")
        for each in kept:
            signing_key(each.get_secret_value())
        return kept or None

    @field_validator("headers")
    @classmethod
    def _are_headers(cls, value: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, content in value.items():
            if not _HEADER_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is not a valid header name")
            if name.lower() in _RESERVED_HEADERS or name.lower().startswith(("webhook-", "runhook-")):
                raise ValueError(f"{name} is set by Runhook itself; for content-type use content_type")
            text = content.get_secret_value()
            if not text.isprintable() or not text.isascii():
                raise ValueError(f"the value of {name} has characters that are invalid in a header")
        return value

    @field_validator("template")
    @classmethod
    def _is_template(cls, value: str | None) -> str | None:
        if value is not None:
            templating.compile(value)
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> HttpOptions:
        if (self.key or self.key_password) and not self.cert:
            raise ValueError("key needs cert, the certificate that it belongs to")
        if (self.cert or self.ca) and not self.url.get_secret_value().lower().startswith("https:"):
            raise ValueError("cert and ca are for an https:// url")
        return self

    @property
    def signing_keys(self) -> tuple[bytes, ...]:
        """The signing keys, in the operator's order."""
        return tuple(signing_key(each.get_secret_value()) for each in _as_tuple(self.secret))


def _as_tuple(secret: SecretStr | tuple[SecretStr, ...] | None) -> tuple[SecretStr, ...]:
    return secret if isinstance(secret, tuple) else () if secret is None else (secret,)


def signing_key(secret: str) -> bytes:
    """Return the signing key of `secret`. Raises ValueError, whose message does not show the secret."""
    secret = secret.strip()
    if not secret.startswith("whsec_"):
        return secret.encode()
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("begins with whsec_, but the rest is not valid base64") from None
    if not key:
        raise ValueError("begins with whsec_, and nothing follows")
    return key


def sign(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """Return a signature for the header webhook-signature. `timestamp`: whole seconds since the epoch."""
    content = b".".join((message_id.encode(), str(timestamp).encode(), body))
    return "v1," + base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()


def raise_for_status(host: str, answer: Response, now: float, success: Collection[int | str]) -> None:
    """Raise Refused or Unavailable unless the status is in `success`. The message omits the response's body.

    `now`: epoch seconds. `success`: status codes and classes, such as 302 and "2xx".
    """
    status = answer.status
    if status in success or f"{status // 100}xx" in success:
        return
    if status >= 500 or status in RETRYABLE:
        raise Unavailable(f"{host} answered {status}", retry_after=retry_after(answer.headers, now))
    if 300 <= status < 400:
        try:
            target = urlsplit(answer.headers.get("location", "")).hostname
        except ValueError:
            target = None
        to = f" and redirects to {quote(target, safe='.:-')}" if target else ""
        raise Refused(
            f"{host} answered {status}{to}; redirects are not followed: write the last address into url, or add"
            f" {status} to success if it means accepted"
        )
    if status < 300:
        raise Refused(f"{host} answered {status}, which is not listed in success")
    raise Refused(f"{host} answered {status}" + (": the endpoint is gone" if status == 410 else ""))


class HttpSink(Sink[HttpOptions]):
    """Sends requests to one URL. Connections stay open between deliveries."""

    Options: ClassVar[type[SinkOptions]] = HttpOptions
    shares_worker: ClassVar[bool] = True
    notifies: ClassVar[bool] = True

    def __init__(self, name: str, options: HttpOptions, services: Services) -> None:
        super().__init__(name, options, services)
        url, basic = split_userinfo(options.url.get_secret_value())
        self._url = parse_url(url)
        self._headers = {name: value.get_secret_value() for name, value in options.headers.items()}
        if basic:
            self._headers.setdefault("authorization", basic)
        # Secrets that a server might echo.
        self._secrets = {secret for value in self._headers.values() for secret in credentials(value)}
        self._secrets.update(each.get_secret_value() for each in _as_tuple(options.secret))
        self._headers["content-type"] = options.content_type
        self._keys = options.signing_keys
        self._template = None if options.template is None else templating.compile(options.template)
        self._client = GuardedClient(ANY_ADDRESS, timeout=options.timeout, make_tls=self._tls)

    def send(self, delivery: Delivery) -> Receipt:
        """Post the signed body. The receipt's id is the delivery's key, which the receiver gets as webhook-id."""
        headers = {
            "runhook-event": delivery.event_id,
            "runhook-source": quote(delivery.source, errors="replace"),
            "runhook-outcome": quote(delivery.status[:200], errors="replace"),
        }
        if delivery.test:
            headers["runhook-test"] = "true"
        self._post(delivery.key, self._body(delivery), self._headers | headers)
        return Receipt(delivery.key)

    def notify(self, notification: Notification) -> None:
        """Post the notification as signed JSON, without the template, which is for runs."""
        members = {
            "type": f"runhook.{notification.kind}",
            "title": notification.title,
            "text": "\n".join(notification.lines),
            "link": notification.link,
            "urgent": notification.urgent,
            **notification.data,
        }
        headers = {**self._headers, "content-type": "application/json"}
        self._post(notification.key, json.dumps(members).encode(), headers)

    def _post(self, key: str, body: bytes, headers: dict[str, str]) -> None:
        """Send a signed request. Raises SinkError unless the response means accepted."""
        deadline, now = Deadline(self.options.timeout), time.time()
        headers = {**headers, **self._signed(key, int(now), body)}
        response = self._client.request(
            self.options.method, self._url, content=body, headers=headers, deadline=deadline, max_answer=MAX_ANSWER
        )
        with keep_response(response.body, str(self._url), self._secrets):
            raise_for_status(self._url.host, response, now, self.options.success)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _body(self, delivery: Delivery) -> bytes:
        if self._template is None:
            return delivery.payload
        text = self._template.render(templating.context_of(delivery))
        if "json" in self.options.content_type:
            try:
                json.loads(text)
            except (ValueError, RecursionError):
                raise Refused(
                    "the template does not produce JSON for this run; did you write {{ … | tojson }}?"
                ) from None
        return text.encode("utf-8", errors="replace")

    def _signed(self, key: str, timestamp: int, body: bytes) -> dict[str, str]:
        headers = {"webhook-id": key, "webhook-timestamp": str(timestamp)}
        if self._keys:
            headers["webhook-signature"] = " ".join(sign(each, key, timestamp, body) for each in self._keys)
        return headers

    def _tls(self) -> ssl.SSLContext:
        """Make the TLS context. Called at the first send: a host that only checks the config may lack its files."""
        options = self.options
        path = options.ca
        try:
            context = ssl.create_default_context(cafile=path) if path else default_tls()
            path = options.cert
            if path:
                password = options.key_password.get_secret_value() if options.key_password else ""
                context.load_cert_chain(path, options.key, lambda: password)  # "": never ask on a terminal
        except ssl.SSLError as error:
            raise Unavailable(
                f"{path} can't be used for TLS: {error.reason or 'no certificate, or no key that fits'}"
            ) from None
        except OSError as error:
            raise Unavailable(f"{error.filename or path} can't be read: {error.strerror}") from None
        return context
