"""Signing in: who may, for how long, and that no other site can act for somebody."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from receiver.config.console import ConsoleConfig
from receiver.console import sign_in
from receiver.console.passwords import people_of
from receiver.console.sign_in import SignIn
from receiver.ledger import Ledger
from receiver.ledger.access import console_sessions
from receiver.ledger.database.async_ledger import AsyncLedger
from receiver.ledger.schema import console_sessions as rows
from tests.servers.submitting import Submitting
from tests.support.console import PASSWORD, Browser, request_with


@pytest.fixture
def another(console_server: Submitting) -> Iterator[Browser]:
    it = Browser(console_server.url)
    yield it
    it.session.close()


def test_a_stranger_is_led_to_the_form_and_back_to_the_page(browser: Browser) -> None:
    # When somebody opens a page without having signed in
    answer = browser.get("/runs?status=failed")
    # Then the form comes first
    assert answer.status_code == 303
    assert answer.headers["location"] == "/console/login?next=%2Fconsole%2Fruns%3Fstatus%3Dfailed"
    assert 'name="password"' in browser.session.get(answer.headers["location"]).text
    # And then the page
    answer = browser.sign_in(where="/console/runs?status=failed")
    assert (answer.status_code, answer.headers["location"]) == (303, "/console/runs?status=failed")
    assert browser.get("/runs?status=failed").status_code == 200


def test_the_cookie_is_for_no_script_and_no_other_site(browser: Browser) -> None:
    cookie = browser.sign_in().headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert "Path=/console" in cookie
    assert "Secure" not in cookie  # over plain HTTP a browser would not send it back
    behind_tls = browser.post("/login", {"x-forwarded-proto": "https"}, name="admin", password=PASSWORD)
    assert "Secure" in behind_tls.headers["set-cookie"]


def test_a_wrong_name_or_password(browser: Browser) -> None:
    for name, password in [("admin", "wrong"), ("nobody", PASSWORD), ("", ""), ("ana", "\udc80")]:
        answer = browser.sign_in(name, password.encode("utf-8", "replace").decode())
        assert answer.status_code == 401
        assert "The name or the password is wrong." in answer.text
        assert "set-cookie" not in answer.headers


def test_many_tries_are_too_many(browser: Browser) -> None:
    found = [browser.sign_in("ana", "wrong").status_code for _ in range(12)]
    assert found[:10] == [401] * 10
    assert found[-1] == 429


def test_no_form_of_another_site_signs_in_or_out(browser: Browser) -> None:
    browser.sign_in()
    for site in ("cross-site", "same-site", "none"):
        headers = {"sec-fetch-site": site}
        assert browser.post("/login", headers, name="admin", password=PASSWORD).status_code == 403
        assert browser.post("/logout", headers, form_token=browser.form_token).status_code == 403
    assert browser.get("/runs").status_code == 200
    # Nor one whose origin is another, or is not an address
    del browser.session.headers["sec-fetch-site"]
    for origin in ("http://[x", "null", "", "https://elsewhere.example"):
        assert browser.post("/login", {"origin": origin}, name="admin", password=PASSWORD).status_code == 403


def test_a_form_must_be_of_the_session(browser: Browser, another: Browser) -> None:
    # Given two sessions
    browser.sign_in()
    another.sign_in()
    # When one sends the other's form, or one that was made up
    for stolen in (another.form_token, "", "0" * 64):
        assert browser.post("/logout", form_token=stolen).status_code == 403
    # Then it is still signed in
    assert browser.get("/runs").status_code == 200


def test_who_signs_out_is_out_everywhere(browser: Browser, another: Browser) -> None:
    # Given a session of which somebody has copied the cookie
    browser.sign_in()
    copied = browser.session.cookies.get(sign_in.COOKIE, path="/console")
    another.session.cookies.set(sign_in.COOKIE, copied or "", domain="127.0.0.1", path="/console")
    assert another.get("/runs").status_code == 200
    # When its owner signs out
    token = browser.form_token
    assert browser.post("/logout", form_token=token).headers["location"] == "/console/login"
    # Then the copy opens nothing, and its form does nothing
    assert another.get("/runs").status_code == 303
    assert another.post("/logout", form_token=token).status_code == 303


def test_a_session_is_never_taken_over_from_before(browser: Browser, console_server: Submitting) -> None:
    # Given a cookie that somebody else has planted
    browser.session.cookies.set(sign_in.COOKIE, "planted", domain="127.0.0.1", path="/console")
    # When somebody signs in
    browser.sign_in()
    # Then the session is a new one
    found = console_server.ledger.read(lambda it: it.execute(rows.select()).all())
    assert len(found) == 1
    # And the cookie that was planted opens nothing
    another = Browser(console_server.url)
    another.session.cookies.set(sign_in.COOKIE, "planted", domain="127.0.0.1", path="/console")
    assert another.get("/runs").status_code == 303
    another.session.close()
    # And its token is nowhere in the ledger
    token = [each.value for each in browser.session.cookies.jar if each.value != "planted"]
    assert token
    assert str(token[0]) not in str(found)


async def test_a_session_ends_in_time(ledger: Ledger) -> None:
    people = people_of(ConsoleConfig(), "", "once")
    signing_in = SignIn(AsyncLedger(ledger), people, 3600.0, "once", fresh_for=-1.0)
    request = request_with(await signing_in.with_token("once"))
    assert await signing_in.session_of(request) is not None
    ledger.write(lambda it: it.execute(rows.update().values(expires_at=time.time() - 1)))
    assert await signing_in.session_of(request) is None
    await signing_in.close()


def test_a_new_password_ends_the_sessions_of_the_old_one(browser: Browser, console_server: Submitting) -> None:
    browser.sign_in()
    console_server.ledger.write(lambda it: it.execute(rows.update().values(credential="of another password")))
    sessions = console_server.ledger.read(lambda it: it.execute(rows.select()).all())
    assert console_server.ledger.read(lambda it: console_sessions.find(it, sessions[0].hash, time.time()))
    assert browser.get("/runs").status_code == 303


@pytest.mark.parametrize(
    "elsewhere",
    ["https://evil.example/", "//evil.example/console/", "/console//evil.example", "/console/\\evil", "/v1/runs",
     "/console/\nx", "/console/runs?text=\N{CJK UNIFIED IDEOGRAPH-6771}", "javascript:alert(1)", ""],
)  # fmt: skip
def test_after_signing_in_nobody_is_led_elsewhere(elsewhere: str) -> None:
    assert sign_in.local_path(elsewhere) == "/console/"


def test_sign_in_leads_to_no_other_site(browser: Browser) -> None:
    assert browser.sign_in(where="https://evil.example/").headers["location"] == "/console/"
    # Nor does the page of somebody who is signed in already
    assert browser.get("/login?next=//evil.example/").headers["location"] == "/console/"
    assert browser.get("/login?next=/console/runs").headers["location"] == "/console/runs"


def test_a_person_of_one_source_sees_that_alone(browser: Browser) -> None:
    browser.sign_in("ana")
    assert browser.get("/runs?source=skyvern").status_code == 403
    # what is wrong with the whole deployment is not theirs to see
    assert "Processes" not in browser.get("/").text


USER_NAME = "Sign in as <code>admin</code> with the password in <code>RUNHOOK_CONSOLE_PASSWORD</code>."
ONE_TIME = "Each start of <code>runhook dev</code> prints an address after <code>console:</code>."


@pytest.mark.parametrize(
    ("password", "token", "hints", "form"),
    [(True, "", [USER_NAME], True), (False, "t", [ONE_TIME], False), (True, "t", [USER_NAME, ONE_TIME], True)],
)
def test_sign_in_page_names_the_only_user(
    submitting: Callable[..., Submitting],
    hashed_password: str,
    password: bool,
    token: str,
    hints: list[str],
    form: bool,
) -> None:
    # Given a console without users and issuer
    given = hashed_password if password else ""
    it = Browser(submitting("http://127.0.0.1:9", dispatching=False, console_password=given, console_token=token).url)
    # When somebody opens it
    page = it.get("/login").text
    # Then the page says how to sign in, and fills in the only name
    assert [hint for hint in (USER_NAME, ONE_TIME) if hint in page] == hints
    assert ('name="password"' in page) == ('value="admin"' in page) == form
    it.session.close()


def test_sign_in_page_names_no_user_beside_others(browser: Browser) -> None:
    page = browser.get("/login").text
    assert 'name="password"' in page
    assert not [hint for hint in (USER_NAME, ONE_TIME, 'value="admin"') if hint in page]


def test_without_people_there_is_no_console(submitting: Callable[..., Submitting]) -> None:
    it = Browser(submitting("http://127.0.0.1:9", dispatching=False).url)
    assert it.get("/").status_code == 404
    assert it.sign_in().status_code == 404
    it.session.close()


def test_every_answer_forbids_what_is_foreign(browser: Browser) -> None:
    browser.sign_in()
    for path in ("/", "/login", "/runs", "/runs/x", "/nothing", "/static/console.css"):
        headers = browser.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"


def test_no_file_but_the_static_ones_is_served(browser: Browser) -> None:
    for name in ("..%2fhttp.py", "%2e%2e%2fhttp.py", "..", "../http.py", "console.css%00", "x"):
        assert browser.get(f"/static/{name}").status_code in (303, 404)
