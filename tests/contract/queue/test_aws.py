"""The sink `queue` to SQS and SNS, as moto plays them, or a scripted server for failures."""

import itertools
import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import boto3
import pytest
from moto import mock_aws
from moto.sqs.models import sqs_backends

from handlers.contract import Receipt, Refused, Unavailable
from handlers.queue import QueueSink
from handlers.support.deadline import DeadlineExceeded
from handlers.testing.conformance import (
    SinkConformance,
    SinkUnderTest,
    closed_port,
    make_delivery,
    sample_run,
    silent_port,
)
from tests.servers.http import Reply, ScriptedServer
from tests.support.sinks import KEY_ID, REGION, SECRET, make_queue_sink


@pytest.fixture(scope="module")
def aws() -> Iterator[None]:
    """AWS for all tests here: each makes queues and topics of its own."""
    with mock_aws():
        yield
    client.cache_clear()


@cache
def client(service: str) -> Any:
    return boto3.client(service, region_name=REGION)


_names = itertools.count(1)


@pytest.fixture
def name(aws: None) -> str:
    """A name that no other test has."""
    return f"runs{next(_names)}"


def queue_of(name: str) -> str:
    attributes = {"FifoQueue": "true"} if name.endswith(".fifo") else {}
    url: str = client("sqs").create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
    return url


def waiting(name: str) -> list[dict[str, Any]]:
    """What lies in moto's queue: bodies, attributes, FIFO ids."""
    queue = sqs_backends["123456789012"][REGION].queues[name]
    return [
        {
            "body": message.body,
            "group": message.group_id,
            "once": message.deduplication_id,
            **{name: value["StringValue"] for name, value in message.message_attributes.items()},
        }
        for message in queue.messages
    ]


class TestSqs(SinkConformance):
    @pytest.fixture
    def target(self, name: str) -> Iterator[SinkUnderTest]:
        queue = f"{name}.fifo"
        options = {"to": "sqs", "queue_url": queue_of(queue), "access_key_id": KEY_ID, "secret_access_key": SECRET}
        with silent_port() as silent:
            away = {
                "nothing listens": {**options, "endpoint_url": f"http://127.0.0.1:{closed_port()}", "timeout": 1},
                "never answers": {**options, "endpoint_url": f"http://127.0.0.1:{silent}", "timeout": 0.4},
            }
            yield SinkUnderTest(QueueSink, options, lambda: waiting(queue), True, away, secrets=[SECRET, KEY_ID])


class TestSns(SinkConformance):
    @pytest.fixture
    def target(self, name: str) -> Iterator[SinkUnderTest]:
        options = {"to": "sns", "topic_arn": topic_of(name, name), "access_key_id": KEY_ID, "secret_access_key": SECRET}
        with silent_port() as silent:
            away = {
                "nothing listens": {**options, "endpoint_url": f"http://127.0.0.1:{closed_port()}", "timeout": 1},
                "never answers": {**options, "endpoint_url": f"http://127.0.0.1:{silent}", "timeout": 0.4},
            }
            yield SinkUnderTest(QueueSink, options, lambda: waiting(name), away=away, secrets=[SECRET, KEY_ID])


def topic_of(topic: str, queue: str) -> str:
    """A topic whose messages arrive in `queue` as they are."""
    attributes = {"FifoTopic": "true"} if topic.endswith(".fifo") else {}
    arn: str = client("sns").create_topic(Name=topic, Attributes=attributes)["TopicArn"]
    url = queue_of(queue)
    queue_arn = client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    client("sns").subscribe(TopicArn=arn, Protocol="sqs", Endpoint=queue_arn, Attributes={"RawMessageDelivery": "true"})
    return arn


def test_message_holds_the_body_and_attributes(name: str) -> None:
    delivery = make_delivery(sample_run("wr_1", status="completed"))
    receipt = make_queue_sink(to="sqs", queue_url=queue_of(name)).send(delivery)
    (message,) = waiting(name)
    assert message == {
        "body": delivery.body.decode(), "group": None, "once": None, "key": delivery.key, "event_id": delivery.event_id,
        "source": "skyvern", "run_id": "wr_1", "run_type": "task_v1", "outcome": "completed", "via": "webhook",
        "received_at": "2026-03-01T10:02:06.125000+00:00", "encoding": "whole",
    }  # fmt: skip
    assert receipt.id


def test_fifo_queue_keeps_order_and_drops_duplicates(name: str) -> None:
    sink = make_queue_sink(to="sqs", queue_url=queue_of(f"{name}.fifo"))
    deliveries = [make_delivery(sample_run("wr_1")) for _ in range(3)]
    for delivery in [*deliveries, *deliveries]:
        sink.send(delivery)
    messages = waiting(f"{name}.fifo")
    assert [message["once"] for message in messages] == [delivery.key for delivery in deliveries]
    assert {message["group"] for message in messages} == {"wr_1"}


