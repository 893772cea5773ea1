"""Signing in by an OpenID Connect issuer: who may, as what, and that nobody else's answer is believed."""

from __future__ import annotations

import html
import logging
import time
from collections.abc import Callable, Iterator

import httpx2
import pytest

from receiver.console import oidc, sign_in
from receiver.ledger.access import audit
from receiver.ledger.schema import console_sessions
from tests.servers.issuer import CLIENT, SECRET, Issuer
from tests.servers.submitting import Submitting
from tests.support.console import PASSWORD, Browser
from tests.support.waiting import PATIENCE

GROUPS = {"ops": {"scopes": ["view", "operate"]}, "people": {"scopes": ["view"], "source": "other"}}


@pytest.fixture
def server(submitting: Callable[..., Submitting], issuer: Issuer) -> Submitting:
    settings = {"issuer": issuer.url, "client_id": CLIENT, "client_secret": SECRET, "groups": GROUPS}
    it = submitting("http://127.0.0.1:9", dispatching=False, console={"oidc": settings}, sign_ins=(0.1, 30))
    issuer.redirects.add(f"{it.url}/console/oidc/callback")
    return it


@pytest.fixture
def person(server: Submitting) -> Iterator[Browser]:
    it = Browser(server.url)
    yield it
    it.session.close()


def test_sign_in_page_names_no_user_beside_an_issuer(
    submitting: Callable[..., Submitting], issuer: Issuer, hashed_password: str
) -> None:
    settings = {"issuer": issuer.url, "client_id": CLIENT, "client_secret": SECRET, "groups": GROUPS}
    server = submitting(
        "http://127.0.0.1:9", dispatching=False, console={"oidc": settings}, console_password=hashed_password
    )
    it = Browser(server.url)
    page = it.get("/login").text
    assert 'name="password"' in page
    assert "admin" not in page
    it.session.close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the issuer
def test_independent_issuer_signs_a_person_in(submitting: Callable[..., Submitting]) -> None:
    import oidc_provider_mock  # its import warns

    # Given an issuer that Runhook's own tests did not write, which demands a nonce
    user = oidc_provider_mock.User(sub="u1", claims={"preferred_username": "bo", "groups": ["people"]})
    with oidc_provider_mock.run_server_in_thread(require_nonce=True, user_claims=[user]) as issuer:
        url = f"http://localhost:{issuer.server_port}"
        settings = {"issuer": url, "client_id": CLIENT, "client_secret": SECRET, "groups": GROUPS}
        server = submitting("http://127.0.0.1:9", dispatching=False, console={"oidc": settings})
        person = Browser(server.url)
        begun = person.get("/oidc/login?next=/console/runs")
        # When the person signs in there
        back = httpx2.post(begun.headers["location"], data={"sub": "u1"}, timeout=PATIENCE, trust_env=False)
        answer = come_back(person, back.headers["location"])
    # Then they are signed in here, with the rights of their group
    assert (answer.status_code, answer.headers["location"]) == (303, "/console/runs")
    assert "oidc:people:bo" in person.get("/runs").text
    person.session.close()


def at_issuer(person: Browser, where: str = "/console/runs") -> str:
    """Press the button, let the issuer say who it is, and return the address that it sends the browser back to."""
    page = person.get(f"/login?next={where}").text
    assert f'href="/console/oidc/login?next={where}"' in page
    answer = person.get(f"/oidc/login?next={where}")
    assert answer.status_code == 303, answer.text
    back = httpx2.get(answer.headers["location"], timeout=PATIENCE, trust_env=False)
    assert back.status_code == 303
    return str(back.headers["location"])


def come_back(person: Browser, location: str) -> httpx2.Response:
    """Follow the issuer back, as a browser that comes from another site."""
    return person.session.get(location, headers={"sec-fetch-site": "cross-site"})


