"""A page that refreshes in a browser: what changes in it, and what stays as its reader had it."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.servers.console import ConsoleDeployment
from tests.support.browser_pages import Visitor, visitor
from tests.support.ledger import new_event, record

pytestmark = pytest.mark.long


@pytest.fixture
def person(chromium: Browser, deployment: ConsoleDeployment) -> Iterator[Visitor]:
    with visitor(chromium, deployment.url) as it:
        it.sign_in()
        yield it


def test_new_row_appears_and_focus_stays(person: Visitor, deployment: ConsoleDeployment) -> None:
    # Given somebody at the second row of a list
    person.open("/console/runs")
    person.page.keyboard.press("j")
    person.page.keyboard.press("j")
    marked = person.page.locator("tr.here td a").first.inner_text()
    # When a run comes
    record(deployment.ledger, new_event("tsk_arrived", title="Arrived <i>now</i>"), now=deployment.ledger.now())
    # Then it is the first row, as text, and the marked one is still marked, and in focus
    expect(person.page.locator("tbody tr").first).to_contain_text("tsk_arrived")
    assert "<i>" in person.page.locator("tbody tr").first.inner_text()
    assert person.page.locator("tr.here td a").first.inner_text() == marked
    assert person.page.evaluate("document.activeElement.textContent") == marked
    assert person.complaints == []


def test_open_details_stay_open_and_forms_keep_their_token(person: Visitor, deployment: ConsoleDeployment) -> None:
    # Given an overview with one table of a chart open
    person.open("/console/")
    table = person.page.locator("#charts details").first
    table.locator("summary").click()
    # When one refresh has no charts, as while the ledger is slow
    short = {"body": '<div id="live"><p>slow</p></div>', "content_type": "text/html"}
    person.page.route("**/console/", lambda route: route.fulfill(**short), times=1)
    expect(table).to_have_count(0)
    # Then the table is open in the next one, which has a new run
    record(deployment.ledger, new_event("tsk_later"), now=deployment.ledger.now())
    expect(person.page.locator("#newest")).to_contain_text("tsk_later")
    expect(table).to_have_attribute("open", "")
    # And incidents, whose buttons came with the page or with a refresh
    person.open("/console/incidents")
    failed = new_event("tsk_failed", status="failed", failure_reason="An entirely new trouble")
    record(deployment.ledger, failed, now=deployment.ledger.now())
    expect(person.page.locator("#live")).to_contain_text("An entirely new trouble")
    token = person.page.locator("#pages [name=form_token]").first.input_value()
    tokens = person.page.locator("#live [name=form_token]").evaluate_all("all => all.map(each => each.value)")
    assert set(tokens) == {token}
    expect(person.page.locator("#not-live")).to_be_hidden()


def test_page_shows_that_it_cannot_refresh(person: Visitor) -> None:
    # Given a page that the server refuses while it is open
    person.open("/console/runs")
    person.page.route("**/console/runs", lambda route: route.fulfill(status=503))
    expect(person.page.locator("#not-live")).to_be_visible()
    # When the server is back
    person.page.unroute("**/console/runs")
    # Then the page refreshes again
    expect(person.page.locator("#not-live")).to_be_hidden()


def test_run_refreshes_and_its_recording_plays_on(person: Visitor, deployment: ConsoleDeployment) -> None:
    # Given somebody who looks at a run with a recording, and has folded a part of its output
    person.open("/console/runs/wr_512004417?source=skyvern")
    page, folded = person.page, person.page.locator(".tree details details").first
    # (whose files are there: of the next result they are not, and what then asks for them gets a 404)
    page.evaluate("Promise.all([...document.images].map(each => { each.loading = 'eager'; return each.decode() }))")
    page.wait_for_function("(it => it.readyState >= 1 && it.networkState === 1)(document.querySelector('video'))")
    page.evaluate("window.video = document.querySelector('video')")
    folded.locator("summary").first.click()
    assert folded.get_attribute("open") is None
    # When another result of it comes
    files = {"recording_url": "https://files.test/recording.webm", "screenshot_urls": ["https://files.test/last.png"]}
    result = {"failure_reason": "It was told otherwise", "output": {"a": {"b": [1]}}, **files}
    later = new_event("wr_512004417", status="failed", **result)
    record(deployment.ledger, later, now=deployment.ledger.now())
    # Then the page tells of it, and all else is as its reader had it
    expect(page.locator("#live .sub")).to_contain_text("It was told otherwise")
    assert "webhook: failed" in page.locator(".timeline").inner_text()
    assert folded.get_attribute("open") is None
    assert page.evaluate("window.video === document.querySelector('video') && window.video.isConnected")
    assert page.get_by_role("button", name="Copy id").is_visible()
    # And the list has the files of that result
    expect(page.locator("#files tbody tr")).to_have_count(2)
    assert person.complaints == []


def test_times_age_on_pages_that_do_not_refresh(person: Visitor) -> None:
    # Given somebody with a wrong clock at a page that does not refresh
    person.page.clock.install(time=0)
    person.open("/console/audit")
    first = person.page.locator("tbody time").first
    assert re.fullmatch(r"\d+ (s|min) ago", first.inner_text())
    # When three hours pass
    person.page.clock.fast_forward(3 * 3600 * 1000)
    # Then the page says so, and what the moment is where its reader is
    assert first.inner_text() == "3 h ago"
    assert " here, 20" in (first.get_attribute("title") or "")
