"""The sink `queue`: runs for programs that pull messages. Each kind of queue has its own file."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from handlers.contract import BatchSink, Delivery, Receipt, Services, SinkOptions
from handlers.queue.message import QueueMessage, as_bytes, as_text
from handlers.support.duration import Seconds

if TYPE_CHECKING:
    from handlers.queue.aws import AwsQueue
    from handlers.queue.redis_stream import RedisStream

To = Literal["redis-stream", "sqs", "sns"]

_AWS = ("region", "endpoint_url", "access_key_id", "secret_access_key", "max_bytes")
_OPTIONS_OF: dict[str, tuple[str, ...]] = {
    "redis-stream": ("url", "stream", "max_len", "once_for"),
    "sqs": ("queue_url", *_AWS),
    "sns": ("topic_arn", *_AWS),
}
_REQUIRED: dict[str, tuple[str, str]] = {
    "redis-stream": ("url", "redis://HOST:6379/0"),
    "sqs": ("queue_url", "https://sqs.REGION.amazonaws.com/ACCOUNT/NAME"),
    "sns": ("topic_arn", "arn:aws:sns:REGION:ACCOUNT:NAME"),
}
_ARN = re.compile(r"arn:[a-z-]+:sns:([a-z0-9-]+):\d*:[A-Za-z0-9_-]{1,256}(\.fifo)?")
_SQS_HOST = re.compile(r"(?:sqs[.-])?([a-z]{2}(?:-[a-z]+)+-\d)\.")


class QueueOptions(SinkOptions):
    """The kind of queue (`to`), and its address."""

    to: To = Field(description="Kind of queue: redis-stream, sqs or sns.")
    url: SecretStr | None = Field(None, description="redis-stream: redis://, rediss:// or unix:// address.")
    stream: str = Field("runhook:runs", min_length=1, max_length=500, description="redis-stream: name of the stream.")
    max_len: int = Field(
        0, ge=0, description="redis-stream: approximate maximum of entries; the oldest are removed; 0 keeps all."
    )
    once_for: Seconds = Field(
        7 * 86400.0,
        ge=60,
        description="redis-stream: time in which a delivery is never added twice: seconds, or such as 7d.",
    )
    queue_url: str | None = Field(None, description="sqs: URL of the queue; .fifo keeps a run's messages in order.")
    topic_arn: str | None = Field(None, description="sns: ARN of the topic; .fifo keeps a run's messages in order.")
    region: str | None = Field(None, description="sqs, sns: AWS region, if it is not in the address.")
    endpoint_url: str | None = Field(None, description="sqs, sns: address of a server other than AWS's.")
    max_bytes: int = Field(
        256 * 1024,
        ge=8192,
        le=1024 * 1024,
        description="sqs, sns: maximum message in bytes; a larger body is replaced by a short one.",
    )
    access_key_id: SecretStr | None = Field(None, description="sqs, sns: access key; default: AWS's credential chain.")
    secret_access_key: SecretStr | None = Field(None, description="sqs, sns: the access key's secret.")

    @field_validator("access_key_id", "secret_access_key", mode="before")
    @classmethod
    def _empty_is_none(cls, value: Any) -> Any:
        """Convert "" to None, for "${QUEUE_KEY:-}"."""
        return None if value == "" else value

    @model_validator(mode="after")
    def _fits_together(self) -> QueueOptions:
        needed, like = _REQUIRED[self.to]
        if not getattr(self, needed):
            raise ValueError(f"to: {self.to} needs {needed}, such as {like}")
        foreign = sorted((self.model_fields_set - {"to", "timeout"}) - set(_OPTIONS_OF[self.to]))
        foreign = [name for name in foreign if getattr(self, name) is not None]
        if foreign:
            raise ValueError(
                f"{foreign[0]} does not go with to: {self.to}, which takes {', '.join(_OPTIONS_OF[self.to])}"
            )
        if self.to == "redis-stream":
            _check_redis(self)
        else:
            _check_aws(self)
        return self


def _check_redis(options: QueueOptions) -> None:
    assert options.url is not None
    try:
        parts = urlsplit(options.url.get_secret_value())
        _ = parts.port
    except ValueError:
        raise ValueError("url is not a valid address: it looks like redis://HOST:6379/0") from None
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise ValueError("url must begin with redis://, rediss:// or unix://")
    if not options.stream.isprintable() or any(mark in options.stream for mark in "{}"):
        raise ValueError("stream must not contain braces or control characters")


def _check_aws(options: QueueOptions) -> None:
    if options.to == "sns" and not _ARN.fullmatch(options.topic_arn or ""):
        raise ValueError("topic_arn is not the ARN of a topic: it looks like arn:aws:sns:REGION:ACCOUNT:NAME")
    for name in ("queue_url", "endpoint_url"):
        url = getattr(options, name)
        if url is None:
            continue
        try:
            parts = urlsplit(url)
            good = parts.scheme in ("http", "https") and bool(parts.hostname) and url.isprintable() and "@" not in url
        except ValueError:
            good = False
        if not good:
            raise ValueError(f"{name} must be an http(s) address without a user name")
    if (options.access_key_id is None) != (options.secret_access_key is None):
        raise ValueError("access_key_id and secret_access_key require each other")
    if options.to == "sqs" and region_of(options) is None:
        raise ValueError("region is needed: it is not in the queue's address")


def region_of(options: QueueOptions) -> str | None:
    """Return the AWS region from the option or the address, or None."""
    if options.region:
        return options.region
    arn = _ARN.fullmatch(options.topic_arn or "")
    if arn:
        return arn[1]
    host = _SQS_HOST.match(urlsplit(options.queue_url or "").hostname or "")
    return host[1] if host else None


class QueueSink(BatchSink[QueueOptions]):
    """Puts one message for each delivery into a queue."""

    Options: ClassVar[type[SinkOptions]] = QueueOptions
    shares_worker: ClassVar[bool] = True
    batch_size: ClassVar[int] = 100

    def __init__(self, name: str, options: QueueOptions, services: Services) -> None:
        super().__init__(name, options, services)
        self._backend, self._message = _build_backend(options)

    def send_many(self, deliveries: Sequence[Delivery]) -> list[Receipt | Exception]:
        """Put the messages into the queue, in as few calls as possible. A receipt's id is the queue's id."""
        if not deliveries:
            return []
        return list(self._backend.put([self._message(delivery) for delivery in deliveries]))

    def close(self) -> None:
        """Close the connections."""
        self._backend.close()


def _build_backend(options: QueueOptions) -> tuple[RedisStream | AwsQueue, Callable[[Delivery], QueueMessage]]:
    if options.to == "redis-stream":
        from handlers.queue.redis_stream import RedisStream

        assert options.url is not None
        url = options.url.get_secret_value()
        return RedisStream(url, options.stream, options.max_len, int(options.once_for), options.timeout), as_bytes
    from handlers.queue.aws import SNS, SQS, AwsQueue

    client_options = {
        "region_name": region_of(options),
        "endpoint_url": options.endpoint_url,
        "aws_access_key_id": options.access_key_id,
        "aws_secret_access_key": options.secret_access_key,
    }
    limit, api = options.max_bytes, SQS if options.to == "sqs" else SNS
    backend = AwsQueue(api, options.queue_url or options.topic_arn or "", client_options, limit, options.timeout)
    return backend, lambda delivery: as_text(delivery, limit)
