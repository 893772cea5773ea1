"""Each page of the console in a browser: it is accessible, says what it is, fits any screen, and breaks no policy."""

from collections.abc import Iterator
from typing import Final

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from receiver.console.catalogue import PAGES
from tests.servers.console import ConsoleDeployment
from tests.support.browser_pages import Visitor, visitor
from tests.support.console import Browser as Client
from tests.support.console import crawl, kind_of

pytestmark = pytest.mark.long

WIDTHS: Final = (2560, 1440, 1280, 1024, 768, 360)
# Buttons in rows of a list that are out of sight until somebody scrolls sideways.
_HIDDEN: Final = (
    "[...document.querySelectorAll('td button')].filter("
    "it => it.getBoundingClientRect().right > document.documentElement.clientWidth).map(it => it.innerText)"
)
_WIDER: Final = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def paths(deployment: ConsoleDeployment) -> dict[str, str]:
    """A path of each page of the catalogue."""
    client = Client(deployment.url.removesuffix("/console"))
    client.sign_in()
    found: dict[str, str] = {}
    for path in crawl(client):
        found.setdefault(kind_of(path), path)
    client.session.close()
    # The run and the event with all that there can be.
    return found | {"/runs/{run_id:path}": "/console/runs/wr_512004417?source=skyvern"}


@pytest.fixture(scope="module", params=["light", "dark"])
def person(request: pytest.FixtureRequest, chromium: Browser, deployment: ConsoleDeployment) -> Iterator[Visitor]:
    with visitor(chromium, deployment.url, request.param) as it:
        it.sign_in()
        yield it


@pytest.mark.parametrize("kind", [each.path for each in PAGES])
def test_a_page_is_sound(kind: str, paths: dict[str, str], person: Visitor) -> None:
    assert kind in paths, "no page leads there"
    person.complaints.clear()
    person.page.set_viewport_size({"width": 1440, "height": 900})
    person.open(paths[kind])
    # It says what it is, once
    assert person.page.locator("h1").count() == 1
    assert person.page.title().endswith(" · Runhook")
    # No width makes the page itself scroll sideways
    for width in WIDTHS:
        person.page.set_viewport_size({"width": width, "height": 900})
        assert person.page.evaluate(_WIDER) <= 0, f"{width} px"
        assert person.page.evaluate(_HIDDEN) == [], f"{width} px"
        if width in (1440, 360):
            found = Axe().run(person.page)
            assert found.violations_count == 0, f"{width} px\n{found.generate_report()}"
    # And the browser has nothing to say against it
    assert person.complaints == []
    assert person.asked == []


def test_the_form_to_sign_in_is_sound(chromium: Browser, deployment: ConsoleDeployment) -> None:
    for scheme in ("light", "dark"):
        with visitor(chromium, deployment.url, scheme) as it:  # type: ignore[arg-type]
            it.open("/console/runs")
            assert it.page.locator("h1").count() == 1
            found = Axe().run(it.page)
            assert found.violations_count == 0, found.generate_report()
            it.page.set_viewport_size({"width": 360, "height": 700})
            assert it.page.evaluate(_WIDER) <= 0
            assert it.complaints == []


def test_a_very_wide_screen_has_larger_type_and_uses_its_room(person: Visitor) -> None:
    person.open("/console/runs")
    sizes = {}
    for width in (1440, 3840):
        person.page.set_viewport_size({"width": width, "height": 2000})
        size, room = person.page.evaluate(
            "[parseFloat(getComputedStyle(document.body).fontSize), document.querySelector('main').clientWidth]"
        )
        sizes[width] = size
        assert room >= width * 0.8
    assert sizes[3840] >= sizes[1440] * 1.2


def test_filters_are_folded_where_there_is_little_room(person: Visitor) -> None:
    person.page.set_viewport_size({"width": 360, "height": 740})
    person.open("/console/runs")
    expect(person.page.locator("form.filters")).to_be_hidden()
    person.page.get_by_text("Filter", exact=True).click()
    expect(person.page.locator("form.filters")).to_be_visible()
    person.page.set_viewport_size({"width": 1440, "height": 900})
    expect(person.page.locator("form.filters")).to_be_visible()
    expect(person.page.locator("label.fold-label")).to_be_hidden()


