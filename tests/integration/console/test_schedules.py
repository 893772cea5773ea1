"""Schedules and connected agents in the console."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from receiver.ledger import account, watches
from receiver.ledger.account import AgentChange
from tests.servers.submitting import Submitting
from tests.support.console import PASSWORD, Browser

SOURCES = {
    "skyvern": {"secrets": ["s"], "api_key": "a-key", "api_base": "http://127.0.0.1:9", "watch": True},
    "other": {"secrets": ["o"]},
}


@pytest.fixture
def two_sources(submitting: Callable[..., Submitting], hashed_password: str) -> Submitting:
    people = {"ana": {"password": hashed_password, "source": "other"}}
    console = {"users": people}
    return submitting(
        "http://127.0.0.1:9", dispatching=False, console_password=hashed_password, console=console, sources=SOURCES
    )


def test_without_any_the_page_says_what_to_do(browser: Browser) -> None:
    browser.sign_in()
    page = browser.get("/schedules").text
    assert "set <code>watch: true</code>" in page
    assert "No schedule is known." in page
    assert "<code>runhook connect</code> lists the agents" in page


def test_what_is_watched_and_what_missed(two_sources: Submitting) -> None:
    # Given a source whose last walk broke off, with a schedule that missed and an agent that was connected
    now = time.time()
    seen = {"sch_1": ("wpid_1", now + 60, now - 3600), "sch_2": ("wpid_2", None, None)}
    change = AgentChange("skyvern", "wpid_1", "https://n8n.example/hook?secret=sesame", "https://here.example/x", now)

    def fill(connection: account.sa.Connection) -> None:
        watches.lease(connection, "skyvern", now)
        watches.break_off(connection, "skyvern", now + 60, "Skyvern answered 500")
        account.replace_schedules(connection, "skyvern", seen, now)
        account.record_change(connection, change)

    two_sources.ledger.write(fill)
    browser = Browser(two_sources.url)
    browser.sign_in("admin", PASSWORD)
    # Then the page tells it all, without what a URL may have that is secret
    page = browser.get("/schedules").text
    assert "Skyvern answered 500" in page
    assert "no run was started <time" in page
    assert "wpid_2" in page
    assert "https://n8n.example/hook" in page
    assert "sesame" not in page
    # And goes on where it ends
    first = browser.get("/schedules?limit=1").text
    assert "sch_1" in first
    assert "sch_2" not in first
    assert "More schedules" in first
    # And somebody of another source sees none of it
    browser.sign_in("ana")
    page = browser.get("/schedules").text
    for hidden in ("wpid_1", "sch_1", "Skyvern answered 500", "n8n"):
        assert hidden not in page
    browser.session.close()
