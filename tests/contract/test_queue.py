"""The sink `queue`: a real Valkey, and SQS and SNS as moto plays them (or a server of our own, for trouble)."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import boto3
import pytest
import redis
from moto import mock_aws
from moto.sqs.models import sqs_backends
from pydantic import ValidationError

from handlers.contract import Receipt, Refused, Unavailable
from handlers.queue import QueueOptions, QueueSink
from handlers.queue.aws import batches
from handlers.queue.message import QueueMessage, as_bytes, as_text, group_of, size
from handlers.testing.conformance import (
    BODIES,
    NoServices,
    SinkConformance,
    SinkUnderTest,
    closed_port,
    make_delivery,
    sample_run,
    silent_port,
)
from tests.servers.valkey import ValkeyProcess

SECRET = "hush-hush-secret"
KEY_ID = "AKIDOFTHEQUEUE5E1F"
REGION = "eu-west-1"


def make(**options: Any) -> QueueSink:
    return QueueSink("pull", QueueOptions.model_validate({"timeout": 5, **options}), NoServices())


# Redis stream


class TestRedisStream(SinkConformance):
    @pytest.fixture
    def target(self, redis_url: str) -> Iterator[SinkUnderTest]:
        client = redis.Redis.from_url(redis_url)
        options = {"to": "redis-stream", "stream": "runs"}
        with silent_port() as silent:
            away = {
                "nothing listens": {**options, "url": f"redis://:{SECRET}@127.0.0.1:{closed_port()}/0", "timeout": 1},
                "never answers": {**options, "url": f"redis://:{SECRET}@127.0.0.1:{silent}/0", "timeout": 0.4},
            }
            yield SinkUnderTest(
                QueueSink,
                {**options, "url": redis_url},
                lambda: client.xrange("runs"),
                idempotent=True,
                away=away,
                secrets=[SECRET],
            )
        client.close()


def test_an_entry_holds_the_body_as_received_and_fields_to_choose_by(redis_url: str) -> None:
    body = BODIES["NUL"]
    delivery = make_delivery(body=body)
    receipt = make(to="redis-stream", url=redis_url, stream="runs").send(delivery)
    client = redis.Redis.from_url(redis_url)
    ((entry, fields),) = client.xrange("runs")
    assert fields.pop(b"body") == body
    assert {name.decode(): value.decode() for name, value in fields.items()} == {
        "key": delivery.key, "event_id": delivery.event_id, "source": "skyvern", "run_id": delivery.run_id,
        "run_type": "task_v1", "outcome": "failed", "via": "webhook", "received_at": "2026-03-01T10:02:06.125000+00:00",
        "encoding": "whole",
    }  # fmt: skip
    assert receipt.to_dict() == {"id": entry.decode(), "keys": [f"runs/{entry.decode()}"]}
    client.close()


def test_a_storm_of_tries_adds_each_delivery_once(redis_url: str) -> None:
    deliveries = [make_delivery() for _ in range(40)]
    sinks = [make(to="redis-stream", url=redis_url, stream="runs") for _ in range(3)]
    with ThreadPoolExecutor(8) as pool:
        tries = [(sink, delivery) for sink in sinks for delivery in deliveries]
        answers = list(pool.map(lambda one: (one[1].key, one[0].send(one[1]).id), tries))
    assert len(set(answers)) == 40, "every try of a delivery has the same receipt"
    with redis.Redis.from_url(redis_url) as client:
        assert client.xlen("runs") == 40
    for sink in sinks:
        sink.close()


def test_the_stream_keeps_about_as_many_as_wanted(redis_url: str) -> None:
    sink = make(to="redis-stream", url=redis_url, stream="runs", max_len=100)
    for _ in range(5):
        sink.send_many([make_delivery() for _ in range(100)])
    with redis.Redis.from_url(redis_url) as client:
        assert 100 <= client.xlen("runs") <= 250
    sink.close()


def test_a_marker_lives_as_long_as_it_was_told(redis_url: str) -> None:
    delivery = make_delivery()
    make(to="redis-stream", url=redis_url, stream="runs", once_for=60).send(delivery)
    with redis.Redis.from_url(redis_url) as client:
        assert 50 < client.ttl(f"{{runs}}:once:{delivery.key}") <= 60


def test_kill_9_of_redis_between_two_tries_adds_nothing_twice(valkey_factory: Callable[..., ValkeyProcess]) -> None:
    server = valkey_factory()
    sink = make(to="redis-stream", url=server.url, stream="runs")
    deliveries = [make_delivery() for _ in range(20)]
    first = sink.send_many(deliveries)
    server.restart()
    again = sink.send_many([replace(delivery, attempt=2) for delivery in deliveries])
    assert again == first
    assert all(isinstance(answer, Receipt) for answer in again)
    client = server.connect()
    assert client.xlen("runs") == 20
    client.close()
    sink.close()


def test_redis_says_no_in_many_ways_and_all_are_unavailable(valkey_factory: Callable[..., ValkeyProcess]) -> None:
    server = valkey_factory()
    client = server.connect()
    client.set("no-stream", "x")
    client.acl_setuser("reader", enabled=True, passwords=[f"+{SECRET}"], commands=["+get", "+ping"], keys=["*"])
    host = f"127.0.0.1:{server.port}"
    for options, words in [
        ({"url": server.url, "stream": "no-stream"}, "is no stream"),
        ({"url": f"redis://reader:{SECRET}@{host}/0"}, "may not write"),
        ({"url": f"redis://reader:wrong@{host}/0"}, "does not take the user or password"),
        ({"url": f"redis://{host}/9999"}, "Redis refuses"),
    ]:
        with pytest.raises(Unavailable, match=words) as caught:
            make(to="redis-stream", **options).send(make_delivery())
        assert SECRET not in str(caught.value)
    client.config_set("maxmemory", "100kb")
    with pytest.raises(Unavailable, match="no memory left"):
        make(to="redis-stream", url=server.url).send(make_delivery())
    client.close()


# SQS and SNS


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
        options = {
            "to": "sns",
            "topic_arn": topic_of(name, name),
            "access_key_id": KEY_ID,
            "secret_access_key": SECRET,
        }
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


def test_a_message_holds_the_body_as_received_and_attributes_to_choose_by(name: str) -> None:
    delivery = make_delivery(sample_run("wr_1", status="completed"))
    receipt = make(to="sqs", queue_url=queue_of(name)).send(delivery)
    (message,) = waiting(name)
    assert message == {
        "body": delivery.body.decode(), "group": None, "once": None, "key": delivery.key, "event_id": delivery.event_id,
        "source": "skyvern", "run_id": "wr_1", "run_type": "task_v1", "outcome": "completed", "via": "webhook",
        "received_at": "2026-03-01T10:02:06.125000+00:00", "encoding": "whole",
    }  # fmt: skip
    assert receipt.id


def test_a_fifo_queue_keeps_a_runs_order_and_drops_the_same_delivery(name: str) -> None:
    sink = make(to="sqs", queue_url=queue_of(f"{name}.fifo"))
    deliveries = [make_delivery(sample_run("wr_1")) for _ in range(3)]
    for delivery in [*deliveries, *deliveries]:
        sink.send(delivery)
    messages = waiting(f"{name}.fifo")
    assert [message["once"] for message in messages] == [delivery.key for delivery in deliveries]
    assert {message["group"] for message in messages} == {"wr_1"}


def test_a_fifo_topic_gets_the_same_ids(name: str) -> None:
    sink = make(to="sns", topic_arn=topic_of(f"{name}.fifo", f"{name}.fifo"))
    delivery = make_delivery(sample_run("wr_1"))
    sink.send(delivery)
    sink.send(delivery)
    (message,) = waiting(f"{name}.fifo")
    assert (message["once"], message["group"]) == (delivery.key, "wr_1")


def test_a_batch_of_any_size_goes_in_calls_that_fit(name: str) -> None:
    sink = make(to="sqs", queue_url=queue_of(name))
    deliveries = [make_delivery(sample_run(output="x" * (index % 5) * 50_000)) for index in range(37)]
    answers = sink.send_many(deliveries)
    assert all(isinstance(answer, Receipt) for answer in answers)
    assert sorted(message["key"] for message in waiting(name)) == sorted(delivery.key for delivery in deliveries)


def test_a_queue_that_is_not_there_is_unavailable(name: str) -> None:
    gone = f"https://sqs.{REGION}.amazonaws.com/123456789012/gone"
    with pytest.raises(Unavailable, match="no such queue"):
        make(to="sqs", queue_url=gone).send(make_delivery())
    with pytest.raises(Unavailable, match="no such topic"):
        make(to="sns", topic_arn=f"arn:aws:sns:{REGION}:123456789012:gone").send(make_delivery())


class Scripted(ThreadingHTTPServer):
    """Answers every call with the same status and body."""

    daemon_threads = True

    def __init__(self, status: int, body: bytes) -> None:
        self.calls = 0

        class Handler(BaseHTTPRequestHandler):
            def do_POST(handler) -> None:  # noqa: N805
                self.calls += 1
                handler.rfile.read(int(handler.headers["Content-Length"]))
                handler.send_response(status)
                handler.send_header("Content-Type", "application/x-amz-json-1.0")
                handler.send_header("Content-Length", str(len(body)))
                handler.end_headers()
                handler.wfile.write(body)

            def log_message(handler, *_: Any) -> None:  # noqa: N805
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()
        self.thread.join(5)


def error(code: str) -> bytes:
    return json.dumps({"__type": f"com.amazonaws.sqs#{code}", "message": "MARKER"}).encode()


def entries(**failed: Any) -> bytes:
    return json.dumps({"Successful": [], "Failed": [{"Id": "0", "Message": "MARKER", **failed}]}).encode()


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (400, error("QueueDoesNotExist"), Unavailable, "there is no such queue"),
        (403, error("AccessDeniedException"), Unavailable, "the key may not send to it"),
        (403, error("InvalidClientTokenId"), Unavailable, "the access key is unknown"),
        (403, error("ExpiredTokenException"), Unavailable, "the session's token has expired"),
        (400, error("RequestThrottled"), Unavailable, "SQS answered 400 .*RequestThrottled"),
        (400, error("BatchRequestTooLong"), Refused, "BatchRequestTooLong"),
        (500, error("InternalError"), Unavailable, "SQS answered 500"),
        (503, b"<html>", Unavailable, "SQS"),
        (200, b"garbage", Unavailable, "SQS"),
        (200, b"{}", Unavailable, "did not take the message"),
        (200, entries(Code="InternalError", SenderFault=False), Unavailable, "did not take the message .InternalError"),
        (200, entries(Code="InvalidMessageContents", SenderFault=True), Refused, "InvalidMessageContents"),
        (200, entries(Code="InvalidParameterValue", SenderFault=True), Refused, "InvalidParameterValue"),
    ],
)
def test_an_answer_of_aws_decides_what_happens_next_and_is_asked_for_once(
    status: int, body: bytes, kind: type[Exception], words: str
) -> None:
    server = Scripted(status, body)
    sink = make(
        to="sqs", queue_url=f"https://sqs.{REGION}.amazonaws.com/1/runs", access_key_id="AK", secret_access_key=SECRET,
        endpoint_url=f"http://127.0.0.1:{server.server_port}",
    )  # fmt: skip
    with pytest.raises(kind, match=words) as caught:
        sink.send(make_delivery())
    assert "MARKER" not in str(caught.value)
    assert server.calls == 1
    sink.close()
    server.close()


# Messages


def test_a_body_that_is_no_text_goes_as_base64() -> None:
    for body in (BODIES["not UTF-8"], b'{"a":"\x0b"}', "{\uffff}".encode()):
        message = as_text(make_delivery(body=body), 10_000)
        assert message.fields["encoding"] == "base64"
        assert base64.b64decode(message.text) == body


def test_a_body_that_is_too_large_is_told_of_and_not_sent() -> None:
    delivery = make_delivery(
        sample_run("wr_1", output="x" * 300_000),
        receipts={"archive": {"urls": {"run.json": "https://files.example/run.json"}}},
    )
    message = as_text(delivery, 256 * 1024)
    assert message.fields["encoding"] == "omitted"
    assert json.loads(message.text) == {
        "run_id": "wr_1",
        "run_type": "task_v1",
        "status": "failed",
        "omitted": {
            "bytes": len(delivery.body),
            "sha256": hashlib.sha256(delivery.body).hexdigest(),
            "event_id": delivery.event_id,
            "urls": {"run.json": "https://files.example/run.json"},
        },
    }
    assert "is not in the message" in message.note


@pytest.mark.parametrize("kind", BODIES)
def test_every_message_is_text_of_a_size_that_fits(kind: str) -> None:
    urls = {f"file{number}": "https://files.example/" + "x" * 1900 for number in range(100)}
    delivery = make_delivery(body=BODIES[kind], receipts={"archive": {"urls": urls}, "mirror": None})
    message = as_text(delivery, 256 * 1024)
    assert 0 < size(message) <= 256 * 1024
    assert all(0 < len(value) <= 256 for value in message.fields.values())
    assert len(message.fields) <= 10, "SQS takes ten attributes"
    assert as_bytes(delivery).body == BODIES[kind]
    assert len(group_of(delivery)) <= 128


def test_a_run_id_that_no_group_may_have_is_hashed() -> None:
    assert group_of(make_delivery(run_id="wr_1")) == "wr_1"
    assert len(group_of(make_delivery(run_id="é" * 200))) == 64


def test_batches_hold_ten_and_no_more_bytes_than_fit() -> None:
    messages = [QueueMessage(str(number), "g", {}, b"x" * 30) for number in range(25)]
    assert [len(batch) for batch in batches(messages, 1000)] == [10, 10, 5]
    assert [len(batch) for batch in batches(messages, 100)] == [3] * 8 + [1]
    assert list(batches([], 100)) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "to"),
        ({"to": "kafka"}, "redis-stream"),
        ({"to": "redis-stream"}, "to: redis-stream needs url, such as redis://"),
        ({"to": "sqs"}, "to: sqs needs queue_url"),
        ({"to": "sns"}, "to: sns needs topic_arn"),
        ({"to": "redis-stream", "url": f"http://:{SECRET}@host"}, "url must begin with redis://"),
        ({"to": "redis-stream", "url": "redis://h:x/"}, "url is no address"),
        ({"to": "redis-stream", "url": "redis://h", "stream": "a{b}"}, "no braces"),
        ({"to": "redis-stream", "url": "redis://h", "region": "eu-west-1"}, "region does not go with to: redis-stream"),
        ({"to": "sqs", "queue_url": "https://sqs.eu-west-1.amazonaws.com/1/a", "stream": "x"}, "stream does not go"),
        ({"to": "sqs", "queue_url": "http://queue.internal/1/a"}, "region is needed"),
        ({"to": "sqs", "queue_url": f"https://me:{SECRET}@sqs.eu-west-1.amazonaws.com/1/a"}, "without a user name"),
        ({"to": "sqs", "queue_url": "https://sqs.eu-west-1.amazonaws.com/1/a", "access_key_id": "A"}, "go together"),
        ({"to": "sns", "topic_arn": "arn:aws:sqs:eu-west-1:1:a"}, "no ARN of a topic"),
    ],
)
def test_wrong_options_say_what_would_be_right_and_no_secret(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        QueueOptions.model_validate(options)
    assert words in str(caught.value)
    assert SECRET not in str(caught.value)
