"""A database that hangs: the overview shows what is known without it, and people sign in to see that."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from receiver.ledger import async_ledger
from tests.servers.postgres import PostgresProcess
from tests.servers.submitting import Make
from tests.support.console import Browser
from tests.support.waiting import Stopwatch

# Seconds in which the overview is shown, and seconds that a request waits for the ledger.
LONGEST = 3.0
WAIT = async_ledger.WAIT


@pytest.fixture
def browser(
    submitting: Make, hashed_password: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Browser]:
    server = submitting(
        "http://127.0.0.1:9", dispatching=False, console_password=hashed_password, database_url=postgres_url
    )
    monkeypatch.setattr(async_ledger, "WAIT", WAIT)  # the fixture has set another
    it = Browser(server.url)
    yield it
    it.session.close()


def test_overview_shows_status_while_the_ledger_hangs(browser: Browser, postgres: PostgresProcess) -> None:
    # Given a person who is signed in, and one who is not
    browser.sign_in()
    assert browser.get("/").status_code == 200
    stranger = Browser(str(browser.session.base_url))
    postgres.hang()
    try:
        # Then the page says what is wrong, within the time
        watch = Stopwatch()
        page = browser.get("/")
        watch.at_most(LONGEST)
        assert page.status_code == 200
        assert "ledger is unavailable" in page.text
        assert "<h2>Processes</h2>" in page.text
        # And the other one signs in, and sees it too
        assert stranger.sign_in().headers["location"] == "/console/"
        assert "ledger is unavailable" in stranger.get("/").text
        assert stranger.sign_in(password="wrong").status_code == 401
    finally:
        postgres.resume()
        stranger.session.close()
    assert '<div class="figures"' in browser.get("/").text
