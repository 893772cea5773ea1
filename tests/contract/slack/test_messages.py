"""One message for one delivery, posted once."""

from dataclasses import replace

import pytest

from handlers.contract import Notification, Refused, Unavailable
from handlers.testing.conformance import make_delivery, sample_run
from tests.servers.slack import FakeSlack
from tests.support.sinks import Make, now

# What is posted


def test_the_operators_template_is_used(slack: FakeSlack, webhook: Make) -> None:
    webhook(templates={"failed": "it broke: {{ reason }}"}).send(make_delivery(sample_run(failure_reason="<!here>")))
    assert slack.messages[0]["blocks"][2]["text"]["text"] == "it broke: &lt;!here&gt;"


def test_a_template_that_can_not_be_filled_is_refused(webhook: Make) -> None:
    with pytest.raises(Refused, match="nothing_such"):
        webhook(templates={"default": "{{ run.nothing_such }}"}).send(make_delivery())


def test_a_channel_may_be_given_by_name(slack: FakeSlack, bot: Make) -> None:
    sink = bot(channel="#ops")
    sink.send(make_delivery())
    assert len(slack.messages) == 1


# --- Posted once


def test_a_message_whose_answer_was_lost_is_not_posted_again(slack: FakeSlack, bot: Make) -> None:
    delivery = now(make_delivery())
    slack.fail("chat.postMessage", 500, after=True)
    with pytest.raises(Unavailable):
        bot().send(delivery)
    receipt = bot().send(replace(delivery, attempt=2))
    assert [message["ts"] for message in slack.messages] == [receipt.id]


def test_the_message_is_found_behind_many_others(slack: FakeSlack, bot: Make) -> None:
    delivery = now(make_delivery())
    bot().send(delivery)
    slack.page = 7
    for _ in range(20):
        bot().send(now(make_delivery()))
    bot().send(replace(delivery, attempt=2))
    assert len(slack.messages) == 21


# --- Notifications


@pytest.mark.parametrize("way", ["webhook", "bot"])
def test_a_notification_shows_commands_as_code_and_mentions_nobody(
    slack: FakeSlack, webhook: Make, bot: Make, way: str
) -> None:
    lines = ["• sink_down: <!channel> fails → `runhook sink test crm`", "• a ` alone"]
    sink = webhook() if way == "webhook" else bot()

    sink.notify(Notification("alert_1", "alert", "Runhook: 2 problems", lines, "https://x.example/console"))

    (message,) = slack.messages
    header, section, link = message["blocks"]
    assert (message["text"], header["text"]["text"]) == ("Runhook: 2 problems", "Runhook: 2 problems")
    shown = "• sink_down: &lt;!channel&gt; fails → `runhook sink test crm`\n• a ˋ alone"
    assert section["text"]["text"] == shown
    assert link["text"]["text"] == "<https://x.example/console|Open Runhook>"
    assert "thread_ts" not in message


def test_a_notification_that_slack_does_not_accept_raises(slack: FakeSlack, bot: Make) -> None:
    slack.fail("chat.postMessage", 500)
    with pytest.raises(Unavailable):
        bot().notify(Notification("alert_1", "alert", "Runhook: 1 problem", ["one"]))
