"""The sink `slack` against a Slack on loopback that checks what Slack checks and fails when told to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from handlers.contract import Artifact, Delivery, Receipt, Refused, Unavailable
from handlers.slack import SlackOptions, SlackSink, threads
from handlers.testing.conformance import (
    NoServices,
    SinkConformance,
    SinkUnderTest,
    closed_port,
    make_delivery,
    sample_run,
    silent_port,
)
from tests.servers.slack import HOOK, TOKEN, FakeSlack
from tests.support.waiting import eventually

Make = Callable[..., SlackSink]


@pytest.fixture
def slack() -> Iterator[FakeSlack]:
    server = FakeSlack()
    yield server
    server.close()


@pytest.fixture
def webhook(slack: FakeSlack) -> Make:
    """`webhook(**options)`: a sink with an incoming webhook."""
    return lambda **options: make({"webhook_url": slack.webhook_url, "timeout": 5, **options})


@pytest.fixture
def bot(slack: FakeSlack) -> Make:
    """`bot(**options)`: a sink with a bot token."""
    return lambda **options: make(
        {"token": TOKEN, "channel": slack.channel, "api_url": slack.api_url, "timeout": 5, **options}, Host(slack)
    )


class Host(NoServices):
    """Lets loopback be fetched from, as if the operator had listed it, and knows fresh addresses."""

    def __init__(self, slack: FakeSlack) -> None:
        self.slack = slack

    def allowed_addresses(self) -> list[str]:
        return ["127.0.0.1"]

    def fresh_artifacts(self, delivery: Delivery) -> list[Artifact]:
        return [Artifact("screenshot", "s.png", self.slack.url + path) for path in self.slack.pages]


def make(options: Mapping[str, Any], services: NoServices | None = None) -> SlackSink:
    return SlackSink("ops", SlackOptions.model_validate(dict(options)), services or NoServices())


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
            # Idempotent from the second attempt on, which is when it matters; see "Once" below.
            yield SinkUnderTest(SlackSink, options, lambda: slack.messages, away=away, secrets=[TOKEN])


# Options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "either webhook_url, or token and channel"),
        (
            {"webhook_url": "https://hooks.slack.com/services/T/B/x", "token": "x", "channel": "C1"},
            "either webhook_url",
        ),
        ({"token": "xoxb-hush"}, "token needs channel"),
        ({"webhook_url": "hooks.slack.com/services/hush"}, "must be an address like https://hooks.slack.com/services"),
        ({"webhook_url": "http://hooks.slack.com/services/hush"}, "must begin with https://"),
        ({"webhook_url": "https://hooks.slack.com/hush hush"}, "must be an address like"),
        ({"webhook_url": "ftp://hooks.slack.com/hush"}, "must be an address like"),
        ({"webhook_url": "https://[hush"}, "is no address"),
        ({"webhook_url": "https://hooks.slack.com/x", "channel": "#ops"}, "channel goes with token"),
        ({"webhook_url": "https://hooks.slack.com/x", "thread": "run"}, "thread: run needs a bot token"),
        ({"token": "xoxb-hush", "channel": "#ops", "thread": "incident"}, "thread needs the channel's id"),
        ({"token": "xoxb\nhush", "channel": "#ops"}, "characters that no token has"),
        ({"token": "xoxb-hush", "channel": "#ops", "api_url": "http://slack.example/api/"}, "must begin with https://"),
        ({"webhook_url": "https://a.example/x", "templates": {"failed": "{{ hush"}}, "body, line 1"),
        (
            {"webhook_url": "https://a.example/x", "templates": {"failed": {"title": "{{ rum }}"}}},
            "unknown variable rum",
        ),
        ({"webhook_url": "https://a.example/x", "templates": {"fialed": "x"}}, "templates.fialed"),
        ({"webhook_url": "https://a.example/x", "window": 1}, "window"),
    ],
)
def test_wrong_options_say_what_would_be_right_and_no_secret(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        SlackOptions.model_validate(options)
    assert words in str(caught.value)
    assert "hush" not in str(caught.value).replace("{{ hush", "")


# What answers mean


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (400, b"invalid_payload", Refused, "Slack answered 400 invalid_payload"),
        (400, b"invalid_blocks", Refused, "invalid_blocks"),
        (413, b"", Refused, "413"),
        (403, b"action_prohibited", Unavailable, "an administrator of the workspace forbids it"),
        (404, b"no_service", Unavailable, "the webhook was revoked"),
        (404, b"channel_not_found", Unavailable, "no such channel"),
        (404, b"<html>not found</html>", Unavailable, "Slack answered 404"),
        (410, b"channel_is_archived", Unavailable, "the channel is archived"),
        (429, b"", Unavailable, "too many messages"),
        (500, b"rollup_error", Unavailable, "Slack answered 500"),
        (503, b"<html>", Unavailable, "Slack answered 503"),
        (200, b"<html>sign in to the wifi</html>", Unavailable, "not as Slack does"),
        (200, b"\xff\xfe\x00", Unavailable, "not as Slack does"),
        (200, b"", Unavailable, "not as Slack does"),
        (200, b"[" * 100_000, Unavailable, "not as Slack does"),
    ],
)
def test_a_webhooks_answer_decides_what_happens_next(
    slack: FakeSlack, webhook: Make, status: int, body: bytes, kind: type[Exception], words: str
) -> None:
    slack.fail(HOOK, status, body)
    with pytest.raises(kind, match=words) as caught:
        webhook().send(make_delivery())
    assert "html" not in str(caught.value)
    assert slack.messages == []


@pytest.mark.parametrize("body", [b"ok", b"OK\n", b'{"ok":true}', b'{"success": true}', b'{"result":"success"}'])
def test_slack_and_its_look_alikes_may_say_yes_in_their_own_way(slack: FakeSlack, webhook: Make, body: bytes) -> None:
    slack.fail(HOOK, 200, body)
    assert webhook().send(make_delivery()).id == "webhook"


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        ("invalid_blocks", Refused, "invalid_blocks"),
        ("msg_too_long", Refused, "msg_too_long"),
        ("channel_not_found", Unavailable, "no such channel, or the bot is not in it"),
        ("not_in_channel", Unavailable, "invite the bot"),
        ("invalid_auth", Unavailable, "the token is wrong"),
        ("missing_scope", Unavailable, "lacks a scope"),
        ("ratelimited", Unavailable, "too many messages"),
        ("internal_error", Unavailable, "internal_error"),
        ("a_word_of_2031", Unavailable, "a_word_of_2031"),
        ("<!channel> secret payload", Unavailable, "not as its API does"),
    ],
)
def test_the_apis_word_decides_what_happens_next(
    slack: FakeSlack, bot: Make, error: str, kind: type[Exception], words: str
) -> None:
    slack.fail("chat.postMessage", 200, json.dumps({"ok": False, "error": error}).encode())
    with pytest.raises(kind, match=words) as caught:
        bot().send(make_delivery())
    assert "payload" not in str(caught.value)


@pytest.mark.parametrize("body", [b"", b"ok", b"[]", b"null", b"\xff", b'{"ok": 1', b'"ok"'])
def test_an_answer_of_the_api_that_is_none_is_unavailable(slack: FakeSlack, bot: Make, body: bytes) -> None:
    slack.fail("chat.postMessage", 200, body)
    with pytest.raises(Unavailable, match="not as its API does"):
        bot().send(make_delivery())


@pytest.mark.parametrize("value", ["17", "17.0"])
def test_slacks_retry_after_is_passed_on(slack: FakeSlack, webhook: Make, bot: Make, value: str) -> None:
    slack.fail(HOOK, 429, headers={"Retry-After": value})
    slack.fail("chat.postMessage", 429, b'{"ok":false,"error":"ratelimited"}', headers={"Retry-After": value})
    for sink in (webhook(), bot()):
        with pytest.raises(Unavailable) as caught:
            sink.send(make_delivery())
        assert caught.value.retry_after == 17


def test_a_retry_after_may_be_a_date_and_is_a_day_at_the_most(slack: FakeSlack, webhook: Make) -> None:
    for value, least, most in [
        ("Fri, 01 Jan 2100 00:00:00 GMT", 86400, 86400),
        ("Sat, 01 Jan 2000 00:00:00 GMT", 0, 0),
    ]:
        slack.fail(HOOK, 429, headers={"Retry-After": value})
        with pytest.raises(Unavailable) as caught:
            webhook().send(make_delivery())
        assert caught.value.retry_after is not None
        assert least <= caught.value.retry_after <= most


@pytest.mark.parametrize("value", ["soon", "-5", "nan", "inf", "1e400", ""])
def test_a_retry_after_that_makes_no_sense_is_harmless(slack: FakeSlack, webhook: Make, value: str) -> None:
    slack.fail(HOOK, 429, headers={"Retry-After": value})
    with pytest.raises(Unavailable) as caught:
        webhook().send(make_delivery())
    assert caught.value.retry_after in (None, 0)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(slack: FakeSlack, webhook: Make, bot: Make, status: int) -> None:
    slack.fail(HOOK, status, headers={"Location": slack.url + "/elsewhere"})
    slack.fail("chat.postMessage", status, headers={"Location": slack.url + "/elsewhere"})
    for sink in (webhook(), bot()):
        with pytest.raises(Unavailable, match="redirect"):
            sink.send(make_delivery())
    assert [path for path, _ in slack.calls if "elsewhere" in path] == []


def test_a_slow_answer_is_given_up_in_time(slack: FakeSlack, webhook: Make, bot: Make) -> None:
    slack.fail(HOOK, 200, b"ok", delay=5)
    slack.fail("chat.postMessage", 200, b"{}", delay=5)
    for sink in (webhook(timeout=0.3), bot(timeout=0.3)):
        started = time.monotonic()
        with pytest.raises(Unavailable, match="did not answer in time"):
            sink.send(make_delivery())
        assert time.monotonic() - started < 4.5


def test_nothing_is_tried_twice_by_the_sink_itself(slack: FakeSlack, webhook: Make, bot: Make) -> None:
    slack.fail("", 500, times=9)
    for sink in (webhook(), bot()):
        with pytest.raises(Unavailable):
            sink.send(make_delivery())
    assert len(slack.calls) == 2


# Messages


def test_a_failed_run_is_told_in_the_channel(slack: FakeSlack, webhook: Make) -> None:
    run = sample_run(workflow_title="Weekly invoices", failure_reason="No login form")
    webhook().send(make_delivery(run))
    (message,) = slack.messages
    assert message["text"] == "❌ Weekly invoices failed: No login form"
    assert message["blocks"][0]["text"]["text"] == "❌ Weekly invoices failed"
    assert message["unfurl_links"] is False


def test_the_operators_template_is_used(slack: FakeSlack, webhook: Make) -> None:
    webhook(templates={"failed": "it broke: {{ reason }}"}).send(make_delivery(sample_run(failure_reason="<!here>")))
    assert slack.messages[0]["blocks"][2]["text"]["text"] == "it broke: &lt;!here&gt;"


def test_a_template_that_can_not_be_filled_is_refused(webhook: Make) -> None:
    with pytest.raises(Refused, match="nothing_such"):
        webhook(templates={"default": "{{ run.nothing_such }}"}).send(make_delivery())


def test_a_bots_receipt_is_the_messages_timestamp(slack: FakeSlack, bot: Make) -> None:
    receipt = bot().send(make_delivery())
    assert receipt.id == slack.messages[0]["ts"]


def test_a_channel_may_be_given_by_name(slack: FakeSlack, bot: Make) -> None:
    sink = bot(channel="#ops")
    sink.send(make_delivery())
    assert len(slack.messages) == 1


# Once


def test_a_message_whose_answer_was_lost_is_not_posted_again(slack: FakeSlack, bot: Make) -> None:
    delivery = now(make_delivery())
    slack.fail("chat.postMessage", 500, after=True)
    with pytest.raises(Unavailable):
        bot().send(delivery)
    receipt = bot().send(replace(delivery, attempt=2))
    assert [message["ts"] for message in slack.messages] == [receipt.id]


def test_a_replay_renews_the_message_in_its_place(slack: FakeSlack, bot: Make) -> None:
    delivery = now(make_delivery(sample_run(failure_reason="before")))
    first = bot().send(delivery)
    again = bot().send(replace(delivery, attempt=2, run={**delivery.run, "failure_reason": "after"}))
    assert again.id == first.id
    assert len(slack.messages) == 1
    assert "after" in slack.messages[0]["text"]


def test_the_message_is_found_behind_many_others(slack: FakeSlack, bot: Make) -> None:
    delivery = now(make_delivery())
    bot().send(delivery)
    slack.page = 7
    for _ in range(20):
        bot().send(now(make_delivery()))
    bot().send(replace(delivery, attempt=2))
    assert len(slack.messages) == 21


def test_a_bot_that_may_not_read_posts_again_and_says_so(slack: FakeSlack, bot: Make) -> None:
    slack.scopes.discard("channels:history")
    delivery = now(make_delivery())
    sink = bot()
    sink.send(delivery)
    receipt = sink.send(replace(delivery, attempt=2))
    assert len(slack.messages) == 2
    assert "channels:history" in receipt.note


# Threads


def now(delivery: Delivery) -> Delivery:
    """The delivery as if it had come in just now: the fake's timestamps are real ones."""
    return replace(delivery, received_at=datetime.now(UTC))


