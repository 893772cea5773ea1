"""The message, the same for every kind of queue."""

import base64
import hashlib
import json

import pytest

from handlers.queue.aws import batches
from handlers.queue.message import QueueMessage, as_bytes, as_text, group_of, size
from handlers.testing.conformance import BODIES, make_delivery, sample_run


def test_a_body_that_is_no_text_goes_as_base64() -> None:
    for body in (BODIES["not UTF-8"], b'{"a":"\x0b"}', "{\uffff}".encode()):
        message = as_text(make_delivery(body=body), 10_000)
        assert message.fields["encoding"] == "base64"
        assert base64.b64decode(message.body) == body


def test_a_body_that_is_too_large_is_told_of_and_not_sent() -> None:
    delivery = make_delivery(
        sample_run("wr_1", output="x" * 300_000),
        receipts={"archive": {"urls": {"run.json": "https://files.example/run.json"}}},
    )
    message = as_text(delivery, 256 * 1024)
    assert message.fields["encoding"] == "omitted"
    assert json.loads(message.body) == {
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
