"""The sink `slack` passes the conformance suite, by webhook and by bot."""

from collections.abc import Iterator

import pytest

from handlers.slack import SlackSink
from handlers.testing.conformance import SinkConformance, SinkUnderTest, closed_port, silent_port
from tests.servers.slack import HOOK, TOKEN, FakeSlack


class TestWebhook(SinkConformance):
    @pytest.fixture
    def target(self, slack: FakeSlack) -> Iterator[SinkUnderTest]:
        with silent_port() as silent:
            away = {
                "nothing listens": {"webhook_url": f"http://127.0.0.1:{closed_port()}{HOOK}", "timeout": 1},
                "never answers": {"webhook_url": f"http://127.0.0.1:{silent}{HOOK}", "timeout": 0.3},
            }
            yield SinkUnderTest(
                SlackSink,
                {"webhook_url": slack.webhook_url},
                lambda: slack.messages,
                away=away,
                secrets=[HOOK, HOOK[-12:]],
            )


class TestBot(SinkConformance):
    @pytest.fixture
    def target(self, slack: FakeSlack) -> Iterator[SinkUnderTest]:
        options = {"token": TOKEN, "channel": slack.channel, "api_url": slack.api_url}
        with silent_port() as silent:
            away = {
                "nothing listens": {**options, "api_url": f"http://127.0.0.1:{closed_port()}/api/", "timeout": 1},
                "never answers": {**options, "api_url": f"http://127.0.0.1:{silent}/api/", "timeout": 0.3},
            }
            # Idempotent from the second attempt on, which is when it matters; see test_messages.py.
            yield SinkUnderTest(SlackSink, options, lambda: slack.messages, away=away, secrets=[TOKEN])
