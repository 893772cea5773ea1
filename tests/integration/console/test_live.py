"""A page that refreshes by fetching itself: what the server does for it."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.console import Browser

REFRESH = {"x-runhook-refresh": "1"}


def test_refresh_leaves_notice_for_opened_page(as_person: Callable[[str], Browser]) -> None:
    # Given a person whose next page has a notice
    browser = as_person("admin")
    assert browser.act("pause_sink", sink="results", sure="yes").status_code == 303
    # When another page of theirs refreshes first
    refreshed = browser.session.get("/console/missing", headers=REFRESH)
    # Then the page that is opened shows it, once
    assert "results is paused" not in refreshed.text
    assert "results is paused" in browser.get("/runs").text
    assert "results is paused" not in browser.get("/runs").text


def test_refresh_without_session_leads_to_sign_in(browser: Browser) -> None:
    answer = browser.session.get("/console/runs", headers=REFRESH)
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/console/login")