def test_who_the_issuer_names_is_in_with_the_rights_of_the_group(
    person: Browser, server: Submitting, issuer: Issuer
) -> None:
    # When somebody signs in by the issuer
    answer = come_back(person, at_issuer(person))
    # Then they are on the page that they wanted
    assert (answer.status_code, answer.headers["location"]) == (303, "/console/runs")
    assert "oidc:ops:ana@corp" in person.get("/runs").text
    # And do what their group may, under their name
    assert "The key" in person.act("create_key", name="n", scopes="view", source="*").text
    newest = server.ledger.read(audit.list_actions)[0]
    assert (newest.actor_kind, newest.actor) == ("user", "oidc:ops:ana@corp")
    # And the ledger has no token of theirs
    rows = server.ledger.read(lambda it: it.execute(console_sessions.select()).all())
    (token,) = (str(cookie.value) for cookie in person.session.cookies.jar)
    assert len(rows) == 1
    assert token not in str(rows)
    assert len(issuer.tokens) == 1


def test_an_address_that_the_issuer_has_not_checked_is_no_name(person: Browser, issuer: Issuer) -> None:
    # Given somebody who has told the issuer the address of another, and has no other name there
    issuer.claims = {"sub": "u2", "email": "boss@corp", "email_verified": False, "groups": ["ops"]}
    come_back(person, at_issuer(person))
    # Then what they do is not under that name
    page = person.get("/runs").text
    assert "oidc:ops:u2" in page
    assert "boss@corp" not in page


def test_another_site_can_not_use_up_the_tries_of_a_network(server: Submitting, issuer: Issuer) -> None:
    # Given a page elsewhere with pictures that are our address, which somebody here looks at
    with httpx2.Client(base_url=server.url, trust_env=False, timeout=PATIENCE) as browser:
        headers = {"sec-fetch-site": "cross-site"}
        asked = [browser.get("/console/oidc/callback?state=x&code=y", headers=headers) for _ in range(40)]
    assert {each.status_code for each in asked} == {400}
    # Then people of that network sign in as before
    person = Browser(server.url)
    assert come_back(person, at_issuer(person)).status_code == 303
    person.session.close()


def test_the_first_group_of_the_config_counts(person: Browser, issuer: Issuer) -> None:
    issuer.claims["groups"] = "people"
    come_back(person, at_issuer(person))
    assert "oidc:people:ana@corp" in person.get("/runs").text
    assert person.get("/runs?source=skyvern").status_code == 403
    assert person.act("create_key", name="n", scopes="view").status_code == 403


def test_who_is_in_no_group_is_told_so(person: Browser, issuer: Issuer) -> None:
    issuer.claims |= {"groups": ["sales", "<b>"], "preferred_username": "<script>x</script>"}
    answer = come_back(person, at_issuer(person))
    assert answer.status_code == 403
    assert "is in no group that may use this console: the claim groups has sales" in answer.text
    assert "<b>" not in answer.text
    assert "<script>x" not in answer.text
    assert person.get("/runs").status_code == 303


@pytest.mark.parametrize("name", ["admin", "ops:root", "people:x", "a/b c\u202e", "é" * 500])
def test_no_name_makes_somebody_else(person: Browser, issuer: Issuer, name: str) -> None:
    issuer.claims |= {"groups": ["people"], "preferred_username": name}
    assert come_back(person, at_issuer(person)).status_code == 303
    shown = person.get("/runs")
    assert shown.status_code == 200
    assert "<span>oidc:people:" in shown.text
    assert person.get("/runs?source=skyvern").status_code == 403


@pytest.mark.parametrize("sub", ["", " ", "a\ud800"])
def test_a_token_without_a_name_is_refused_in_words(person: Browser, issuer: Issuer, sub: str) -> None:
    issuer.claims = {"sub": sub, "groups": ["people", "\ud800"]}
    answer = come_back(person, at_issuer(person))
    assert answer.status_code == 403
    assert "has no name of yours in preferred_username, email, sub" in answer.text
    # Nor does half a character in a group break the page
    issuer.claims = {"sub": "u1", "groups": ["\ud800"]}
    assert "is in no group" in come_back(person, at_issuer(person)).text


WRONG = "nonce expired audience audiences party azp iss none hmac signature client grant denied"


