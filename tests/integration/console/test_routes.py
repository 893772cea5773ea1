"""Routes in the console: what each has done, and why an event goes where it goes."""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Iterator

import pytest

from receiver.domain.new_event import NewDelivery
from tests.servers.submitting import Submitting
from tests.support.console import HOSTILE, Browser, tags
from tests.support.ledger import new_event, record

ROUTES = [
    {"name": "failures", "when": {"status": "failed"}, "to": ["ops"], "stop": True},
    {"name": "cheap", "when": "run.step_count < 3", "to": ["results"]},
    {"name": "all", "to": ["results"]},
]


@pytest.fixture
def server(submitting: Callable[..., Submitting], hashed_password: str) -> Submitting:
    people = {"ana": {"password": hashed_password, "source": "other"}}
    sources = {name: {"secrets": [name]} for name in ("skyvern", "other")}
    return submitting(
        "http://127.0.0.1:9",
        dispatching=False,
        console_password=hashed_password,
        console={"users": people},
        sources=sources,
        sinks={name: {"type": "files", "path": "/nowhere"} for name in ("ops", "results")},
        routes=ROUTES,
    )


@pytest.fixture
def people(server: Submitting) -> Iterator[Browser]:
    it = Browser(server.url)
    it.sign_in()
    yield it
    it.session.close()


def test_built_in_route_is_not_called_removed(people: Browser, server: Submitting) -> None:
    callback = NewDelivery("callback", "caller", lane="callback k http://app.example")
    record(server.ledger, new_event("tsk_1", callback, NewDelivery("ops", "former")), now=time.time())
    page = people.get("/routes").text
    assert page.count("no longer in the config") == 1
    assert "built in: the submission has a webhook of its caller" in page


def test_the_rules_in_their_order_with_what_they_did(people: Browser, server: Submitting) -> None:
    record(server.ledger, new_event("tsk_1", "ops", status="failed"), now=time.time())
    page = people.get("/routes").text
    assert page.index("failures") < page.index("run.step_count &lt; 3") < page.index("always")
    assert "1 queued" in page
    assert "stops here" in page
    assert "status: &#34;failed&#34;" in page
    assert "1 queued" in people.get("/routes?window=1h").text


def test_event_is_explained_by_the_current_rules(people: Browser, server: Submitting) -> None:
    # Given an event that an earlier configuration sent elsewhere
    event = new_event("tsk_1", "results", status="failed", step_count=2)
    record(server.ledger, event)
    # When its explanation is opened from its page
    page = people.get(f"/events/{event.event.id}").text
    assert f'href="/console/events/{event.event.id}/explanation"' in page
    shown = html.unescape(people.get(f"/events/{event.event.id}/explanation").text)
    # Then it shows which rules match, and why
    assert 'status is "failed"' in shown
    assert "failures matched and says `stop: true`" in shown
    assert "goes to <b>ops</b>" in shown
    assert people.get("/events/evt_none/explanation").status_code == 404


def test_explanation_is_limited_to_its_source(server: Submitting) -> None:
    event = new_event("tsk_secret")
    record(server.ledger, event)
    ana = Browser(server.url)
    ana.sign_in("ana")
    assert ana.get(f"/events/{event.event.id}/explanation").status_code == 404
    ana.session.close()


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_of_a_body_becomes_markup(people: Browser, server: Submitting, text: str) -> None:
    def shown(run_id: str, words: str) -> set[str]:
        event = new_event(run_id, status="failed", title=words, run_type=words)
        record(server.ledger, event)
        return tags(people.get(f"/events/{event.event.id}/explanation").text)

    assert shown("tsk_1", text) == shown("tsk_2", "plain")
