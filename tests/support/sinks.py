"""Sinks of Slack and of queues for tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from handlers.contract import Artifact, Delivery
from handlers.queue import QueueOptions, QueueSink
from handlers.slack import SlackOptions, SlackSink
from handlers.testing.conformance import (
    NoServices,
    make_delivery,
    sample_run,
)
from tests.servers.slack import FakeSlack

Make = Callable[..., SlackSink]


class Host(NoServices):
    """Services that allow loopback addresses and have fresh URLs of screenshots."""

    def __init__(self, slack: FakeSlack) -> None:
        self.slack = slack

    def sources(self) -> list[str]:
        return []

    def allowed_addresses(self) -> list[str]:
        return ["127.0.0.1"]

    def fresh_artifacts(self, delivery: Delivery, types: Sequence[str] = ()) -> list[Artifact]:
        return [Artifact("screenshot", "s.png", self.slack.url + path) for path in self.slack.pages]


# The sinks that the test has made; a fixture closes them.
made: list[SlackSink] = []


def make(options: Mapping[str, Any], services: NoServices | None = None) -> SlackSink:
    made.append(SlackSink("ops", SlackOptions.model_validate(dict(options)), services or NoServices()))
    return made[-1]


def now(delivery: Delivery) -> Delivery:
    """Return the delivery as if it had arrived now, since the fake's timestamps are real."""
    return replace(delivery, received_at=datetime.now(UTC))


def failing(**changes: Any) -> Delivery:
    """One more failing run of one workflow, for one reason."""
    run = sample_run(**{"workflow_id": "wpid_1", "failure_reason": "No login form", "created_at": None, **changes})
    return now(make_delivery(run))


SECRET = "hush-hush-secret"
KEY_ID = "AKIDOFTHEQUEUE5E1F"
REGION = "eu-west-1"


def make_queue_sink(**options: Any) -> QueueSink:
    return QueueSink("pull", QueueOptions.model_validate({"timeout": 5, **options}), NoServices())
