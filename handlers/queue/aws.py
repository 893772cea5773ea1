"""SQS and SNS through boto3, ten messages a call.

A FIFO queue or topic gets the delivery's key as its deduplication id: AWS drops the same key again for five minutes.
Others are at least once. It knows messages, and no delivery or run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from handlers.contract import Receipt, Refused, SinkError, Unavailable
from handlers.queue.message import QueueMessage, size

# Messages that one call of either service takes.
BATCH = 10

_REFUSALS = frozenset({"InvalidMessageContents", "MessageTooLong", "BatchRequestTooLong"})
_REFUSALS_OF_ENTRY = _REFUSALS | {"InvalidParameterValue", "InvalidParameter", "ParameterValueInvalid"}
_HINTS: Mapping[str, str] = {
    "QueueDoesNotExist": "there is no such queue",
    "AWS.SimpleQueueService.NonExistentQueue": "there is no such queue",
    "NotFound": "there is no such topic",
    "NotFoundException": "there is no such topic",
    "AccessDenied": "the key may not send to it",
    "AccessDeniedException": "the key may not send to it",
    "AuthorizationError": "the key may not publish to it",
    "InvalidClientTokenId": "the access key is unknown",
    "UnrecognizedClientException": "the access key is unknown",
    "InvalidAccessKeyId": "the access key is unknown",
    "SignatureDoesNotMatch": "the secret key is wrong",
    "ExpiredToken": "the session's token has expired",
    "ExpiredTokenException": "the session's token has expired",
}


class AwsApi(NamedTuple):
    """The names by which boto3 knows one service's batch call: its method, and the keys of its arguments."""

    service: str
    method: str
    address: str
    entries: str
    text: str


SQS = AwsApi("SQS", "send_message_batch", "QueueUrl", "Entries", "MessageBody")
SNS = AwsApi("SNS", "publish_batch", "TopicArn", "PublishBatchRequestEntries", "Message")


class AwsQueue:
    """A queue of SQS or a topic of SNS. Makes its client at the first message. Safe to use from many threads."""

    def __init__(
        self, api: AwsApi, address: str, client_options: Mapping[str, Any], max_bytes: int, timeout: float
    ) -> None:
        """`max_bytes`: what one call takes, over all its messages. `timeout`: seconds."""
        self._api = api
        self._service = api.service
        self._address = address
        self._max_bytes = max_bytes
        self._fifo = address.endswith(".fifo")
        self._client_options = dict(client_options)
        self._timeout = timeout
        self._client: Any = None
        self._guard = threading.Lock()

    def put(self, messages: Sequence[QueueMessage]) -> list[Receipt | SinkError]:
        """Send the messages in as few calls as their sizes allow. Raises Unavailable when nothing was sent at all."""
        deadline = time.monotonic() + self._timeout
        answers: list[Receipt | SinkError] = []
        for batch in batches(messages, self._max_bytes):
            if answers and time.monotonic() > deadline:
                answers += [Unavailable(f"{self._service} is too slow: not reached in time")] * len(batch)
                continue
            try:
                answers += self._batch(batch)
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

    def _batch(self, messages: Sequence[QueueMessage]) -> list[Receipt | SinkError]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            answer = self._call(messages)
        except ClientError as error:
            raise self._to_sink_error(error.response) from None
        except BotoCoreError as error:
            raise Unavailable(self._trouble(error)) from None
        sent = {str(one.get("Id")): str(one.get("MessageId") or "") for one in answer.get("Successful") or ()}
        failed = {str(one.get("Id")): one for one in answer.get("Failed") or ()}
        return [
            self._receipt(sent[str(number)], message)
            if str(number) in sent
            else self._entry_error(failed.get(str(number), {}))
            for number, message in enumerate(messages)
        ]

    def _call(self, messages: Sequence[QueueMessage]) -> Mapping[str, Any]:
        """Send `messages` in one call, each with its index as its id."""
        entries = [self._entry(number, message) for number, message in enumerate(messages)]
        arguments = {self._api.address: self._address, self._api.entries: entries}
        answer: Mapping[str, Any] = getattr(self._connected(), self._api.method)(**arguments)
        return answer

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

                options = {name: value for name, value in self._client_options.items() if value}
                # total_max_attempts 1: a sink never retries.
                config = Config(
                    connect_timeout=min(5.0, self._timeout / 2),
                    read_timeout=self._timeout / 2,
                    retries={"total_max_attempts": 1, "mode": "standard"},
                    max_pool_connections=16,
                    user_agent_extra="runhook",
                )
                # A session of its own, since boto3's default one is not thread-safe.
                self._client = boto3.session.Session().client(self._service.lower(), config=config, **options)
            return self._client

    def _to_sink_error(self, response: Mapping[str, Any]) -> SinkError:
        code = str(response.get("Error", {}).get("Code") or "")
        status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)
        short = code.rpartition("#")[2].rpartition(".")[2] or code
        said = (
            f"{self._service} answered {status or ''} {code if code.isprintable() and len(code) < 80 else ''}".strip()
        )
        hint = _HINTS.get(code) or _HINTS.get(short)
        if short in _REFUSALS:
            return Refused(said)
        return Unavailable(f"{said}: {hint}" if hint else said)

    def _entry_error(self, failed: Mapping[str, Any]) -> SinkError:
        """Return why one message of a call was rejected."""
        code = str(failed.get("Code") or "no reason")
        short = code.rpartition("#")[2].rpartition(".")[2]
        said = f"{self._service} did not take the message ({code if code.isprintable() and len(code) < 80 else '?'})"
        return Refused(said) if failed.get("SenderFault") and short in _REFUSALS_OF_ENTRY else Unavailable(said)

    def _trouble(self, error: Exception) -> str:
        """Describe one of botocore's own errors, whose messages hold addresses."""
        name = type(error).__name__
        if "Timeout" in name:
            return f"{self._service} did not answer in time"
        if "Credentials" in name:
            return (
                f"{self._service}: no AWS credentials were found; set access_key_id, or AWS's own variables or profile"
            )
        if name == "NoRegionError":
            return f"{self._service}: no region is known; set region"
        return f"{self._service} can't be reached ({name})"


def batches(messages: Sequence[QueueMessage], limit: int) -> Iterator[Sequence[QueueMessage]]:
    """Yield `messages` in order, at most ten and `limit` bytes at a time; none may be longer than `limit` itself."""
    batch: list[QueueMessage] = []
    length = 0
    for message in messages:
        if batch and (len(batch) == BATCH or length + size(message) > limit):
            yield batch
            batch, length = [], 0
        batch.append(message)
        length += size(message)
    if batch:
        yield batch