def failing(**changes: Any) -> Delivery:
    """One more failing run of one workflow, for one reason."""
    run = sample_run(**{"workflow_id": "wpid_1", "failure_reason": "No login form", "created_at": None, **changes})
    return now(make_delivery(run))


def test_later_messages_of_a_run_reply_to_its_first(slack: FakeSlack, bot: Make) -> None:
    runs = [sample_run("wr_1", attempt=number, created_at=None) for number in (1, 2, 3)]
    for run in runs:
        bot(thread="run").send(now(make_delivery(run)))  # a new sink each time: nothing is remembered
    bot(thread="run").send(now(make_delivery(sample_run("wr_2", created_at=None))))
    first, other = slack.top
    assert len(slack.replies(first["ts"])) == 2
    assert slack.replies(other["ts"]) == []


def test_a_reply_whose_answer_was_lost_is_not_posted_again(slack: FakeSlack, bot: Make) -> None:
    sink = bot(thread="run")
    sink.send(now(make_delivery(sample_run("wr_1", created_at=None))))
    later = now(make_delivery(sample_run("wr_1", created_at=None, attempt=2)))
    slack.fail("chat.postMessage", 500, after=True)
    with pytest.raises(Unavailable):
        sink.send(later)
    sink.send(replace(later, attempt=2))
    assert len(slack.messages) == 2


