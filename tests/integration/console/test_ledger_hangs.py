"""A database that hangs: the overview shows what is known without it, and people sign in to see that."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from receiver.config.console import ConsoleConfig
from receiver.console.passwords import people_of
from receiver.console.sign_in import SignIn
from receiver.ledger import Ledger, LedgerUnavailable
from receiver.ledger.database.async_ledger import WAIT, AsyncLedger
from tests.servers.postgres import PostgresProcess
from tests.servers.submitting import Make
from tests.support.console import Browser, request_with
from tests.support.waiting import Stopwatch

# Seconds in which the overview is shown.
LONGEST = 3.0


@pytest.fixture
def browser(submitting: Make, hashed_password: str, postgres_url: str) -> Iterator[Browser]:
    server = submitting(
        "http://127.0.0.1:9",
        dispatching=False,
        console_password=hashed_password,
        database_url=postgres_url,
        ledger_wait=WAIT,
    )
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


def test_sign_out_holds_after_the_ledger_returns(browser: Browser, postgres: PostgresProcess) -> None:
    # Given a session whose cookie was copied
    browser.sign_in()
    copy = Browser(browser.url)
    copy.session.cookies.update(browser.session.cookies)
    token = browser.form_token
    postgres.hang()
    try:
        # When its owner signs out while the ledger hangs
        assert browser.post("/logout", form_token=token).headers["location"] == "/console/login"
        assert copy.get("/").status_code == 303
    finally:
        postgres.resume()
    # Then the copy opens nothing afterwards either
    assert [copy.get("/").status_code for _ in range(2)] == [303, 303]
    copy.session.close()


@pytest.mark.parametrize(("offline", "known"), [(900.0, True), (0.0, False)])
async def test_session_is_valid_without_ledger_for_a_time(
    postgres: PostgresProcess, postgres_ledger: Ledger, offline: float, known: bool
) -> None:
    # Given a session that the ledger confirmed some time ago
    people = people_of(ConsoleConfig(), "", "once")
    sign_in = SignIn(AsyncLedger(postgres_ledger), people, 3600.0, "once", fresh_for=-1.0, offline_for=offline)
    request = request_with(await sign_in.with_token("once"))
    assert await sign_in.session_of(request) is not None
    # When the ledger hangs
    postgres.hang()
    try:
        # Then the session is valid for that long at most: another host may have ended it
        if known:
            assert await sign_in.session_of(request) is not None
        else:
            with pytest.raises(LedgerUnavailable):
                await sign_in.session_of(request)
    finally:
        postgres.resume()
        await sign_in.close()


def test_lists_say_503_while_the_ledger_is_unavailable(
    submitting: Make, hashed_password: str, postgres_factory: Callable[..., PostgresProcess]
) -> None:
    # Given a person who is signed in, and a database that has stopped
    server = postgres_factory()
    url = server.url(server.create_database())
    console = submitting("http://127.0.0.1:9", dispatching=False, console_password=hashed_password, database_url=url)
    browser = Browser(console.url)
    browser.sign_in()
    assert browser.get("/runs").status_code == 200
    server.stop()
    # When each list is opened
    lists = ["/runs", "/incidents", "/missing", "/deliveries", "/dead", "/sinks", "/submissions", "/keys",
             "/operations", "/audit", "/agents"]  # fmt: skip
    found = {path: browser.get(path) for path in lists}
    # Then it says why it is not there
    assert {path: answer.status_code for path, answer in found.items()} == dict.fromkeys(lists, 503)
    assert [path for path, answer in found.items() if "The ledger is unavailable" not in answer.text] == []
    # And keeps the menu
    assert [path for path, answer in found.items() if 'href="/console/keys"' not in answer.text] == []
    browser.session.close()