def test_a_fifo_topic_gets_the_same_ids(name: str) -> None:
    sink = make_queue_sink(to="sns", topic_arn=topic_of(f"{name}.fifo", f"{name}.fifo"))
    delivery = make_delivery(sample_run("wr_1"))
    sink.send(delivery)
    sink.send(delivery)
    (message,) = waiting(f"{name}.fifo")
    assert (message["once"], message["group"]) == (delivery.key, "wr_1")


def test_a_batch_of_any_size_goes_in_calls_that_fit(name: str) -> None:
    sink = make_queue_sink(to="sqs", queue_url=queue_of(name))
    deliveries = [make_delivery(sample_run(output="x" * (index % 5) * 50_000)) for index in range(37)]
    answers = sink.send_many(deliveries)
    assert all(isinstance(answer, Receipt) for answer in answers)
    assert sorted(message["key"] for message in waiting(name)) == sorted(delivery.key for delivery in deliveries)


def test_a_queue_that_is_not_there_is_unavailable(name: str) -> None:
    gone = f"https://sqs.{REGION}.amazonaws.com/123456789012/gone"
    with pytest.raises(Unavailable, match="no such queue"):
        make_queue_sink(to="sqs", queue_url=gone).send(make_delivery())
    with pytest.raises(Unavailable, match="no such topic"):
        make_queue_sink(to="sns", topic_arn=f"arn:aws:sns:{REGION}:123456789012:gone").send(make_delivery())


def error(code: str) -> bytes:
    return json.dumps({"__type": f"com.amazonaws.sqs#{code}", "message": "MARKER"}).encode()


def entries(**failed: Any) -> bytes:
    return json.dumps({"Successful": [], "Failed": [{"Id": "0", "Message": "MARKER", **failed}]}).encode()


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (400, error("QueueDoesNotExist"), Unavailable, "there is no such queue"),
        (403, error("AccessDeniedException"), Unavailable, "access is denied: sqs:SendMessage is needed"),
        (403, error("InvalidClientTokenId"), Unavailable, "the access key is not known"),
        (403, error("ExpiredTokenException"), Unavailable, "the session token has expired"),
        (400, error("RequestThrottled"), Unavailable, "SQS: the server answered 400 RequestThrottled"),
        (400, error("BatchRequestTooLong"), Refused, "the message is too long"),
        (500, error("InternalError"), Unavailable, "SQS: the server answered 500"),
        (503, b"<html>", Unavailable, "SQS"),
        (200, b"garbage", Unavailable, "SQS"),
        (200, b"{}", Unavailable, "did not take the message"),
        (200, entries(Code="InternalError", SenderFault=False), Unavailable, "did not take the message .InternalError"),
        (200, entries(Code="InvalidMessageContents", SenderFault=True), Refused, "InvalidMessageContents"),
        (200, entries(Code="InvalidParameterValue", SenderFault=True), Refused, "InvalidParameterValue"),
    ],
)
def test_response_of_aws_decides_and_is_requested_once(
    status: int, body: bytes, kind: type[Exception], words: str
) -> None:
    with ScriptedServer() as server:
        server.script = [Reply(status, {"content-type": "application/x-amz-json-1.0"}, body)]
        sink = make_queue_sink(
            to="sqs", queue_url=f"https://sqs.{REGION}.amazonaws.com/1/runs", access_key_id="AK",
            secret_access_key=SECRET, endpoint_url=server.url,
        )  # fmt: skip
        with pytest.raises(kind, match=words) as caught:
            sink.send(make_delivery())
        sink.close()
    assert "MARKER" not in str(caught.value)
    assert len(server.requests) == 1


def test_no_request_begins_that_may_end_too_late() -> None:
    # Given a queue that takes more than a quarter of the sink's time for each request
    sent = [{"Id": str(number), "MessageId": "m", "MD5OfMessageBody": ""} for number in range(10)]
    with ScriptedServer() as server:
        server.default = Reply(
            200, {"content-type": "application/x-amz-json-1.0"}, json.dumps({"Successful": sent}).encode(), delay=1.2
        )
        sink = make_queue_sink(
            to="sqs", queue_url=f"https://sqs.{REGION}.amazonaws.com/1/runs", access_key_id="AK",
            secret_access_key=SECRET, endpoint_url=server.url, timeout=4,
        )  # fmt: skip
        # When a batch needs three requests, then those that were sent count, and the others come later
        answers = sink.send_many([make_delivery(sample_run(f"wr_{number}")) for number in range(25)])
        sink.close()
    assert [type(each) for each in answers] == [Receipt] * 20 + [DeadlineExceeded] * 5
    assert len(server.requests) == 2
