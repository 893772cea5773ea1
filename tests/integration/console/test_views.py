"""Saved views: whose they are, who sees them, and where they lead."""

from __future__ import annotations

import pytest

from receiver.api import views as api_views
from receiver.api.service import Actor, Service
from receiver.domain.api_key import OPERATE, VIEW
from receiver.errors import Conflict, Forbidden, Invalid, NotFound
from receiver.ledger import Ledger
from tests.servers.submitting import Submitting
from tests.support.console import Browser

ANA = Actor("user", "ana", frozenset({VIEW, OPERATE}))
BO = Actor("user", "bo", frozenset({VIEW}))
OF_A = Actor("user", "cy", frozenset({VIEW, OPERATE}), "a")
OF_B = Actor("user", "di", frozenset({VIEW, OPERATE}), "b")


class Views:
    """The calls, of somebody."""

    def __init__(self, ledger: Ledger) -> None:
        self._service = Service(None, ledger)  # type: ignore[arg-type] # no call of these needs settings

    def save(self, actor: Actor, name: str, path: str = "/runs", *, shared: bool = False) -> api_views.SavedViewRow:
        given = [("name", name), ("path", path), *([("shared", "true")] if shared else [])]
        return api_views.SAVE_VIEW.call(self._service, actor, api_views.SAVE_VIEW.parse({}, given))

    def rename(self, actor: Actor, view_id: str, name: str) -> api_views.SavedViewRow:
        wanted = api_views.RENAME_VIEW.validated({"id": view_id, "name": name})
        return api_views.RENAME_VIEW.call(self._service, actor, wanted)

    def remove(self, actor: Actor, view_id: str) -> None:
        api_views.REMOVE_VIEW.call(self._service, actor, api_views.REMOVE_VIEW.validated({"id": view_id}))

    def names(self, actor: Actor) -> list[str]:
        found = api_views.LIST_VIEWS.call(self._service, actor, api_views.LIST_VIEWS.validated({}))
        return [each.name for each in found.items]


@pytest.fixture
def views(ledger: Ledger) -> Views:
    return Views(ledger)


def test_each_has_views_of_their_own(views: Views) -> None:
    first = views.save(ANA, "Failed", "/runs?status=failed&after=x&text=")
    assert (first.path, first.own) == ("/runs?status=failed", True)
    views.save(BO, "Failed", "/runs?status=terminated")
    # Saved again under its name, it is another one in its place
    assert views.save(ANA, " Failed ", "/runs?status=timed_out").id == first.id
    views.save(ANA, "Dead")
    assert views.names(ANA) == ["Dead", "Failed"]
    assert views.names(BO) == ["Failed"]


def test_shared_view_is_limited_to_its_owners_source(views: Views) -> None:
    views.save(ANA, "Of all", shared=True)
    views.save(OF_A, "Of a", shared=True)
    assert views.names(BO) == ["Of a", "Of all"]
    assert views.names(OF_A) == ["Of a"]
    assert views.names(OF_B) == []
    with pytest.raises(Forbidden, match="operate"):
        views.save(BO, "Mine for all", shared=True)


def test_who_may_change_a_view(views: Views) -> None:
    own, shared = views.save(ANA, "Own"), views.save(ANA, "Shared", shared=True)
    for stranger, view, refused in (
        (BO, own, NotFound),
        (BO, shared, Forbidden),
        (OF_A, shared, NotFound),
        (OF_A, own, NotFound),
    ):
        with pytest.raises(refused):
            views.rename(stranger, view.id, "Stolen")
        with pytest.raises(refused):
            views.remove(stranger, view.id)
    assert views.names(ANA) == ["Own", "Shared"]
    with pytest.raises(Conflict):
        views.rename(ANA, own.id, "Shared")
    views.rename(ANA, own.id, "Mine")
    views.remove(ANA, shared.id)
    assert views.names(ANA) == ["Mine"]


def test_there_is_a_bound(views: Views) -> None:
    for number in range(api_views.MOST_OF_ONE):
        views.save(ANA, f"View {number}")
    views.save(ANA, "View 0", "/missing")
    with pytest.raises(Conflict, match=f"{api_views.MOST_OF_ONE} views are the most"):
        views.save(ANA, "Another")


@pytest.mark.parametrize(
    "path", ["", "runs", "//evil.example", "/\\evil.example", "javascript:alert(1)", "https://x", "/runs\n", "/ru ns"]
)
def test_a_view_is_a_page_of_the_console(views: Views, path: str) -> None:
    with pytest.raises(Invalid):
        views.save(ANA, "Bad", path)


@pytest.mark.parametrize("name", ["", "  ", "a\0b", "x" * 61])
def test_a_name_can_be_read(views: Views, name: str) -> None:
    with pytest.raises(Invalid):
        views.save(ANA, name)


def test_a_person_saves_what_they_look_at(browser: Browser, console_server: Submitting) -> None:
    # Given a list with a filter
    browser.sign_in()
    token = browser.form_token
    page = browser.get("/runs?status=failed").text
    assert 'name="path" value="/runs?status=failed"' in page
    # When it is saved, under a hostile name
    form = {"form_token": token, "back": "/console/runs?status=failed", "path": "/runs?status=failed"}
    saved = {**form, "name": "<b>Failed</b>", "shared": "true"}
    answer = browser.session.post("/console/do/save_view", data=saved)
    assert (answer.status_code, answer.headers["location"]) == (303, "/console/runs?status=failed")
    # Then each page has a link to it, which says where one is
    page = browser.get("/runs?status=failed").text
    assert '<a href="/console/runs?status=failed" aria-current="page">&lt;b&gt;Failed&lt;/b&gt;</a>' in page
    assert "Saved as &lt;b&gt;Failed&lt;/b&gt;." in page
    listed = browser.get("/views").text
    assert 'action="/console/do/remove_view"' in listed
    # And who is of one source does not see it
    browser.sign_in("olga")
    assert "Failed" not in browser.get("/views").text
    assert "No view yet." in browser.get("/views").text