@pytest.mark.parametrize("fault", WRONG.split())
def test_no_wrong_answer_is_believed(
    person: Browser, issuer: Issuer, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    issuer.faults.add(fault)
    answer = come_back(person, at_issuer(person))
    assert answer.status_code == 403
    assert issuer.url.removeprefix("http://") in answer.text
    assert "<b>no</b>" not in answer.text
    assert person.get("/runs").status_code == 303
    if fault == "client":
        assert "check client_id and client_secret of console.oidc" in answer.text
    assert SECRET not in answer.text + caplog.text
    # And after that is fixed, it works
    issuer.faults.clear()
    assert come_back(person, at_issuer(person)).status_code == 303


def test_an_answer_is_for_the_browser_that_asked_and_once(person: Browser, server: Submitting, issuer: Issuer) -> None:
    # Given an answer that somebody sends to somebody else
    location = at_issuer(person)
    victim = Browser(server.url)
    assert come_back(victim, location).status_code == 400
    assert "Sign in again" in come_back(victim, location).text
    # And one whose state, or cookie, was changed
    assert come_back(person, location.replace("state=", "state=x")).status_code == 400
    kept = person.session.cookies.get(sign_in.SIGNING_IN, path="/console/oidc") or ""
    victim.session.cookies.set(sign_in.SIGNING_IN, "x" + kept, domain="127.0.0.1", path="/console/oidc")
    assert come_back(victim, location).status_code == 400
    assert issuer.tokens == []
    # Then it is good for the one who asked, and no second time
    assert come_back(person, location).status_code == 303
    assert come_back(person, location).status_code == 400
    victim.session.close()


def test_an_answer_of_another_issuer_is_refused(person: Browser, issuer: Issuer) -> None:
    answer = come_back(person, at_issuer(person) + "&iss=https%3A%2F%2Fother.example")
    assert answer.status_code == 400
    assert issuer.tokens == []


def test_what_took_too_long_is_begun_again(person: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a browser that keeps the cookie of a sign-in for longer than it is valid
    location, began = at_issuer(person), time.time()
    kept = person.session.cookies.get(sign_in.SIGNING_IN, path="/console/oidc") or ""
    for later, status in ((oidc.LASTS + 1, 400), (oidc.LASTS - 60, 303)):
        monkeypatch.setattr(time, "time", lambda later=later: began + later)
        person.session.cookies.set(sign_in.SIGNING_IN, kept, domain="127.0.0.1", path="/console/oidc")
        assert come_back(person, location).status_code == status


def test_a_new_key_of_the_issuer_is_found(person: Browser, issuer: Issuer) -> None:
    assert come_back(person, at_issuer(person)).status_code == 303
    issuer.roll()
    person.session.cookies.clear()
    assert come_back(person, at_issuer(person)).status_code == 303


def test_a_key_that_the_issuer_has_withdrawn_proves_nothing(person: Browser, issuer: Issuer) -> None:
    assert come_back(person, at_issuer(person)).status_code == 303
    person.session.cookies.clear()
    issuer.faults.add("withdrawn")
    assert come_back(person, at_issuer(person)).status_code == 403


@pytest.mark.parametrize(("fault", "says"), [("down", "can't be reached from here"), ("issuer", "write it the same")])
def test_an_issuer_that_is_wrong_or_away_says_what_to_mend(
    person: Browser, issuer: Issuer, fault: str, says: str
) -> None:
    issuer.faults.add(fault)
    answer = person.get("/oidc/login")
    assert answer.status_code == 503
    assert says in html.unescape(answer.text)


def test_nobody_is_led_elsewhere_after_signing_in(person: Browser) -> None:
    begun = person.get("/oidc/login?next=https%3A%2F%2Fevil.example%2F")
    back = httpx2.get(begun.headers["location"], timeout=PATIENCE, trust_env=False).headers["location"]
    assert come_back(person, back).headers["location"] == "/console/"


def test_without_people_there_is_no_form_for_passwords(person: Browser) -> None:
    page = person.get("/login").text
    assert 'name="password"' not in page
    # And nobody gets in as one of a group, by a password
    for name in ("oidc:ops:ana@corp", "oidc:ops:x", "admin"):
        assert person.sign_in(name, PASSWORD).status_code == 401


def test_without_an_issuer_there_is_no_button(browser: Browser) -> None:
    assert "/console/oidc/" not in browser.get("/login").text
    assert browser.get("/oidc/login").status_code == 404
