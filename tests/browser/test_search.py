"""A list that is short though there is more, in a browser: it goes on by itself, until somebody stops it."""

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from playwright.sync_api import Browser, expect

from receiver.ledger.lists.paging import SCAN
from receiver.ledger.schema import runs
from tests.servers.console import ConsoleDeployment
from tests.support.browser_pages import Visitor, visitor
from tests.support.listed import fill

pytestmark = pytest.mark.long


@pytest.fixture
def person(chromium: Browser, deployment: ConsoleDeployment) -> Iterator[Visitor]:
    """A person at a console with more runs than a page looks at, of which two are wanted, far apart."""
    fill(deployment.ledger, 3 * SCAN)
    wanted = sa.update(runs).where(runs.c.run_id.in_(["tsk_100", f"tsk_{SCAN}"])).values(title="Wanted")
    deployment.ledger.write(lambda connection: connection.execute(wanted))
    with visitor(chromium, deployment.url) as it:
        it.sign_in()
        yield it


def test_a_short_list_goes_on_to_its_end(person: Visitor) -> None:
    # When a list is opened whose first page has nothing
    person.open("/console/runs?title=Wanted")
    # Then what is wanted comes, and all of it can be selected
    expect(person.page.locator("tbody tr")).to_have_count(2)
    assert person.page.locator("tbody tr .mono").all_inner_texts() == [f"tsk_{SCAN}", "tsk_100"]
    expect(person.page.locator(".more")).to_have_count(0)
    person.page.locator("#every").check()
    assert person.page.locator("tbody input:checked").count() == 2
    assert person.complaints == []


def test_a_full_page_ends_the_search(person: Visitor) -> None:
    # When one row makes a full page
    person.open("/console/runs?title=Wanted&limit=1")
    # Then it ends there, with a link to what is older
    expect(person.page.locator("tbody tr")).to_have_count(1)
    expect(person.page.get_by_text("Stop searching")).to_have_count(0)
    person.page.get_by_text("Older runs").click()
    expect(person.page.locator("tbody tr")).to_contain_text("tsk_100")


def test_a_search_can_be_stopped(person: Visitor) -> None:
    # Given a search whose next page does not come
    person.page.route("**/console/runs?*after=*", lambda _: None)
    person.open("/console/runs?title=Wanted")
    # It says how far it is
    expect(person.page.locator(".more")).to_contain_text("Searched back to")
    # When it is stopped
    person.page.get_by_text("Stop searching").click()
    # Then the link is left
    expect(person.page.get_by_text("Stop searching")).to_have_count(0)
    expect(person.page.get_by_text("Older runs")).to_be_visible()
