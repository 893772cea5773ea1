"""Files of runs in the console: for who may see the run, by a link that is good for a while, and never as a page."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from html import unescape
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from receiver.console.page import GOOD_FOR, FileLinks
from tests.servers.console import ConsoleDeployment
from tests.support.console import Browser
from tests.support.demo_runs import RECORDING

RUN = "/runs/wr_512004417"


@pytest.fixture
def browser(deployment: ConsoleDeployment) -> Iterator[Browser]:
    it = Browser(deployment.url.removesuffix("/console"))
    yield it
    it.session.close()


@pytest.fixture
def link(browser: Browser) -> str:
    """The link to the recording, as the run's page has it; afterwards nobody is signed in."""
    browser.sign_in()
    found = re.search(r'<video [^>]*src="([^"]+)"', browser.get(RUN).text)
    assert found
    browser.session.cookies.clear()
    return unescape(found[1])


def test_run_shows_how_many_files_are_stored(browser: Browser) -> None:
    browser.sign_in()
    page = browser.get(RUN).text
    assert re.search(r"Files <span[^>]*>\d+ of \d+ stored</span>", page)


def changed(link: str, **values: str) -> str:
    parts = urlsplit(link)
    given = {name: each[0] for name, each in parse_qs(parts.query).items()}
    return f"{parts.path}?{urlencode({**given, **values})}"


def test_a_link_opens_the_file_for_a_while_for_whoever_has_it(browser: Browser, link: str) -> None:
    whole = browser.session.get(link)
    assert (whole.status_code, whole.content) == (200, RECORDING.read_bytes())
    assert whole.headers["content-type"] == "video/webm"
    assert whole.headers["content-security-policy"].endswith("sandbox")
    part = browser.session.get(link, headers={"range": "bytes=100-"})
    assert (part.status_code, part.content) == (206, RECORDING.read_bytes()[100:])


@pytest.mark.parametrize(
    "values",
    [
        {"run_id": "wr_512004418"},
        {"source": "other"},
        {"by": "ana"},
        {"by": "nobody"},
        {"until": "9999999999"},
        {"until": "x"},
        {"signature": "0" * 64},
        {"signature": "\N{CJK UNIFIED IDEOGRAPH-6771}"},
    ],
)
def test_a_link_that_was_changed_opens_nothing(browser: Browser, link: str, values: dict[str, str]) -> None:
    answer = browser.session.get(changed(link, **values))
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/console/login?next=")
    other = link.replace("/files/recording.webm", "/files/screenshot-1.png")
    assert browser.session.get(other).status_code == 303


def test_a_link_ends_in_time_and_is_the_same_for_a_while() -> None:
    links = FileLinks("secret")
    now = 1_700_000_000.0
    path = links.path("ana", "skyvern", "tsk_1", "a b.png", now)
    assert path.startswith("/console/files/a%20b.png?")
    assert links.path("ana", "skyvern", "tsk_1", "a b.png", now + 1) == path
    given = {name: each[0] for name, each in parse_qs(urlsplit(path).query).items()}
    assert links.person("a b.png", given, now + GOOD_FOR) == "ana"
    assert links.person("a b.png", given, now + 2 * GOOD_FOR) is None
    assert FileLinks("another").person("a b.png", given, now) is None


def test_a_link_is_no_right_to_what_its_maker_may_not_see(browser: Browser, deployment: ConsoleDeployment) -> None:
    # Given a link to another source's run, signed as if ana had been shown it
    path = FileLinks("a-master-secret-of-the-tests").path("ana", "skyvern", RUN[6:], "recording.webm", time.time())
    assert browser.session.get(path).status_code == 403
    # And ana herself, signed in
    browser.sign_in("ana")
    for source in ("skyvern", "other", ""):
        asked = f"/files/recording.webm?{urlencode({'run_id': RUN[6:], 'source': source})}"
        assert browser.get(asked).status_code in (403, 404)


def test_who_is_signed_in_needs_no_signature(browser: Browser) -> None:
    browser.sign_in()
    answer = browser.get(f"/files/screenshot-1.png?{urlencode({'run_id': RUN[6:]})}")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")


def test_the_body_of_an_event_can_be_saved(browser: Browser) -> None:
    browser.sign_in()
    found = re.search(r'href="/console(/events/evt_[0-9a-f]+)"', browser.get(RUN).text)
    assert found
    page = browser.get(found[1])
    assert page.status_code == 200
    assert f'href="/console{found[1]}/explanation"' in page.text
    saved = browser.get(f"{found[1]}/body")
    assert saved.headers["content-disposition"] == f'attachment; filename="{found[1][8:]}.json"'
    assert saved.headers["content-type"] == "application/octet-stream"
    assert saved.json()["run_id"] == RUN[6:]
    # And nobody else gets it
    browser.session.cookies.clear()
    assert browser.get(f"{found[1]}/body").status_code == 303
    browser.sign_in("ana")
    assert browser.get(f"{found[1]}/body").status_code == 404
    assert browser.get(found[1]).status_code == 404


def test_buttons_are_those_that_could_do_something(browser: Browser) -> None:
    browser.sign_in()
    delivered, running = browser.get(RUN).text, browser.get("/runs/wr_512004418").text
    assert "Send again" in delivered
    for verb in ("Send again", "Replay dead letters", "Cancel pending", "Restore", "Submit again"):
        assert verb not in running
        assert verb == "Send again" or verb not in delivered
    assert "No sink has stored 8 of 8 files" in running
