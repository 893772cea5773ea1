"""Keys in the console: created, shown once, revoked."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

import pytest

from receiver.ledger.access import api_keys, audit
from tests.servers.submitting import Submitting
from tests.support.console import HOSTILE, Browser, tags


def created(browser: Browser, **form: str | Sequence[str]) -> str:
    """The page that shows a new key."""
    answer = browser.act("create_key", back="/console/keys", **form)
    assert answer.status_code == 200, answer.text
    return answer.text


def test_a_key_is_shown_once(browser: Browser, console_server: Submitting) -> None:
    # When somebody creates a key
    browser.sign_in()
    page = created(browser, name="billing", scopes=["view", "operate"], source="*", rate="5/s", expires_in="604800")
    whole = re.search(r'value="(rhk_[^"]+)"', page)
    assert whole
    # Then it opens the API, with what it was given
    headers = {"x-api-key": whole[1]}
    assert browser.session.get("/api/v1/runs", headers=headers).status_code == 200
    assert browser.session.get("/v1/runs", headers=headers).status_code in (401, 403)
    # And no page has it again
    listed = browser.get("/keys").text
    assert "billing" in listed
    assert whole[1] not in listed
    # And its end is a time, in a column of its own
    day = time.strftime("%Y-%m-%d", time.gmtime(time.time() + 604_800))
    assert re.search(rf'data-head="ends"><time[^>]*>{day} [0-9:]+</time> UTC', listed)
    assert '<option value="604800">7 days</option>' in listed
    # And the audit says who it was
    newest = console_server.ledger.read(lambda it: audit.list_actions(it))[0]
    assert (newest.action, newest.actor, newest.actor_kind) == ("key.create", "admin", "user")


def test_a_revoked_key_is_refused(browser: Browser, console_server: Submitting) -> None:
    # Given a key
    whole = console_server.key("view")
    key_id = whole.split("_")[1]
    browser.sign_in()
    # When somebody revokes it, which is asked first
    asked = browser.act("revoke_keys", ids=key_id, back="/console/keys")
    assert "Revoke this key?" in asked.text
    assert re.search(rf"<b>\w.* \({whole[:8]}", asked.text)
    assert f"ids</span> {key_id}" not in asked.text
    assert console_server.ledger.read(lambda it: api_keys.get(it, key_id)).revoked_at is None
    answer = browser.act("revoke_keys", ids=key_id, back="/console/keys", sure="yes")
    # Then it is, and the page says so
    assert (answer.status_code, answer.headers["location"]) == (303, "/console/keys")
    page = browser.get("/keys").text
    assert "The key is revoked." in page
    assert "revoked <time" in page
    assert console_server.ledger.read(lambda it: api_keys.get(it, key_id)).revoked_at is not None


def test_a_key_is_rotated(browser: Browser, console_server: Submitting) -> None:
    old = console_server.key("view").split("_")[1]
    browser.sign_in()
    asked = browser.act("rotate_key", key=old, back="/console/keys")
    assert "Give this key a successor?" in asked.text
    page = browser.act("rotate_key", key=old, back="/console/keys", sure="yes").text
    assert re.search(r'value="(rhk_[^"]+)"', page)
    assert "ends <time" in page
    listed = browser.get("/keys").text
    assert 'data-head="ends">replaced, <time' in listed
    key = console_server.ledger.read(lambda it: api_keys.get(it, old))
    assert key.replaced_by
    assert key.in_use


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ({"name": "x", "scopes": "view", "source": "nowhere"}, "nknown source nowhere"),
        ({"name": "x", "scopes": "submit", "source": "*"}, "a key of all sources can view, operate and erase"),
        ({"name": "x", "scopes": "fly"}, "fly"),
        ({"name": "\x07", "scopes": "view"}, "printable characters"),
        ({"name": "x", "scopes": "view", "rate": "often"}, "rate: "),
    ],
)
def test_a_wrong_key_says_what_is_wrong(browser: Browser, form: dict[str, str], says: str) -> None:
    browser.sign_in()
    answer = browser.act("create_key", **form)
    assert answer.status_code in (403, 422)
    assert says in answer.text


def test_nobody_gives_what_they_have_not(browser: Browser) -> None:
    # Given somebody who may only look, at one source
    browser.sign_in("ana")
    # Then there is no form to create a key, and none is created
    assert "create_key" not in browser.get("/keys").text
    assert browser.act("create_key", name="x", scopes="view").status_code == 403
    # And somebody who may operate one source gives it alone, and no scope of others
    browser.sign_in("olga")
    page = browser.get("/keys").text
    assert 'name="source"' not in page
    assert "You cannot grant submit, read, resubmit" in page
    assert browser.act("create_key", name="x", scopes="submit").status_code == 403
    assert browser.act("create_key", name="x", scopes="view", source="*").status_code == 403
    assert "<dd>skyvern</dd>" in created(browser, name="mine", scopes="view")


def test_a_person_of_one_source_sees_and_revokes_its_keys_alone(browser: Browser, console_server: Submitting) -> None:
    mine, foreign = (console_server.key("view", source=source).split("_")[1] for source in ("skyvern", "other"))
    browser.sign_in("olga")
    page = browser.get("/keys").text
    assert mine in page
    assert foreign not in page
    answer = browser.act("revoke_keys", ids=foreign, sure="yes")
    assert answer.status_code == 404
    assert console_server.ledger.read(lambda it: api_keys.get(it, foreign)).revoked_at is None


@pytest.mark.parametrize("text", [each for each in HOSTILE if each.isprintable()])
def test_no_name_becomes_markup(browser: Browser, text: str) -> None:
    browser.sign_in()
    clean = tags(created(browser, name="plain", scopes="view", source="skyvern"))
    listed = tags(browser.get("/keys").text)
    assert tags(created(browser, name=text[:100], scopes="view", source="skyvern")) == clean
    assert tags(browser.get("/keys").text) == listed
