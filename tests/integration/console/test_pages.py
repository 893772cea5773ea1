"""What pages show, and that nothing of a payload becomes a part of the page."""

from __future__ import annotations

import re

import pytest

from tests.servers.submitting import Submitting
from tests.support.console import HOSTILE, Browser, tags
from tests.support.ledger import new_event, record


def test_runs_are_listed_and_told(browser: Browser, console_server: Submitting) -> None:
    # Given a run
    record(console_server.ledger, new_event("tsk_1", "results", title="Fetch invoices"))
    browser.sign_in()
    # Then it stands in the list and on the overview
    for path in ("/", "/runs", "/runs?status=completed", "/runs?run_prefix=tsk&status="):
        page = browser.get(path).text
        assert '<a href="/console/runs/tsk_1?source=skyvern"><span class="brief">Fetch invoices</span></a>' in page
        assert '<span class="mono">tsk_1</span>' in page
    assert "No run matches" in browser.get("/runs?status=failed").text
    # And its page tells what became of it
    page = browser.get("/runs/tsk_1").text
    assert "webhook: completed, new" in page
    assert "By route everything" in page
    # And a list has no cell without a word: what is not there says so
    record(
        console_server.ledger,
        new_event("tsk_2", prompt="Log in\nThen pay", status="failed", attempt=1, retry_pending=True),
    )
    listed = browser.get("/runs").text
    assert "retry pending: attempt 2" in listed
    assert '<span class="brief">Log in</span></a>' in listed
    assert "<h1>Log in</h1>" in browser.get("/runs/tsk_2").text
    assert not re.search(r"<td[^>]*>\s*</td>", listed)


def test_a_list_goes_on(browser: Browser, console_server: Submitting) -> None:
    for number in range(3):
        record(console_server.ledger, new_event(f"tsk_{number}"), now=1_700_000_000.0 + number)
    browser.sign_in()
    first = browser.get("/runs?limit=2&status=completed").text
    link = re.search(r'href="(/console/runs\?[^"]*after=[^"]*)"', first)
    assert link
    second = browser.session.get(link[1].replace("&amp;", "&")).text
    assert "tsk_0" in second
    assert "tsk_1" not in second


@pytest.mark.parametrize("text", HOSTILE)
def test_no_payload_becomes_markup(browser: Browser, console_server: Submitting, text: str) -> None:
    # Given a run, and one that is hostile in all that a page shows of it
    record(console_server.ledger, new_event("plain"))
    event = new_event(f"tsk_{text}", title=text, failure_reason=text, status=text, workflow_permanent_id=text)
    record(console_server.ledger, event)
    browser.sign_in()
    shown = browser.get("/runs").text
    clean = tags(browser.get("/runs?run_prefix=plain").text)
    # Then the pages have no tag that they would not have without it
    assert tags(shown) - clean <= {"<a class href>"}
    href = re.search(r'<tr data-href="([^"]+)"', browser.get("/runs?run_prefix=tsk_").text)
    assert href
    page = browser.session.get(href[1].replace("&amp;", "&"))
    assert page.status_code == 200
    assert tags(page.text) - clean <= {"<a class href>"}


def test_a_wrong_filter_says_what_is_wrong(browser: Browser) -> None:
    browser.sign_in()
    answer = browser.get("/runs?since=yesterday")
    assert answer.status_code == 422
    assert "<b>Since</b> must be a time ago such as 15m" in answer.text


def test_what_is_not_there(browser: Browser) -> None:
    browser.sign_in()
    assert "Run tsk_9: not found" in browser.get("/runs/tsk_9").text
    assert browser.get("/runs/tsk_9").status_code == 404
    assert browser.get("/nowhere").status_code == 404


def test_an_error_leads_back(browser: Browser) -> None:
    browser.sign_in()
    # A filter that is wrong: to the page without it
    wrong = browser.get("/runs?since=rubbish")
    assert wrong.status_code == 422
    assert '<a class="button" href="/console/runs">Clear</a>' in wrong.text
    # A button that is refused: to the page that it was on
    refused = browser.post(
        "/do/pause_sink", form_token=browser.form_token, sink="nobody", sure="yes", back="/console/sinks?x=1"
    )
    assert refused.status_code in (404, 422)
    assert '<a class="button" href="/console/sinks?x=1">Go back</a>' in refused.text
    # And never to elsewhere
    form = {"form_token": browser.form_token, "sink": "nobody", "sure": "yes", "back": "https://evil.test/"}
    assert "evil.test" not in browser.post("/do/pause_sink", **form).text


def test_a_filter_that_is_wrong_is_shown_as_it_was_typed(browser: Browser) -> None:
    browser.sign_in()
    # When two fields of three can't be understood, one of them seldom needed
    wrong = browser.get("/runs?text=invoice&since=last+week&until=%3Cb%3Enow")
    # Then the form has all three, and what is wrong with two is said above it
    assert wrong.status_code == 422
    assert 'value="invoice"' in wrong.text
    assert 'name="since" value="last week" aria-invalid="true" aria-describedby="wrong-since"' in wrong.text
    assert re.search(r'id="wrong-since"><b>Since</b> must be a time[^<]*</li>', wrong.text)
    assert re.search(r'<li id="wrong-until">.*<details open>.*value="&lt;b&gt;now" aria-invalid', wrong.text, re.DOTALL)
    assert "<b>now" not in wrong.text
    # And no row, for those that match are not known
    assert "<table" not in wrong.text


def test_commands_in_what_is_said_are_code(browser: Browser) -> None:
    browser.sign_in()
    assert re.search(r"<code>runhook [^<`]+</code>", browser.get("/").text)


def test_empty_list_says_what_fills_it(browser: Browser) -> None:
    browser.sign_in()
    for path, text in [
        ("/", "No run yet."),
        ("/audit", "No actions recorded yet"),
        ("/dead", "No dead letter"),
        ("/dead?since=1h", "No delivery matches"),
        ("/deliveries", "Nothing was delivered yet"),
        ("/missing", "Nothing is missing"),
        ("/operations", "No operation yet"),
        ("/agents", "set <code>watch: true</code>"),
        ("/agents", "No agent is known."),
        ("/submissions", "Nothing was submitted yet."),
    ]:
        assert text in browser.get(path).text, path
