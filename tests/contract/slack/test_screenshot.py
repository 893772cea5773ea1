"""The final screenshot follows in the message's thread."""

import json
from dataclasses import replace
from typing import Any

import pytest

from handlers.contract import Delivery
from handlers.testing.conformance import make_delivery, sample_run
from tests.servers.slack import TOKEN, FakeSlack
from tests.support.sinks import Make, make, now

PNG = b"\x89PNG\r\n\x1a\n" + b"picture" * 1000


def photographed(slack: FakeSlack, *paths: str, **changes: Any) -> Delivery:
    """A run whose screenshots, the newest first, are at `paths` of the fake."""
    urls = [slack.url + path for path in paths]
    return now(make_delivery(sample_run(screenshot_urls=urls, created_at=None, **changes)))


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
        ({"/s.png": b"<html>sign in</html>"}, None, "does not return an image"),
        ({"/s.png": PNG}, ("files.getUploadURLExternal", 200, b'{"ok":false,"error":"missing_scope"}'), "lacks a"),
        ({"/s.png": PNG}, ("/upload/", 500, b"no"), "did not accept the file"),
        ({"/s.png": PNG}, ("files.completeUploadExternal", 429, b""), "too many messages"),
    ],
)
def test_failed_screenshot_is_a_note_on_the_receipt(
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


def test_screenshot_is_optional_and_never_sent_by_webhook(slack: FakeSlack, bot: Make, webhook: Make) -> None:
    slack.pages = {"/s.png": PNG}
    for sink in (bot(screenshot=False), webhook()):
        assert sink.send(photographed(slack, "/s.png")).note == ""
    assert slack.files == {}


def test_upload_address_without_tls_is_not_used(slack: FakeSlack, bot: Make) -> None:
    slack.pages = {"/s.png": PNG}
    answer = {"ok": True, "file_id": "F1", "upload_url": "ftp://files.example/x"}
    slack.fail("files.getUploadURLExternal", 200, json.dumps(answer).encode())
    assert "unsafe upload address" in bot().send(photographed(slack, "/s.png")).note
