"""The quarantine in the console: what is in it, checked again, dropped."""

from __future__ import annotations

import hashlib
import hmac
import time

import orjson
import pytest

from receiver.ingest.quarantine import Quarantine, QuarantinedRequest
from receiver.ledger.access import audit
from tests.servers.submitting import Submitting
from tests.support.console import HOSTILE, Browser, tags


def store_of(server: Submitting) -> Quarantine:
    return Quarantine(server.settings.data / "quarantine", 1000, 64 << 20)


def put(server: Submitting, secret: str = "unknown", source: str = "skyvern", **fields: object) -> str:
    """Put a request there that was signed with this secret, and return its id."""
    body = orjson.dumps({"run_id": "tsk_1", "status": "completed", "run_type": "task_v1", **fields})
    signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    request = QuarantinedRequest.of(source, signature, body, "", time.time() - 60)
    store_of(server).add(request, body)
    return request.id


def actions(server: Submitting) -> list[tuple[str, str, int]]:
    """The audit's lines, the newest first."""
    rows = server.ledger.read(lambda it: audit.list_actions(it))
    return [(each.action, each.actor, each.count) for each in rows]


def test_an_empty_quarantine_says_so(browser: Browser) -> None:
    browser.sign_in()
    page = browser.get("/quarantine").text
    assert "The quarantine is empty" in page
    assert "Drop all" not in page


def test_buttons_for_all_say_how_many_they_are_for(browser: Browser, console_server: Submitting) -> None:
    browser.sign_in()
    put(console_server)
    page = browser.get("/quarantine").text
    assert "Drop it" in page
    assert " all 1" not in page
    put(console_server, secret="other")
    assert "Drop all 2" in browser.get("/quarantine").text


def test_one_request_tells_what_is_wrong(browser: Browser, console_server: Submitting) -> None:
    # Given one whose secret is known now, and one whose secret is not
    wrong, right = put(console_server), put(console_server, secret="other", title="known now")
    browser.sign_in()
    listed = browser.get("/quarantine").text
    assert "Did the API key change?" in listed
    assert f"/console/quarantine/{wrong}" in listed
    # Then each says what is wrong, with its body
    page = browser.get(f"/quarantine/{wrong}").text
    assert "The signature matches no secret of the source" in page
    assert "tsk_1" in page
    assert "Its signature is valid now" in browser.get(f"/quarantine/{right}").text
    # And a body shows no secret of a run
    masked = put(console_server, extra_http_headers={"authorization": "sesame"})
    assert "sesame" not in browser.get(f"/quarantine/{masked}").text


def test_what_is_authentic_now_goes_in(browser: Browser, console_server: Submitting) -> None:
    # Given one whose secret is known now, and one whose secret is not
    right = put(console_server, secret="other")
    wrong = put(console_server, run_id="tsk_2")
    browser.sign_in()
    # When all is checked again, by the form of the page
    answer = browser.press("/quarantine", "verify_quarantine")
    assert answer.status_code == 303
    # Then the one went in, and the other stays
    page = browser.get("/quarantine").text
    assert "1 of 2 had a valid signature and were accepted" in page
    assert right not in page
    assert wrong in page
    assert actions(console_server)[0] == ("quarantine.verify", "admin", 1)


def test_dropping_asks_first(browser: Browser, console_server: Submitting) -> None:
    put(console_server)
    put(console_server, run_id="tsk_2")
    browser.sign_in()
    asked = browser.press("/quarantine", "drop_quarantine")
    assert "Drop permanently?" in asked.text
    assert len(store_of(console_server).list()) == 2
    assert browser.answer(asked).status_code == 303
    assert store_of(console_server).list() == []
    assert actions(console_server)[0] == ("quarantine.drop", "admin", 2)
    assert "2 dropped." in browser.get("/quarantine").text


def test_what_came_meanwhile_is_not_dropped_unseen(browser: Browser, console_server: Submitting) -> None:
    put(console_server)
    browser.sign_in()
    asked = browser.press("/quarantine", "drop_quarantine")
    # Given another one of before, such as of another process, since the question
    put(console_server, run_id="tsk_2")
    answer = browser.answer(asked)
    assert answer.status_code == 409
    assert len(store_of(console_server).list()) == 2


def test_who_may_look_at_one_source_sees_its_requests_alone(browser: Browser, console_server: Submitting) -> None:
    foreign = put(console_server)
    browser.sign_in("ana")
    assert foreign not in browser.get("/quarantine").text
    assert browser.get(f"/quarantine/{foreign}").status_code == 404
    assert browser.act("drop_quarantine", ids=foreign, sure="yes").status_code == 403
    browser.sign_in("olga")
    page = browser.get("/quarantine").text
    assert foreign in page
    assert browser.get(f"/quarantine/{foreign}").status_code == 200


@pytest.mark.parametrize("text", HOSTILE)
def test_no_body_becomes_markup(browser: Browser, console_server: Submitting, text: str) -> None:
    plain, hostile = put(console_server, title="plain"), put(console_server, title=text, status=text, run_type=text)
    browser.sign_in()
    assert tags(browser.get(f"/quarantine/{hostile}").text) == tags(browser.get(f"/quarantine/{plain}").text)