def test_an_incident_is_one_message_and_one_reply_that_counts(slack: FakeSlack, bot: Make) -> None:
    sink = bot(thread="incident")
    receipts = [sink.send(failing()) for _ in range(5)]
    (first,) = slack.top
    (count,) = slack.replies(first["ts"])
    assert "5 times by now" in count["text"]
    assert receipts[0].id == first["ts"]
    assert {receipt.id for receipt in receipts[1:]} == {count["ts"]}
    assert "seen 5 times" in receipts[-1].note


def test_other_workflows_reasons_and_successes_have_messages_of_their_own(slack: FakeSlack, bot: Make) -> None:
    sink = bot(thread="incident")
    for delivery in (failing(), failing(workflow_id="wpid_2"), failing(failure_reason="No search form")):
        sink.send(delivery)
    for _ in range(2):
        sink.send(replace(failing(), status="completed"))
    assert len(slack.top) == 5


def test_another_process_goes_on_with_the_same_count(slack: FakeSlack, bot: Make) -> None:
    first, second = bot(thread="incident"), bot(thread="incident")
    for sink in (first, second, first, second, second):
        sink.send(failing())
    bot(thread="incident").send(failing())
    assert len(slack.top) == 1
    (count,) = slack.replies(slack.top[0]["ts"])
    assert "6 times by now" in count["text"]


