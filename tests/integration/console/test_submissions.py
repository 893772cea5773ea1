"""Submissions in the console: the list, and one with its run and what it waits for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from receiver.domain.event import short_id
from receiver.domain.submission import NewSubmission, SubmissionMove
from receiver.ledger.submissions import lifecycle
from receiver.ledger.submissions.lifecycle import SubmitOutcome
from tests.servers.submitting import Submitting
from tests.support.console import HOSTILE, Browser, tags
from tests.support.ledger import new_event, record


def submitted(
    server: Submitting,
    name: str = "one",
    run_id: str = "",
    source: str = "skyvern",
    key: str = "k1",
    **fields: Any,
) -> str:
    """Record a submission; with `run_id` Skyvern has answered. Returns its id."""
    new = NewSubmission(f"sub_{name}", source, key, "tasks", name, **fields)
    server.ledger.write(lambda it: lifecycle.begin(it, new, time.time()))
    if run_id:
        answer = SubmitOutcome(SubmissionMove.ACCEPT, run_id, "task_v1", 200, b"{}", due_at=time.time() + 600)
        server.ledger.write(lambda it: lifecycle.record_outcome(it, new.id, answer, time.time()))
    return new.id


def test_submissions_are_listed_and_found(browser: Browser, console_server: Submitting) -> None:
    # Given two submissions, one of which Skyvern has taken
    taken = submitted(console_server, "taken", "tsk_1", title="Fetch invoices", labels={"team": "web"})
    waits = submitted(console_server, "waits", prompt="Renew the domain")
    browser.sign_in()
    # Then both are in the list, and each by its state, run or label alone
    page = browser.get("/submissions").text
    assert f"/console/submissions/{taken}" in page
    assert f"/console/submissions/{waits}" in page
    for query in ("state=accepted", "run=tsk_1", "label=team%3Dweb"):
        found = browser.get(f"/submissions?{query}&text=").text
        assert "Fetch invoices" in found
        assert "Renew the domain" not in found
    assert "No submission matches" in browser.get("/submissions?state=lost").text


def test_submission_without_title_shows_its_short_id(browser: Browser, console_server: Submitting) -> None:
    found = submitted(console_server, "0123456789abcdef0123456789abcdef")
    browser.sign_in()
    assert f">tasks {short_id(found)}</a>" in browser.get("/submissions").text


def test_one_tells_what_it_asked_for_and_waits_for(browser: Browser, console_server: Submitting) -> None:
    # Given one whose run has told nothing yet
    found = submitted(console_server, "taken", "tsk_1", title="Fetch invoices", request={"prompt": "Log in first"})
    browser.sign_in()
    page = browser.get(f"/submissions/{found}").text
    assert "Log in first" in page
    assert "tsk_1: no event yet" in page
    assert "ask Skyvern for the result" in page
    assert "Submit again" not in page
    # When its run has failed
    record(console_server.ledger, new_event("tsk_1", status="failed"))
    # Then it is there
    page = browser.get(f"/submissions/{found}").text
    assert '<a href="/console/runs/tsk_1?source=skyvern">' in page
    assert f'<a href="/console/submissions/{found}">Submission</a>' in browser.get("/runs/tsk_1").text
    # And there is no button for it where no sink submits runs again
    assert "Submit again" not in page


@pytest.mark.parametrize("webhook", ["", "https://shop.example.com/hook"])
def test_pages_name_key_and_webhook(browser: Browser, console_server: Submitting, webhook: str) -> None:
    # Given a submission with the key "app", whose run has no result yet
    key = console_server.key("submit").split("_")[1]
    request = {"prompt": "Log in first", "x-runhook-call": {"path": "/v1/run/tasks"}}
    found = submitted(console_server, "taken", "tsk_1", key=key, request=request, webhook_url=webhook)
    browser.sign_in()
    waiting = browser.get("/runs/tsk_1?source=skyvern")
    # Then its run's page is that of the submission
    assert waiting.status_code == 200
    assert browser.get("/runs/").status_code == 404
    assert "tsk_1: no event yet" in waiting.text
    record(console_server.ledger, new_event("tsk_1"))
    # And each page names the key, says whether the caller has a webhook, and shows no header of Runhook's
    for page in (waiting.text, browser.get("/runs/tsk_1").text, browser.get(f"/submissions/{found}").text):
        assert "<dt>key</dt><dd>app</dd>" in page
        assert ("the caller gave one" in page) == bool(webhook)
        assert ("none from the caller" in page) != bool(webhook)
        assert webhook == "" or webhook not in page
        assert "x-runhook-call" not in page


def test_one_whose_run_has_failed_is_submitted_again(
    submitting: Callable[..., Submitting], hashed_password: str
) -> None:
    again = {"type": "resubmit", "base_url": "http://127.0.0.1:9", "key": "rhk_x"}
    server = submitting(
        "http://127.0.0.1:9", dispatching=False, console_password=hashed_password, sinks={"again": again}
    )
    found = submitted(server, "taken", "tsk_1", title="Fetch invoices", request={"prompt": "Log in first"})
    record(server.ledger, new_event("tsk_1", status="failed", failure_reason="Timeout"), now=time.time() - 10)
    browser = Browser(server.url)
    browser.sign_in()
    for path in (f"/submissions/{found}", "/incidents"):
        assert "Submit these failed runs again?" in browser.click(browser.get(path), "Submit again").text
    browser.session.close()


def test_one_that_is_not_there(browser: Browser, console_server: Submitting) -> None:
    foreign = submitted(console_server)
    browser.sign_in()
    assert browser.get("/submissions/sub_none").status_code == 404
    browser.sign_in("ana")
    assert browser.get(f"/submissions/{foreign}").status_code == 404
    assert foreign not in browser.get("/submissions").text


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_of_a_submission_becomes_markup(browser: Browser, console_server: Submitting, text: str) -> None:
    hostile = {"title": text, "labels": {text: text}, "request": {text: text, "prompt": text}}
    ids = [
        submitted(console_server, "plain", title="plain", request={"a": "b", "prompt": "p"}, labels={"a": "b"}),
        submitted(console_server, "hostile", **hostile),
    ]
    browser.sign_in()
    plain, shown = (browser.get(f"/submissions/{each}").text for each in ids)
    assert tags(shown) == tags(plain)
