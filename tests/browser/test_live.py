"""A page that follows what happens, in a browser: what changes in it, and what stays as its reader had it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from receiver.console import live
from tests.servers.console import ConsoleDeployment
from tests.support.browser_pages import Visitor, visitor
from tests.support.ledger import new_event, record
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.long


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "OFTEN", 0.2)
    monkeypatch.setattr(live, "LOOK", 0.1)
    monkeypatch.setattr(live, "REST", 0.0)


@pytest.fixture
def person(chromium: Browser, deployment: ConsoleDeployment) -> Iterator[Visitor]:
    with visitor(chromium, deployment.url) as it:
        it.page.set_default_timeout(PATIENCE * 1000)
        it.sign_in()
        yield it


def test_a_new_row_comes_and_the_reader_stays_where_they_are(person: Visitor, deployment: ConsoleDeployment) -> None:
    # Given somebody at the second row of a list
    person.open("/console/runs")
    person.page.keyboard.press("j")
    person.page.keyboard.press("j")
    marked = person.page.locator("tr.here td a").first.inner_text()
    # When a run comes
    record(deployment.ledger, new_event("tsk_arrived", title="Arrived <i>now</i>"), now=deployment.ledger.now())
    # Then it is the first row, as text, and the marked one is still marked, and in focus
    expect(person.page.locator("tbody tr").first).to_contain_text("tsk_arrived", timeout=PATIENCE * 1000)
    assert "<i>" in person.page.locator("tbody tr").first.inner_text()
    assert person.page.locator("tr.here td a").first.inner_text() == marked
    assert person.page.evaluate("document.activeElement.textContent") == marked
    assert person.complaints == []


def test_what_is_open_stays_open_and_forms_have_the_token_of_their_reader(
    person: Visitor, deployment: ConsoleDeployment
) -> None:
    # Given an overview with one table of a chart open
    person.open("/console/")
    person.page.locator("#charts summary").first.click()
    record(deployment.ledger, new_event("tsk_later"), now=deployment.ledger.now())
    expect(person.page.locator("#newest")).to_contain_text("tsk_later", timeout=PATIENCE * 1000)
    assert person.page.locator("#charts details").first.get_attribute("open") is not None
    # And incidents, whose buttons came with the page or with the stream
    person.open("/console/incidents")
    failed = new_event("tsk_failed", status="failed", failure_reason="An entirely new trouble")
    record(deployment.ledger, failed, now=deployment.ledger.now())
    expect(person.page.locator("#live")).to_contain_text("An entirely new trouble", timeout=PATIENCE * 1000)
    token = person.page.locator("#pages [name=form_token]").first.input_value()
    tokens = {each.input_value() for each in person.page.locator("#live [name=form_token]").all()}
    assert tokens == {token}
    assert person.page.locator("#not-live").is_hidden()


def test_a_page_says_that_it_is_not_live(person: Visitor) -> None:
    # Given a page whose stream the server refuses
    person.page.route("**/console/live?*", lambda route: route.fulfill(status=503))
    person.open("/console/runs")
    expect(person.page.locator("#not-live")).to_be_visible(timeout=PATIENCE * 1000)
