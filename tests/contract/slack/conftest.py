"""A Slack on loopback, and sinks that post to it."""

from collections.abc import Iterator

import pytest

from tests.servers.slack import TOKEN, FakeSlack
from tests.support.sinks import Host, Make, made, make


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    """Close the sinks of the test."""
    yield
    while made:
        made.pop().close()


@pytest.fixture
def slack() -> Iterator[FakeSlack]:
    server = FakeSlack()
    yield server
    server.close()


@pytest.fixture
def webhook(slack: FakeSlack) -> Make:
    """`webhook(**options)`: a sink with an incoming webhook."""
    return lambda **options: make({"webhook_url": slack.webhook_url, "timeout": 60, **options})


@pytest.fixture
def bot(slack: FakeSlack) -> Make:
    """`bot(**options)`: a sink with a bot token."""
    return lambda **options: make(
        {"token": TOKEN, "channel": slack.channel, "api_url": slack.api_url, "timeout": 60, **options}, Host(slack)
    )