def test_a_delivery_is_counted_once_however_often_it_is_tried(slack: FakeSlack, bot: Make) -> None:
    sink = bot(thread="incident")
    first, second = failing(), failing()
    sink.send(first)
    slack.fail("chat.postMessage", 500, after=True)
    with pytest.raises(Unavailable):
        sink.send(second)
    for one in (second, first, second):
        sink.send(replace(one, attempt=2))
        bot(thread="incident").send(replace(one, attempt=3))
    assert len(slack.messages) == 2
    assert "2 times by now" in slack.messages[1]["text"]


def test_a_storm_is_one_message_and_few_calls(slack: FakeSlack, bot: Make) -> None:
    sink = bot(thread="incident", timeout=60)
    sink.send(failing())
    gate = slack.gates["chat.postMessage"] = threading.Event()
    with ThreadPoolExecutor(40) as pool:
        work = [pool.submit(sink.send, failing()) for _ in range(40)]
        (thread,) = sink._thread_poster._known.values()  # type: ignore[union-attr]
        eventually(lambda: len(thread.waiting) == 40)
        gate.set()
        assert all(isinstance(each.result(), Receipt) for each in work)
    assert len(slack.top) == 1
    (count,) = slack.replies(slack.top[0]["ts"])
    assert "41 times by now" in count["text"]
    # Whoever has the turn first counts those that had come by then, and the next one all the others.
    assert len(slack.called("chat.update")) <= 1