def test_the_keyboard(chromium: Browser, deployment: ConsoleDeployment) -> None:
    with visitor(chromium, deployment.url) as it:
        it.sign_in()
        it.open("/console/runs")
        keyboard, rows = it.page.keyboard, it.page.locator("tbody tr[data-href]")
        # j and k move, enter opens
        for key in ("j", "j", "k"):
            keyboard.press(key)
        keyboard.press("j")
        assert "here" in (rows.nth(1).get_attribute("class") or "")
        path = rows.nth(1).get_attribute("data-href")
        keyboard.press("Enter")
        it.page.wait_for_url(f"**{path}")
        # g and a letter lead to a page, and / to its search
        keyboard.press("g")
        keyboard.press("r")
        it.page.wait_for_url("**/console/runs")
        keyboard.press("/")
        assert it.page.evaluate("document.activeElement.matches('[data-search]')")
        keyboard.press("Escape")
        # ? shows the keys, and hides them
        keyboard.press("?")
        expect(it.page.locator("dialog#keys")).to_be_visible()
        keyboard.press("Escape")
        expect(it.page.locator("dialog#keys")).not_to_be_visible()
        assert it.complaints == []


def test_rows_are_selected(chromium: Browser, deployment: ConsoleDeployment) -> None:
    with visitor(chromium, deployment.url) as it:
        it.sign_in()
        it.open("/console/deliveries")
        keyboard, boxes = it.page.keyboard, it.page.locator("tbody input[form=selection]")
        told, replay = it.page.locator("#selection output"), it.page.get_by_role("button", name="Replay selected")
        assert boxes.count() >= 3
        assert replay.is_disabled()
        # x selects the row, a click with shift all between, and the box in the head every one
        keyboard.press("j")
        keyboard.press("x")
        assert told.inner_text() == "1 selected"
        boxes.nth(2).click(modifiers=["Shift"])
        assert told.inner_text() == "3 selected"
        it.page.get_by_label("Select all rows").check()
        assert told.inner_text() == f"{boxes.count()} selected"
        it.page.get_by_label("Select all rows").uncheck()
        assert replay.is_disabled()
        # r asks about the row that is marked
        keyboard.press("r")
        it.page.wait_for_url("**/console/do/replay")
        assert "Send these again" in it.page.inner_text(".confirm")
        assert it.complaints == []


def test_a_recording_plays_and_a_picture_opens(chromium: Browser, deployment: ConsoleDeployment) -> None:
    with visitor(chromium, deployment.url) as it:
        it.sign_in()
        it.open("/console/runs/wr_512004417")
        it.page.wait_for_function("document.querySelector('video').readyState >= 1")
        assert it.page.evaluate("[video = document.querySelector('video'), video.videoWidth][1]") == 640
        # A picture fills the window, and the keys go on and close it: its link is a plain one, without a script
        it.page.click(".pictures li:nth-child(2) a")
        expect(it.page.locator("#picture-2")).to_be_visible()
        it.page.wait_for_function("document.querySelector('#picture-2 img').naturalWidth === 640")
        it.page.keyboard.press("ArrowRight")
        expect(it.page.locator("#picture-3")).to_be_visible()
        found = Axe().run(it.page)
        assert found.violations_count == 0, found.generate_report()
        it.page.keyboard.press("Escape")
        expect(it.page.locator("#picture-3")).not_to_be_visible()
        assert it.complaints == []


def test_without_scripts_the_console_is_of_use(chromium: Browser, deployment: ConsoleDeployment) -> None:
    with visitor(chromium, deployment.url, java_script_enabled=False) as it:
        it.sign_in()
        it.page.click("#pages a:text-is('Runs')")
        it.page.fill("[data-search]", "invoices")
        it.page.click("form.filters button.main")
        it.page.wait_for_url("**text=invoices**")
        it.page.click("#pages a:text-is('Runs')")
        it.page.click("tbody a[href*=wr_512004417]")
        it.page.click("text=Send again")
        it.page.check(".confirm [name=sure]")  # it was delivered before
        it.page.click(".confirm button.main")
        expect(it.page.locator(".notice.good")).to_be_visible()
