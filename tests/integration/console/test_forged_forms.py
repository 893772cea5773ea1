"""Every form of the console: none is acted on that another site, session or person has made, and no page tells one
person of a source what another source has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from receiver.console.catalogue import ACTIONS
from receiver.ingest.quarantine import Quarantine
from receiver.ledger.schema import audit, deliveries, keys, lanes, operations
from tests.servers.console import ConsoleDeployment
from tests.support.console import Browser, Form, crawl, forms_in

pytestmark = pytest.mark.long

# What only people who may see the source skyvern may see.
SECRET = re.compile(r"tsk_48217|wr_51200|sub_d000|portal\.example|\b4711\b|billing app")


@pytest.fixture(scope="module")
def url(deployment: ConsoleDeployment) -> str:
    return deployment.url.removesuffix("/console")


@pytest.fixture(scope="module")
def admin(url: str) -> Iterator[Browser]:
    it = Browser(url)
    it.sign_in()
    yield it
    it.session.close()


@pytest.fixture(scope="module")
def ana(url: str) -> Iterator[Browser]:
    """Somebody who may operate, but only what is of another source."""
    it = Browser(url)
    it.sign_in("ana")
    yield it
    it.session.close()


@pytest.fixture(scope="module")
def pages(admin: Browser) -> dict[str, str]:
    return crawl(admin)


@pytest.fixture(scope="module")
def forms(pages: dict[str, str]) -> dict[str, Form]:
    """One form of each action that has fields of its own in a page, as an admin has it."""
    return {form.action: form for html in pages.values() for form in forms_in(html)}


def state(deployment: ConsoleDeployment) -> dict[str, Any]:
    """All that an action could change."""

    def read(connection: sa.Connection) -> dict[str, Any]:
        tables = (deliveries, operations, audit, keys, lanes)
        return {each.name: sorted(map(str, connection.execute(sa.select(each)).all())) for each in tables}

    found = deployment.ledger.read(read)
    return {**found, "quarantine": [each.file for each in Quarantine(deployment.data / "quarantine", 0, 0).list()]}


def sent(browser: Browser, form: Form, token: str, headers: dict[str, str] | None = None) -> int:
    fields = {**dict(form.fields), "form_token": token, "sure": "yes", "name": "x", "scopes": "view"}
    answer = browser.session.post(f"/console/do/{form.action}", data=fields, headers=headers)
    return answer.status_code


def test_the_forms_are_there(forms: dict[str, Form]) -> None:
    assert {"replay", "cancel", "create_key", "revoke_keys", "drop_quarantine"} <= set(forms)
    assert set(forms) <= {each.name for each in ACTIONS}


def test_no_forged_form_is_acted_on(
    admin: Browser, ana: Browser, forms: dict[str, Form], deployment: ConsoleDeployment
) -> None:
    # Given each form, as the page of an admin has it
    before = state(deployment)
    own, others = admin.form_token, ana.form_token
    for form in forms.values():
        # When it comes with another session's token, an invented one, or none
        for token in (others, "0" * 64, "", own[:-1], "\N{CJK UNIFIED IDEOGRAPH-6771}"):
            assert sent(admin, form, token) == 403, (form.action, token)
        # Or from another site, which has somehow got the right one
        for headers in (
            {"sec-fetch-site": "cross-site"},
            {"sec-fetch-site": "same-site"},
            {"sec-fetch-site": "none"},
        ):
            assert sent(admin, form, own, headers) == 403, (form.action, headers)
    # Then nothing has changed
    assert state(deployment) == before


def test_a_form_of_a_session_that_has_ended_is_not_acted_on(
    url: str, forms: dict[str, Form], deployment: ConsoleDeployment
) -> None:
    before = state(deployment)
    browser = Browser(url)
    browser.sign_in()
    token, cookies = browser.form_token, dict(browser.session.cookies)
    browser.post("/logout", form_token=token)
    browser.session.cookies.clear()
    for name, value in cookies.items():
        browser.session.cookies.set(name, value, domain="127.0.0.1", path="/console")
    for form in forms.values():
        assert sent(browser, form, token) == 303, form.action
    # And whoever signs in anew has another token
    browser.session.cookies.clear()
    browser.sign_in()
    assert browser.form_token != token
    for form in forms.values():
        assert sent(browser, form, token) == 403, form.action
    assert state(deployment) == before
    browser.session.close()


def test_nobody_acts_on_what_they_may_not_see(
    ana: Browser, forms: dict[str, Form], deployment: ConsoleDeployment
) -> None:
    # When somebody of another source sends each form with a token of their own
    before = state(deployment)
    token = ana.form_token
    for form in forms.values():
        status = sent(ana, form, token)
        # Then it is refused, or finds nothing (a key of their own source they may make)
        if form.action != "create_key":
            assert status in (303, 403, 404, 409, 422), form.action
        without = Form(form.action, [each for each in form.fields if each[0] != "source"])
        if form.action != "create_key":
            sent(ana, without, token)
    after = state(deployment)
    for name in ("deliveries", "operations", "lanes", "quarantine"):
        assert after[name] == before[name], name
    assert after["keys"] == before["keys"] or "create_key" in forms


def test_no_page_tells_what_is_of_another_source(ana: Browser, pages: dict[str, str]) -> None:
    # Given each page that an admin sees, by its address
    assert any(SECRET.search(html) for html in pages.values())
    for path in pages:
        # When somebody of another source opens it, as it is and for each source
        for address in (path, path.replace("source=skyvern", "source=other")):
            answer = ana.session.get(address)
            # Then it is refused, or shows nothing of it but what the address says
            shown = answer.text
            for part in re.findall(r"[\w.]{5,}", address):
                shown = shown.replace(part, "")
            found = SECRET.search(shown)
            assert answer.status_code in (200, 403, 404, 422), (address, answer.status_code)
            assert found is None, (address, found and found[0])
