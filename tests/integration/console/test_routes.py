"""Routes in the console: what each has done, bodies and rules that are tried, and that nothing is saved."""

from __future__ import annotations

import html
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import orjson
import pytest

from receiver.api import trial
from receiver.ledger import audit
from receiver.ledger.recording.write import NewDelivery
from tests.servers.submitting import Submitting
from tests.support.console import HOSTILE, Browser, forms, tags
from tests.support.ledger import new_event, record
from tests.support.waiting import Stopwatch

ROUTES = [
    {"name": "failures", "when": {"status": "failed"}, "to": ["ops"], "stop": True},
    {"name": "cheap", "when": "run.step_count < 3", "to": ["results"]},
    {"name": "all", "to": ["results"]},
]
FAILED = orjson.dumps({"run_id": "tsk_1", "run_type": "task_v1", "status": "failed", "step_count": 2}).decode()


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


def test_a_body_tells_which_rule_matches_and_why(people: Browser) -> None:
    page = html.unescape(people.press("/routes", "try_rules", raw=FAILED).text)
    assert 'status is "failed"' in page
    assert "failures matched and says `stop: true`" in page
    assert "goes to <b>ops</b>" in page
    # And invalid JSON is reported
    assert "It can't be read" in people.press("/routes", "try_rules", raw="{").text


def test_a_recent_event_fills_the_form(people: Browser, server: Submitting) -> None:
    event = new_event("tsk_1", "results", title="Fetch invoices", step_count=2)
    record(server.ledger, event)
    page = people.get(f"/routes?event={event.event.id}")
    raw = dict(next(each for each in forms(page.text) if each.action.endswith("try_rules")).fields)["raw"]
    assert orjson.loads(raw)["run_id"] == "tsk_1"
    assert "there: run.step_count is 2" in people.answer(page, "try_rules").text
    assert people.get("/routes?event=evt_none").status_code == 404


def page_of_routes(people: Browser) -> list[str]:
    """What the page says of the rules, and of what they have counted; without the moment at which it was made."""
    text = re.sub(r' data-now="[0-9.]+"', "", people.get("/routes").text)
    return text.split("<h2>Try")[0].split("Counted since")


def test_rules_are_tried_beside_those_of_today_and_not_saved(people: Browser, server: Submitting) -> None:
    # Given three events
    for number, status in enumerate(("failed", "completed", "completed")):
        record(server.ledger, new_event(f"tsk_{number}", status=status))
    before = page_of_routes(people)
    rules = "routes:\n  - {name: new, when: {status: completed}, to: [ops]}\n"
    # When other rules are tried on them
    page = people.press("/routes", "try_rules", rules=rules, events="20").text
    # Then it says which would go elsewhere
    assert "3 of the newest 3 events would go elsewhere" in page
    assert "nowhere" in page
    # And the form still has what was tried
    tried = next(each for each in forms(page) if each.action.endswith("try_rules"))
    assert dict(tried.fields)["rules"].strip() == rules.strip()
    # And the rules are those of before, and nothing was sent or written down
    after = page_of_routes(people)
    assert after[0] == before[0]
    assert after[1].count("<tr>") == before[1].count("<tr>")
    assert server.ledger.read(audit.list_actions) == []
    # And the rules of today change nothing
    assert "0 of the newest 3 events would go elsewhere" in people.press("/routes", "try_rules", events="20").text


def test_wrong_rules_say_where(people: Browser) -> None:
    rules = "routes:\n  - {name: a, to: [nowhere]}"
    page = html.unescape(people.press("/routes", "try_rules", rules=rules, raw=FAILED).text)
    assert "These rules can't be used" in page
    assert "rules:2: routes[0].to[0]: there is no sink nowhere" in page
    assert "<h2>The body" not in page


def test_too_much_is_refused(people: Browser) -> None:
    answer = people.press("/routes", "try_rules", rules="#" * (trial.LONGEST_RULES + 1))
    assert answer.status_code == 422
    assert "rules: " in answer.text
    assert people.act("try_rules", events=str(trial.MOST_EVENTS + 1)).status_code == 422
    assert people.act("try_rules", events="20.0").status_code == 200


def test_what_takes_too_long_is_left(people: Browser, server: Submitting) -> None:
    # Given a hundred events, and rules that take a tenth of a second for each
    record(server.ledger, *(new_event(f"tsk_{number}") for number in range(100)))
    slow = "[0, 1].all(a, " * 17 + "true" + ")" * 17
    rules = orjson.dumps({"routes": [{"name": "slow", "when": slow, "to": ["ops"]}]}).decode()
    page = people.press("/routes", "try_rules", rules=rules, events="100").text
    found = re.search(r"of the newest (\d+) events would go elsewhere; the others took too long to compare", page)
    assert found is not None
    assert 0 < int(found[1]) < 100


@pytest.mark.long
@pytest.mark.parametrize(
    "rule",
    [
        "[0,1].all(a, " * 30 + "true" + ")" * 30,  # for centuries
        "['" + "x" * 999 + "']" + ".map(a, a + a + a + a + a + a + a + a)" * 12 + " == []",  # all memory
    ],
    ids=["time", "memory"],
)
def test_rules_that_take_too_much_hold_up_nobody(people: Browser, server: Submitting, rule: str) -> None:
    # Given somebody who tries a rule that would take hours, or all memory
    rules = orjson.dumps({"routes": [{"name": "a", "when": rule, "to": ["ops"]}]}).decode()
    form = {"form_token": people.form_token, "rules": rules, "raw": FAILED}
    with ThreadPoolExecutor(1) as other, Browser(server.url).session as client:
        answer = other.submit(people.post, "/do/try_rules", **form)
        # Then others are answered meanwhile
        while not answer.done():
            watch = Stopwatch()
            assert client.get("/healthz").status_code == 200
            watch.at_most(4)
        # And the rule is refused
        page = html.unescape(answer.result().text)
        assert "These rules can't be used" in page
        assert "took over" in page


def test_who_may_look_at_one_source_compares_its_events_alone(server: Submitting) -> None:
    record(server.ledger, new_event("tsk_secret"))
    ana = Browser(server.url)
    ana.sign_in("ana")
    assert "0 of the newest 0 events" in ana.press("/routes", "try_rules", rules="routes: []", events="20").text
    assert "tsk_secret" not in ana.get("/routes").text
    assert ana.act("try_rules", source="skyvern", raw="{}").status_code == 403
    ana.session.close()


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_of_a_body_becomes_markup(people: Browser, text: str) -> None:
    def shown(words: str) -> set[str]:
        body = orjson.dumps({"run_id": words, "run_type": words, "status": "failed", "title": words}).decode()
        answer = people.press("/routes", "try_rules", raw=body, label=f"{words}=x")
        assert answer.status_code == 200
        assert "The body" in answer.text
        return tags(answer.text)

    assert shown(text) == shown("plain")


def test_nothing_of_a_rule_becomes_markup(people: Browser) -> None:
    def shown(*words: str) -> set[str]:
        routes = [{"name": each, "when": {"title": each}, "to": ["ops"]} for each in words]
        body = orjson.dumps({"run_id": "tsk_1", "status": "failed", "title": words[0]}).decode()
        rules = orjson.dumps({"routes": routes}).decode()
        answer = people.press("/routes", "try_rules", raw=body, rules=rules)
        assert "The body" in answer.text
        return tags(answer.text)

    assert shown(*HOSTILE) == shown(*(f"plain {number}" for number in range(len(HOSTILE))))
