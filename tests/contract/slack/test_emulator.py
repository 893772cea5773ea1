"""What the sink posts, as a Slack that we did not write has it: messages, threads, counts, updates, files, scopes."""

from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from handlers.contract import Unavailable
from handlers.slack import SlackSink
from handlers.testing.conformance import NoServices, make_delivery, sample_run
from tests.servers.http import Reply, ScriptedServer
from tests.servers.slack_emulator import EmulatedSlack
from tests.support.sinks import failing, make, now

PNG = b"\x89PNG\r\n\x1a\n" + b"picture" * 1000


class Loopback(NoServices):
    """Services of a host that allows loopback addresses."""

    def sources(self) -> list[str]:
        return []

    def allowed_addresses(self) -> list[str]:
        return ["127.0.0.1"]


def bot(slack: EmulatedSlack, token: str = "", **options: Any) -> SlackSink:
    """A sink of a process that remembers nothing."""
    own = {"token": token or slack.token, "channel": slack.channel, "api_url": slack.api_url, "timeout": 60}
    return make({**own, **options}, Loopback())


def test_a_webhook_posts_the_whole_message(emulated_slack: EmulatedSlack) -> None:
    run = sample_run("tsk_by_webhook", workflow_title="Weekly invoices", failure_reason="No login form <!here>")
    sink = make({"webhook_url": emulated_slack.webhook_url, "timeout": 60})

    sink.send(make_delivery(run))

    (message,) = [each for each in emulated_slack.in_general() if "Weekly invoices" in each["text"]]
    assert message["text"] == "❌ Weekly invoices failed: No login form &lt;!here&gt;"
    assert message["blocks"][0]["type"] == "header"
    assert message["unfurl_links"] is False


def test_a_bots_receipt_is_the_messages_timestamp(emulated_slack: EmulatedSlack) -> None:
    receipt = bot(emulated_slack).send(now(make_delivery()))

    assert [message["ts"] for message in emulated_slack.top] == [receipt.id]


def test_a_delivery_that_is_tried_again_renews_its_message(emulated_slack: EmulatedSlack) -> None:
    delivery = now(make_delivery(sample_run(failure_reason="before")))
    first = bot(emulated_slack).send(delivery)
    for _ in range(3):
        bot(emulated_slack).send(now(make_delivery()))

    again = bot(emulated_slack).send(replace(delivery, attempt=2, run={**delivery.run, "failure_reason": "after"}))

    assert again.id == first.id
    message = emulated_slack.top[0]
    assert (len(emulated_slack.top), message["ts"], "after" in message["text"]) == (4, first.id, True)


def test_later_messages_of_a_run_reply_to_its_first(emulated_slack: EmulatedSlack) -> None:
    for attempt in (1, 2, 3):
        run = sample_run("wr_1", attempt=attempt, created_at=None)
        bot(emulated_slack, thread="run").send(now(make_delivery(run)))

    (first,) = emulated_slack.top
    assert len(emulated_slack.replies(first["ts"])) == 2


def test_an_incident_is_one_message_and_one_reply_that_counts(emulated_slack: EmulatedSlack) -> None:
    for _ in range(5):
        bot(emulated_slack, thread="incident").send(failing())

    (first,) = emulated_slack.top
    (count,) = emulated_slack.replies(first["ts"])
    assert "5 times by now" in count["text"]


def test_the_final_screenshot_is_a_file_in_the_thread(emulated_slack: EmulatedSlack) -> None:
    with ScriptedServer() as skyvern:
        skyvern.script += [Reply(200, {"content-type": "image/png"}, PNG)]
        urls = [f"{skyvern.url}/last.png", f"{skyvern.url}/first.png"]
        run = sample_run(screenshot_urls=urls, created_at=None)

        with closing(bot(emulated_slack)) as sink:
            receipt = sink.send(now(make_delivery(run)))

    (shown,) = emulated_slack.replies(receipt.id)
    (file,) = shown["files"]
    assert emulated_slack.content(file) == PNG
    assert [request.path for request in skyvern.requests] == ["/last.png"]
    assert receipt.note == ""


def test_a_bot_that_may_not_read_posts_and_says_what_it_lacks(emulated_slack: EmulatedSlack) -> None:
    sink = bot(emulated_slack, emulated_slack.blind_token, screenshot=False)
    delivery = now(make_delivery())
    sink.send(delivery)

    receipt = sink.send(replace(delivery, attempt=2))

    assert len(emulated_slack.top) == 2
    assert "channels:history" in receipt.note


@pytest.mark.parametrize(
    ("options", "said"), [({"token": "xoxb-nobodys"}, "token"), ({"channel": "C00000404"}, "no such channel")]
)
def test_what_an_operator_can_put_right_is_tried_again(
    emulated_slack: EmulatedSlack, options: dict[str, str], said: str
) -> None:
    with pytest.raises(Unavailable, match=said):
        bot(emulated_slack, **options).send(now(make_delivery()))
