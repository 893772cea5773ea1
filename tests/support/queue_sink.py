"""Queue sinks for tests."""

from __future__ import annotations

from typing import Any

from handlers.queue import QueueOptions, QueueSink
from handlers.testing.conformance import (
    NoServices,
)

SECRET = "hush-hush-secret"
KEY_ID = "AKIDOFTHEQUEUE5E1F"
REGION = "eu-west-1"


def make(**options: Any) -> QueueSink:
    return QueueSink("pull", QueueOptions.model_validate({"timeout": 5, **options}), NoServices())
