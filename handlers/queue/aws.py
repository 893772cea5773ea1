"""SQS and SNS through boto3, ten messages per request.

A FIFO queue or topic gets the delivery's key as its deduplication id: AWS drops the same key for five minutes. Others
are at least once. This module knows messages, and no delivery or run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from handlers.contract import Receipt, Refused, SinkError, Unavailable
from handlers.queue.message import QueueMessage, size

# Maximum messages of one request.
BATCH = 10

_REFUSALS = frozenset({"InvalidMessageContents", "MessageTooLong", "BatchRequestTooLong"})
_REFUSALS_OF_ENTRY = _REFUSALS | {"InvalidParameterValue", "InvalidParameter", "ParameterValueInvalid"}
# What an operator should do about an error code, without the prefixes and the suffix Exception of some.
_HINTS: Final[Mapping[str, str]] = {
    "QueueDoesNotExist": "there is no such queue",
    "NonExistentQueue": "there is no such queue",
    "NotFound": "there is no such topic",
    "AccessDenied": "the key may not send to it",
    "AuthorizationError": "the key may not publish to it",
    "InvalidClientTokenId": "the access key is unknown",
    "UnrecognizedClient": "the access key is unknown",
    "InvalidAccessKeyId": "the access key is unknown",
    "SignatureDoesNotMatch": "the secret key is wrong",
    "ExpiredToken": "the session's token has expired",
}


class AwsApi(NamedTuple):
    """boto3's names for one service's batch request: its method, and the keys of its arguments."""

    service: str
    method: str
    address: str
    entries: str
    text: str


SQS = AwsApi("SQS", "send_message_batch", "QueueUrl", "Entries", "MessageBody")
SNS = AwsApi("SNS", "publish_batch", "TopicArn", "PublishBatchRequestEntries", "Message")


class AwsQueue:
    """A queue of SQS or a topic of SNS. Makes its client at the first message. Safe to use from many threads.

    `max_bytes`: of one request, over all its messages. `timeout`: seconds.
    """

    def __init__(
        self, api: AwsApi, address: str, client_options: Mapping[str, Any], max_bytes: int, timeout: float
    ) -> None:
        self._api = api
        self._address = address
        self._max_bytes = max_bytes
        self._fifo = address.endswith(".fifo")
        self._client_options = {name: value for name, value in client_options.items() if value}
        self._timeout = timeout
        self._client: Any = None
        self._guard = threading.Lock()

    def put(self, messages: Sequence[QueueMessage]) -> list[Receipt | SinkError]:
        """Send the messages in as few requests as their sizes allow. Raises Unavailable when none was sent."""
        deadline = time.monotonic() + self._timeout
        answers: list[Receipt | SinkError] = []
        for batch in batches(messages, self._max_bytes):
            try:
                if answers and time.monotonic() > deadline:
                    raise Unavailable(f"{self._api.service} is too slow: not reached in time")
                answers += self._send(batch)
            except SinkError as error:
                if not answers:
                    raise
                answers += [error] * len(batch)
        return answers

    def close(self) -> None:
        """Close the connections. The next message opens new ones."""
        with self._guard:
            if self._client is not None:
                self._client.close()
                self._client = None

    def _send(self, messages: Sequence[QueueMessage]) -> list[Receipt | SinkError]:
        """Send `messages` in one request, each with its index as its id."""
        from botocore.exceptions import BotoCoreError, ClientError

        entries = [self._entry(number, message) for number, message in enumerate(messages)]
        try:
            send = getattr(self._connected(), self._api.method)
            answer = send(**{self._api.address: self._address, self._api.entries: entries})
        except ClientError as error:
            raise self._failure(error.response) from None
        except BotoCoreError as error:
            raise Unavailable(self._trouble(type(error).__name__)) from None
        sent = {str(one.get("Id")): str(one.get("MessageId") or "") for one in answer.get("Successful") or ()}
        failed = {str(one.get("Id")): one for one in answer.get("Failed") or ()}
        return [
            self._receipt(sent[entry["Id"]], message)
            if entry["Id"] in sent
            else self._rejected(failed.get(entry["Id"]))
            for entry, message in zip(entries, messages, strict=True)
        ]

    def _entry(self, number: int, message: QueueMessage) -> dict[str, Any]:
        attributes = {name: {"DataType": "String", "StringValue": value} for name, value in message.fields.items()}
        entry = {"Id": str(number), self._api.text: message.text, "MessageAttributes": attributes}
        if self._fifo:
            entry |= {"MessageDeduplicationId": message.key, "MessageGroupId": message.group}
        return entry

    def _receipt(self, message_id: str, message: QueueMessage) -> Receipt:
        """Name the message by its key in FIFO, where AWS knows it by that, else by AWS's own id."""
        name = message.key if self._fifo else message_id or message.key
        return Receipt(name, keys=(message_id,) if message_id and name != message_id else (), note=message.note)

    def _connected(self) -> Any:
        with self._guard:
            if self._client is None:
                import boto3
                from botocore.config import Config

                config = Config(
                    connect_timeout=min(5.0, self._timeout / 2),
                    read_timeout=self._timeout / 2,
                    retries={"total_max_attempts": 1, "mode": "standard"},  # a sink never retries
                    max_pool_connections=16,
                    user_agent_extra="runhook",
                )
                # A session of its own, since boto3's default one is not thread-safe.
                session = boto3.session.Session()
                self._client = session.client(self._api.service.lower(), config=config, **self._client_options)
            return self._client

    def _failure(self, response: Mapping[str, Any]) -> SinkError:
        """Return the error of a request that was rejected."""
        code = str(response.get("Error", {}).get("Code") or "")
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode") or ""
        said = " ".join(filter(None, (f"{self._api.service} answered", str(status), _shown(code))))
        if _short(code) in _REFUSALS:
            return Refused(said)
        hint = _HINTS.get(_short(code).removesuffix("Exception"))
        return Unavailable(f"{said}: {hint}" if hint else said)

    def _rejected(self, failed: Mapping[str, Any] | None) -> SinkError:
        """Return the error of one message of a request."""
        code = str((failed or {}).get("Code") or "no reason")
        said = f"{self._api.service} did not take the message ({_shown(code) or '?'})"
        refused = failed and failed.get("SenderFault") and _short(code) in _REFUSALS_OF_ENTRY
        return Refused(said) if refused else Unavailable(said)

    def _trouble(self, name: str) -> str:
        """Describe one of botocore's own errors by its class: its message holds addresses."""
        service = self._api.service
        if "Timeout" in name:
            return f"{service} did not answer in time"
        if "Credentials" in name:
            return f"{service}: no AWS credentials were found; set access_key_id, or AWS's own variables or profile"
        return (
            f"{service}: no region is known; set region"
            if name == "NoRegionError"
            else (f"{service} can't be reached ({name})")
        )


def _short(code: str) -> str:
    return code.rpartition("#")[2].rpartition(".")[2]


def _shown(code: str) -> str:
    return code if code.isprintable() and len(code) < 80 else ""


def batches(messages: Sequence[QueueMessage], limit: int) -> Iterator[Sequence[QueueMessage]]:
    """Yield `messages` in order, at most ten and `limit` bytes at a time."""
    batch: list[QueueMessage] = []
    for message in messages:
        if batch and (len(batch) == BATCH or sum(map(size, batch)) + size(message) > limit):
            yield batch
            batch = []
        batch.append(message)
    if batch:
        yield batch
