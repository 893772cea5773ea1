"""Each thing that the console's buttons do, done by a click."""

from collections.abc import Iterator
from typing import Final

import pytest
from playwright.sync_api import Browser, Locator

from receiver.console.catalogue import ACTIONS
from receiver.ledger.access import audit
from simulator.api import create_app
from simulator.options import Options
from simulator.server import Serving
from tests.servers.console import SKYVERN_KEY, ConsoleDeployment, console_deployment
from tests.support import demo_runs
from tests.support.browser_pages import Visitor, visitor
from tests.support.console import Browser as Client
from tests.support.console import crawl

pytestmark = pytest.mark.long

# Those that take away what others need come last.
_LAST: Final = ("drop_quarantine", "revoke_keys")
NAMES: Final = sorted((each.name for each in ACTIONS), key=lambda name: (name in _LAST, name))


@pytest.fixture(scope="module")
def deployment(module_redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleDeployment]:
    """One whose Skyvern has the agents that the ledger knows."""
    app = create_app(Options(api_keys=(SKYVERN_KEY,)))
    with Serving(app) as skyvern:
        for name, callback in demo_runs.AGENTS.items():
            app.state.world.add_agent(name, name, callback)
        folder = tmp_path_factory.mktemp("console")
        with console_deployment(module_redis_url, folder, skyvern=skyvern.url) as it:
            it.fill()
            yield it


@pytest.fixture(scope="module")
def person(chromium: Browser, deployment: ConsoleDeployment) -> Iterator[Visitor]:
    with visitor(chromium, deployment.url) as it:
        it.sign_in()
        yield it


@pytest.fixture(scope="module")
def client(deployment: ConsoleDeployment) -> Iterator[Client]:
    it = Client(deployment.url.removesuffix("/console"))
    it.sign_in()
    yield it
    it.session.close()


@pytest.fixture(scope="module")
def crawled(client: Client) -> dict[str, str]:
    """The pages as they were before any test of this module did something."""
    return crawl(client)


def page_with(button: str, crawled: dict[str, str], client: Client) -> str:
    """Return the path of a page that has this button now: those first that had it, and runs have what fits them."""
    likely = sorted(crawled, key=lambda path: (button not in crawled[path], "/console/runs/" not in path))
    found = next((path for path in likely if button in client.session.get(path).text), None)
    assert found, "no page has a button for it"
    return found


def fill_in(form: Locator) -> None:
    """Give each field that wants something a value, as somebody would who only tries the button."""
    for field in form.locator("input[required], textarea[required]").all():
        if not field.input_value():
            field.fill("something")
    for choice in form.locator("select").all():
        values = [each.get_attribute("value") or each.inner_text() for each in choice.locator("option").all()]
        choice.select_option(next((value for value in values if value and value != "any"), ""))
    if form.locator("input[type=checkbox]").count() and not form.locator("input[type=checkbox]:checked").count():
        form.locator("input[type=checkbox]").first.check()


def audited(deployment: ConsoleDeployment) -> int:
    return len(deployment.ledger.read(lambda it: audit.list_actions(it, limit=500)))


@pytest.mark.parametrize("name", NAMES)
def test_a_click_does_it(
    name: str, person: Visitor, client: Client, crawled: dict[str, str], deployment: ConsoleDeployment
) -> None:
    # Given a page with a button for it
    action = next(each for each in ACTIONS if each.name == name)
    target = f'"/console/do/{name}"'
    if name == "resume_sink":  # whichever of these tests came before in this process
        client.post("/do/pause_sink", form_token=client.form_token, sink="crm", sure="yes")
    path = page_with(f"action={target}", crawled, client)
    person.complaints.clear()
    done = audited(deployment)
    # When somebody clicks it, and answers the question
    person.open(path)
    for row in person.page.locator("tbody input[type=checkbox][form=selection]").all()[:1]:
        row.check()
    buttons = person.page.locator(f"form[action={target}] button, button[formaction={target}]")
    button = buttons.filter(visible=True).first
    closed = person.page.locator("details:not([open]) > summary").filter(visible=True)
    while not button.count():
        closed.first.click()
    if person.page.locator(f"form[action={target}]").count():
        fill_in(person.page.locator(f"form[action={target}]").first)
    with person.page.expect_navigation():
        button.click()
    if person.page.locator("[name=sure]").count():
        assert action.question in person.page.inner_text(".confirm")
        for box in person.page.locator(".confirm [type=checkbox]").all():
            box.check()
        with person.page.expect_navigation():
            person.page.click(".confirm button.main")
    # Then it is done and said, or its result shown, and whatever changes something is in the audit
    said = person.page.locator(".notice")
    assert action.template or said.is_visible(), person.page.inner_text("main")
    assert f"/do/{name}" in person.page.url if action.template else True
    assert audited(deployment) > done, person.page.inner_text("main")
    assert person.complaints == []
