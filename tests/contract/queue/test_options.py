"""The options of the sink `queue`."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from handlers.queue import QueueOptions
from tests.support.queue_sink import SECRET


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "to"),
        ({"to": "kafka"}, "redis-stream"),
        ({"to": "redis-stream"}, "to: redis-stream needs url, such as redis://"),
        ({"to": "sqs"}, "to: sqs needs queue_url"),
        ({"to": "sns"}, "to: sns needs topic_arn"),
        ({"to": "redis-stream", "url": f"http://:{SECRET}@host"}, "url must begin with redis://"),
        ({"to": "redis-stream", "url": "redis://h:x/"}, "url is not a valid address"),
        ({"to": "redis-stream", "url": "redis://h", "stream": "a{b}"}, "no braces"),
        ({"to": "redis-stream", "url": "redis://h", "region": "eu-west-1"}, "region does not go with to: redis-stream"),
        ({"to": "sqs", "queue_url": "https://sqs.eu-west-1.amazonaws.com/1/a", "stream": "x"}, "stream does not go"),
        ({"to": "sqs", "queue_url": "http://queue.internal/1/a"}, "region is needed"),
        ({"to": "sqs", "queue_url": f"https://me:{SECRET}@sqs.eu-west-1.amazonaws.com/1/a"}, "without a user name"),
        ({"to": "sqs", "queue_url": "https://sqs.eu-west-1.amazonaws.com/1/a", "access_key_id": "A"}, "go together"),
        ({"to": "sns", "topic_arn": "arn:aws:sqs:eu-west-1:1:a"}, "not the ARN of a topic"),
    ],
)
def test_wrong_options_say_what_would_be_right_and_no_secret(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        QueueOptions.model_validate(options)
    assert words in str(caught.value)
    assert SECRET not in str(caught.value)
