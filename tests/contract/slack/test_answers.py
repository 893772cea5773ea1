"""Slack's answers decide what happens to a delivery."""

import json

import pytest

from handlers.contract import Refused, Unavailable
from handlers.testing.conformance import make_delivery
from tests.servers.slack import HOOK, FakeSlack
from tests.support.sinks import Make
from tests.support.waiting import Stopwatch


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
        (200, b"<html>sign in to the wifi</html>", Unavailable, "not like Slack"),
        (200, b"\xff\xfe\x00", Unavailable, "not like Slack"),
        (200, b"", Unavailable, "not like Slack"),
        (200, b"[" * 100_000, Unavailable, "not like Slack"),
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
        ("<!channel> secret payload", Unavailable, "not from Slack's API"),
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
    with pytest.raises(Unavailable, match="not from Slack's API"):
        bot().send(make_delivery())


@pytest.mark.parametrize("value", ["17", "17.0"])
def test_slacks_retry_after_is_passed_on(slack: FakeSlack, webhook: Make, bot: Make, value: str) -> None:
    slack.fail(HOOK, 429, headers={"Retry-After": value})
    slack.fail("chat.postMessage", 429, b'{"ok":false,"error":"ratelimited"}', headers={"Retry-After": value})
    for sink in (webhook(), bot()):
        with pytest.raises(Unavailable) as caught:
            sink.send(make_delivery())
        assert caught.value.retry_after == 17


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
        watch = Stopwatch()
        with pytest.raises(Unavailable, match="did not respond in time"):
            sink.send(make_delivery())
        watch.at_most(4.5)


def test_nothing_is_tried_twice_by_the_sink_itself(slack: FakeSlack, webhook: Make, bot: Make) -> None:
    slack.fail("", 500, times=9)
    for sink in (webhook(), bot()):
        with pytest.raises(Unavailable):
            sink.send(make_delivery())
    assert len(slack.calls) == 2
