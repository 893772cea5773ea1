"""What fails alike, and what is missing."""

from __future__ import annotations

import html
import re
from collections.abc import Callable

import sqlalchemy as sa

from receiver.ledger.access import audit, redis_losses
from receiver.ledger.access.audit import AuditActor
from receiver.ledger.schema import deliveries, polls
from tests.servers.submitting import Submitting
from tests.support.console import Browser
from tests.support.ledger import new_event, poll_row, record, work_off


def test_an_incident_leads_to_its_runs(browser: Browser, console_server: Submitting) -> None:
    # Given runs of which two failed alike, in one workflow
    now = console_server.ledger.now() - 10
    for number, reason in enumerate(["Timeout after 30 s", "Timeout after 31 s", "Login failed"]):
        fields = {"status": "failed", "failure_reason": reason, "workflow_permanent_id": "wpid_1"}
        record(console_server.ledger, new_event(f"tsk_{number}", **fields), now=now)
    browser.sign_in()
    page = browser.get("/incidents").text
    assert page.count('data-href="/console/runs?') == 2
    # Then its link finds these two
    link = re.search(r'<a href="(/console/runs\?[^"]*reason=Timeout[^"]*)"', page)
    assert link
    listed = browser.session.get(html.unescape(link[1])).text
    assert "tsk_0" in listed
    assert "tsk_1" in listed
    assert "tsk_2" not in listed
    # And there is no button to submit them again where no sink does that
    assert "Submit again" not in page
    # And nothing is there for who may not see them
    browser.sign_in("ana")
    assert "No run failed, was terminated or timed out in the last 24 hours." in browser.get("/incidents").text


def resubmitted(server: Submitting) -> set[tuple[str, str]]:
    """Run and sink of each delivery, once all operations are done."""
    work_off(server.ledger)
    made = sa.select(deliveries.c.run_id, deliveries.c.sink)
    return {(row.run_id, row.sink) for row in server.ledger.read(lambda it: it.execute(made).all())}


def test_matching_failed_runs_go_to_the_chosen_sink(
    submitting: Callable[..., Submitting], hashed_password: str
) -> None:
    # Given two sinks that submit runs again, a run that has failed and one that has not
    sinks = {
        name: {"type": "resubmit", "base_url": "http://127.0.0.1:9", "key": "rhk_x"} for name in ("here", "abroad")
    }
    server = submitting("http://127.0.0.1:9", dispatching=False, console_password=hashed_password, sinks=sinks)
    for name, status in (("tsk_1", "failed"), ("tsk_2", "completed"), ("tsk_3", "failed")):
        record(server.ledger, new_event(name, status=status, title="Invoices"), now=server.ledger.now() - 10)
    browser = Browser(server.url)
    browser.sign_in()
    # Then no button takes all runs that there are, nor any of which none has failed, nor what no filter of it finds
    for path in ("/runs", "/runs?title=Invoices&status=completed", "/runs?title=Invoices&sink=here"):
        assert "Submit all failed again" not in browser.get(path).text, path
    # When one chooses a sink for all that match
    asked = browser.click(browser.get("/runs?title=Invoices"), "Submit all failed again by abroad")
    assert "Submit these failed runs again?" in asked.text
    assert "tsk_2" not in asked.text
    done = browser.click(asked, "Submit again 2")
    # Then these, and no others, are that sink's
    assert "2 submitted again" in done.text
    assert resubmitted(server) == {("tsk_1", "abroad"), ("tsk_3", "abroad")}
    # And of selected rows the other sink takes the one that was chosen
    asked = browser.click(browser.get("/runs"), "Submit again by here selected", ids="tsk_1")
    browser.click(asked, "Submit again 1")
    assert resubmitted(server) == {("tsk_1", "abroad"), ("tsk_3", "abroad"), ("tsk_1", "here")}
    browser.session.close()


def test_missing_page_says_what_it_cannot_list(console_server: Submitting, browser: Browser) -> None:
    # Given that Redis lost results that were acknowledged
    actor = AuditActor("process", "dispatch")
    console_server.ledger.write(lambda it: audit.record(it, actor, redis_losses.LOSS, {}, 0))
    browser.sign_in()
    page = browser.get("/missing").text
    # Then no list of known runs is taken for all, and the command that fetches them can be copied
    assert "Nothing is missing" not in page
    assert "Other results may be missing, or come late" in page
    assert "Redis lost its data at" in page
    assert 'data-copy="runhook reconcile --since 25h --import --now"' in page
    # And a person of one source sees only the list
    browser.sign_in("olga")
    assert "Redis lost" not in browser.get("/missing").text


def test_what_is_missing(browser: Browser, console_server: Submitting) -> None:
    browser.sign_in("olga")
    assert "Nothing is missing" in browser.get("/missing").text
    # Given a run whose end Skyvern was asked for in vain
    event = new_event("tsk_1", status="running", title="Fetch <invoices>")
    record(console_server.ledger, event)
    console_server.ledger.write(
        lambda it: it.execute(polls.insert().values(poll_row("skyvern", "tsk_1", 1.0, 1.0, polls=3)))
    )
    page = browser.get("/missing").text
    assert '<a href="/console/runs/tsk_1?source=skyvern">Fetch &lt;invoices&gt;</a>' in page
    assert '<td class="num" data-head="polls">3</td>' in page
    assert "No overdue result matches" in browser.get("/missing?run_prefix=wr").text
    assert "<b>1</b><span>results overdue</span>" in browser.get("/").text