def test_a_first_message_is_not_counted_by_one_whose_turn_comes_at_once(
    slack: FakeSlack, bot: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = bot(thread="incident")
    turn, late = threads._turn, [failing()]

    @contextmanager
    def preempted(lock: threading.Lock, deadline: float) -> Iterator[None]:
        with turn(lock, deadline):
            yield
        if late:
            sink.send(late.pop())  # the lock is free, and its holder has not come further than that

    monkeypatch.setattr(threads, "_turn", preempted)

    sink.send(failing())

    (count,) = slack.replies(slack.top[0]["ts"])
    assert "2 times by now" in count["text"]


def test_an_incident_that_is_over_begins_anew(slack: FakeSlack, bot: Make) -> None:
    sink = bot(thread="incident", window=60)
    sink.send(failing())
    slack.messages[0]["ts"] = f"{time.time() - 100:.6f}"
    for one in (bot(thread="incident", window=60), bot(thread="incident", window=60)):
        one.send(failing())
    assert len(slack.top) == 2


def test_a_count_that_was_deleted_is_written_anew(slack: FakeSlack, bot: Make) -> None:
    sink = bot(thread="incident")
    for _ in range(3):
        sink.send(failing())
    del slack.messages[1]
    sink.send(failing())
    (count,) = slack.replies(slack.top[0]["ts"])
    assert "4 times by now" in count["text"]


def test_trouble_while_counting_loses_no_count(slack: FakeSlack, bot: Make) -> None:
    sink = bot(thread="incident")
    sink.send(failing())
    delivery = failing()
    for method in ("conversations.replies", "chat.postMessage"):
        slack.fail(method, 503)
        with pytest.raises(Unavailable):
            sink.send(delivery)
    sink.send(replace(delivery, attempt=2))
    assert "2 times by now" in slack.replies(slack.top[0]["ts"])[0]["text"]


def test_a_bot_that_may_not_read_counts_as_far_as_it_remembers(slack: FakeSlack, bot: Make) -> None:
    slack.scopes.discard("channels:history")
    sink = bot(thread="incident")
    for _ in range(4):
        sink.send(failing())
    assert len(slack.messages) == 2
    assert "4 times by now" in slack.messages[1]["text"]


def test_a_webhook_shows_an_incident_once_and_again_at_round_numbers(slack: FakeSlack, webhook: Make) -> None:
    sink = webhook(thread="incident")
    receipts = [sink.send(failing()) for _ in range(12)]
    assert len(slack.messages) == 2
    assert "10 times" in slack.messages[1]["text"]
    assert receipts[0].note == ""
    assert "number 12 of one incident" in receipts[-1].note


def test_a_webhooks_incident_is_not_counted_before_its_first_message_is_there(slack: FakeSlack, webhook: Make) -> None:
    sink = webhook(thread="incident")
    slack.fail(HOOK, 503, times=2)
    for _ in range(2):
        with pytest.raises(Unavailable):
            sink.send(failing())
    sink.send(failing())
    assert len(slack.messages) == 1


def test_a_send_that_waits_for_its_turn_gives_up_in_time(slack: FakeSlack, bot: Make) -> None:
    sink = bot(thread="incident", timeout=1)
    slack.fail("conversations.history", 200, b"{}", delay=10)
    errors: list[Exception] = []

    def send() -> None:
        try:
            sink.send(failing())
        except Unavailable as error:
            errors.append(error)

    started = time.monotonic()
    threads = [threading.Thread(target=send) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert time.monotonic() - started < 9
    assert len(errors) >= 1


# The final screenshot

PNG = b"\x89PNG\r\n\x1a\n" + b"picture" * 1000


def photographed(slack: FakeSlack, *paths: str, **changes: Any) -> Delivery:
    """A run whose screenshots, the newest first, are at `paths` of the fake."""
    urls = [slack.url + path for path in paths]
    return now(make_delivery(sample_run(screenshot_urls=urls, created_at=None, **changes)))


def test_the_final_screenshot_follows_in_the_messages_thread(slack: FakeSlack, bot: Make) -> None:
    slack.pages = {"/last.png": PNG, "/first.png": b"\x89PNG\r\n\x1a\nold"}
    receipt = bot().send(photographed(slack, "/last.png", "/first.png"))
    (file,) = slack.files.values()
    assert file["body"] == PNG
    assert (file["channel"], file["thread"]) == (slack.channel, slack.messages[0]["ts"])
    assert receipt.note == ""


def test_a_reply_in_a_runs_thread_has_its_screenshot_there_too(slack: FakeSlack, bot: Make) -> None:
    slack.pages = {"/last.png": PNG}
    for attempt in (1, 2):
        bot(thread="run").send(photographed(slack, "/last.png", run_id="wr_1", attempt=attempt))
    assert [file["thread"] for file in slack.files.values()] == [slack.top[0]["ts"]] * 2


def test_counted_runs_add_no_screenshots(slack: FakeSlack, bot: Make) -> None:
    slack.pages = {"/last.png": PNG}
    sink = bot(thread="incident")
    for _ in range(3):
        sink.send(photographed(slack, "/last.png"))
    assert len(slack.files) == 1


def test_a_lapsed_screenshot_is_asked_for_anew(slack: FakeSlack, bot: Make) -> None:
    slack.pages = {"/s.png": PNG}
    slack.fail("/s.png", 403)
    delivery = photographed(slack, "/s.png?expiry=1&sig=old")
    assert bot().send(delivery).note == ""
    assert [file["body"] for file in slack.files.values()] == [PNG]


def test_a_mirrored_screenshot_serves_when_the_senders_is_gone(slack: FakeSlack, bot: Make) -> None:
    slack.pages = {"/kept.png": PNG}
    receipts = {"archive": {"urls": {"screenshot-1.png": slack.url + "/kept.png"}}}
    receipt = bot().send(replace(photographed(slack, "/gone.png"), receipts=receipts))
    assert receipt.note == ""
    assert [file["body"] for file in slack.files.values()] == [PNG]


@pytest.mark.parametrize(
    ("pages", "fault", "words"),
    [
        ({}, None, "answered 404"),
        ({"/s.png": b"<html>sign in</html>"}, None, "is no picture"),
        (
            {"/s.png": PNG},
            ("files.getUploadURLExternal", 200, b'{"ok":false,"error":"missing_scope"}'),
            "lacks a scope",
        ),
        ({"/s.png": PNG}, ("/upload/", 500, b"no"), "did not take the file"),
        ({"/s.png": PNG}, ("files.completeUploadExternal", 429, b""), "too many messages"),
    ],
)
def test_trouble_with_a_screenshot_is_a_note_and_the_message_stands(
    slack: FakeSlack, bot: Make, pages: dict[str, bytes], fault: tuple[str, int, bytes] | None, words: str
) -> None:
    slack.pages = pages
    if fault:
        slack.fail(*fault)
    receipt = bot().send(photographed(slack, "/s.png"))
    assert len(slack.messages) == 1
    assert receipt.note.startswith("no screenshot: ")
    assert words in receipt.note


def test_a_payload_can_not_have_a_private_address_fetched(slack: FakeSlack) -> None:
    slack.pages = {"/s.png": PNG}
    sink = make({"token": TOKEN, "channel": slack.channel, "api_url": slack.api_url})
    receipt = sink.send(photographed(slack, "/s.png"))
    assert "a loopback address" in receipt.note
    assert slack.called("/s.png") == []
    sink.close()


def test_no_screenshot_is_sent_where_it_is_not_wanted_or_by_webhook(slack: FakeSlack, bot: Make, webhook: Make) -> None:
    slack.pages = {"/s.png": PNG}
    for sink in (bot(screenshot=False), webhook()):
        assert sink.send(photographed(slack, "/s.png")).note == ""
    assert slack.files == {}


def test_an_upload_address_that_is_less_safe_than_the_api_is_not_used(slack: FakeSlack, bot: Make) -> None:
    slack.pages = {"/s.png": PNG}
    answer = {"ok": True, "file_id": "F1", "upload_url": "ftp://files.example/x"}
    slack.fail("files.getUploadURLExternal", 200, json.dumps(answer).encode())
    assert "not safe" in bot().send(photographed(slack, "/s.png")).note
