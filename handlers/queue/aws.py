"""SQS and SNS through boto3, ten messages per request.

A FIFO queue or topic gets the delivery's key as its deduplication id: AWS drops duplicates for five minutes. Others are
at least once. This module knows messages, not deliveries or runs.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from handlers.contract import Receipt, Refused, SinkError, Unavailable
from handlers.queue.message import QueueMessage, size
from handlers.support.aws import call_limits, make_client, refusal, translated_errors
from handlers.support.deadline import Deadline

# Maximum messages of one request.
BATCH = 10

# Error codes caused by a single message.
_REFUSED: Final = frozenset({"InvalidParameterValue", "InvalidParameter", "ParameterValueInvalid"})


class AwsApi(NamedTuple):
    """boto3's names for one service's batch request: method, argument keys, required permission."""

    service: str
    method: str
    address: str
    entries: str
    text: str
    right: str


SQS = AwsApi("SQS", "send_message_batch", "QueueUrl", "Entries", "MessageBody", "sqs:SendMessage is")
SNS = AwsApi("SNS", "publish_batch", "TopicArn", "PublishBatchRequestEntries", "Message", "sns:Publish is")


class AwsQueue:
    """An SQS queue or SNS topic.

    Creates its client at the first message. Thread-safe. `max_bytes`: of one request. `timeout`: seconds.
    """

    def __init__(
        self, api: AwsApi, address: str, client_options: Mapping[str, Any], max_bytes: int, timeout: float
    ) -> None:
        self._api = api
        self._address = address
        self._max_bytes = max_bytes
        self._fifo = address.endswith(".fifo")
        self._client_options = client_options
        self._timeout = timeout
        self._client: Any = None
        self._guard = threading.Lock()

    def put(self, messages: Sequence[QueueMessage]) -> list[Receipt | SinkError]:
        """Send the messages in as few requests as their sizes allow. Raises Unavailable when none was sent."""
        deadline = Deadline(self._timeout)
        answers: list[Receipt | SinkError] = []
        for batch in batches(messages, self._max_bytes):
            try:
                deadline.remaining(sum(call_limits(self._timeout)))
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
        entries = [self._entry(number, message) for number, message in enumerate(messages)]
        with translated_errors(self._api.service, self._api.right):
            send = getattr(self._connected(), self._api.method)
            answer = send(**{self._api.address: self._address, self._api.entries: entries})
        sent = {str(result.get("Id")): str(result.get("MessageId") or "") for result in answer.get("Successful") or ()}
        failed = {str(result.get("Id")): result for result in answer.get("Failed") or ()}
        return [
            self._receipt(sent[entry["Id"]], message)
            if entry["Id"] in sent
            else self._rejected(failed.get(entry["Id"], {}))
            for entry, message in zip(entries, messages, strict=True)
        ]

    def _entry(self, number: int, message: QueueMessage) -> dict[str, Any]:
        attributes = {name: {"DataType": "String", "StringValue": value} for name, value in message.fields.items()}
        entry = {"Id": str(number), self._api.text: message.body.decode(), "MessageAttributes": attributes}
        if self._fifo:
            entry |= {"MessageDeduplicationId": message.key, "MessageGroupId": message.group}
        return entry

    def _receipt(self, message_id: str, message: QueueMessage) -> Receipt:
        """Return the message's id: its key in FIFO, else AWS's id."""
        name = message.key if self._fifo else message_id or message.key
        return Receipt(name, keys=(message_id,) if message_id and name != message_id else (), note=message.note)

    def _connected(self) -> Any:
        with self._guard:
            if self._client is None:
                service = self._api.service.lower()
                self._client = make_client(service, self._timeout, config={}, **self._client_options)
            return self._client

    def _rejected(self, failed: Mapping[str, Any]) -> SinkError:
        """Return the error of one message of a request. `failed`: {} when AWS omits it."""
        code = str(failed.get("Code") or "no reason")
        message = f"{self._api.service} did not take the message ({code[:60] if code.isprintable() else '?'})"
        at_fault = failed.get("SenderFault") and (code in _REFUSED or refusal(code))
        return Refused(message) if at_fault else Unavailable(message)


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
