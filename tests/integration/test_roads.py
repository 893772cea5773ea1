"""Every run type and ending by every road: the same routes, the same deliveries with the same run, and none twice."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import pytest

from receiver.domain import deduplication
from receiver.ledger import Ledger, polls
from tests.support import roads
from tests.support.roads import AGAIN, EARLY, NOW, ORDERS, WEBHOOK, Account, run_of

pytestmark = pytest.mark.long


@pytest.fixture
def account(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Account:
    return Account(ledger)


def of_any_run(value: Any, run_id: str) -> str:
    """A value as text, without the ids of its run, and signatures and checksums of its files."""
    text = str(value).replace(run_id, "").replace(run_id.rpartition("_")[2], "")
    return re.sub("[0-9a-f]{64}", "", text)


# What a result's row has, whichever way it came; the rest depends on Skyvern's own files and clocks.
COMPARED = (
    *("run_id", "run_type", "status", "output", "errors", "failure_reason", "attempt", "workflow_title", "parameters"),
    *("prompt", "url", "workflow_run_id", "task_id", "extracted_information", "outputs", "started_at", "finished_at"),
    *("step_count", "max_steps_per_run", "agent_id"),
)


@pytest.mark.parametrize("batches", ["one by one", "all at once"])
def test_every_road_leads_to_the_same_deliveries_of_the_same_run(account: Account, batches: str) -> None:
    # Given runs of every type and ending that were submitted here, whose results come by every road and in every order
    # The roads are the same on both databases: on the slower one a type of each kind shows that its SQL is.
    whole = account.ledger.dialect == "sqlite"
    names = [name for name in roads.FINISHED if whole or name.startswith(("task_v1.", "task_v2.", "workflow_run."))]
    first: dict[str, Mapping[str, Any]] = {}
    rounds: list[list[tuple[Mapping[str, Any], str]]] = [[] for _ in range(max(map(len, ORDERS)))]
    for name, order in itertools.product(names, [(WEBHOOK,), *ORDERS]):
        run_id = run_of(name, order)
        first[run_id] = webhook = roads.webhook(name, NOW, run_id)
        for number, road in enumerate(order):
            moved = datetime.fromisoformat(webhook["modified_at"]) + timedelta(milliseconds=number)
            body = road({**webhook, "modified_at": moved.isoformat()})
            rounds[number].append((body, "webhook" if road in (WEBHOOK, AGAIN) else "poll"))
    account.submitted({run_id: roads.request_of(dict(body)) for run_id, body in first.items()}, {"team": "a"})

    # When the bodies are dispatched
    for batch in rounds if batches == "one by one" else [list(itertools.chain(*rounds))]:
        account.take(*batch)

    # Then each road made the deliveries that the webhook alone would have made
    rows, chat, pages, prices = (account.told(sink) for sink in ("rows", "chat", "pages", "prices"))
    for name in names:
        of_webhook = run_of(name, (WEBHOOK,))
        for order in ORDERS:
            run_id = run_of(name, order)
            for sink in (chat, pages, prices):
                assert len(sink.get(("s", run_id), [])) == len(sink.get(("s", of_webhook), [])) <= 1, (run_id, sink)
            expected, found = rows["s", of_webhook][-1], rows["s", run_id]
            assert found, run_id
            for each in found:
                assert each.labels == {"team": "a"}
                for member in COMPARED:
                    mine, theirs = each.run.get(member), expected.run.get(member)
                    assert of_any_run(mine, run_id) == of_any_run(theirs, of_webhook), (run_id, member)
            # and one of those that complete the row has all files, where a body had them
            if order != (EARLY,):
                for member in ("recording_url", "screenshot_urls", "downloaded_files"):
                    assert any(each.run[member] for each in found) or not first[run_id][member], (run_id, member)


def test_polled_body_has_the_shape_of_a_webhook(account: Account) -> None:
    webhook = roads.webhook("workflow_run.completed", NOW, "wr_1")
    account.take((roads.poll(webhook), "poll"))
    other = roads.webhook("workflow_run.completed", NOW, "wr_2")
    account.take((other, "webhook"))

    rows = account.told("rows")

    (polled,), (sent,) = rows["s", "wr_1"], rows["s", "wr_2"]
    assert json.loads(polled.payload).keys() >= webhook.keys()
    assert json.loads(polled.body) == roads.poll(webhook)
    assert sent.payload == sent.body == json.dumps(other).encode()


def test_what_a_path_masks_is_masked_by_every_road(ledger: Ledger) -> None:
    account = Account(ledger, "parameters.token")
    webhook = roads.webhook("workflow_run.completed", NOW, "wr_1")
    webhook["parameters"] = webhook["run_request"]["parameters"] = {"token": "t0p"}

    account.take((roads.poll(webhook), "poll"))
    account.take((webhook, "webhook"))

    for each in account.told("rows")["s", "wr_1"]:
        assert each.run["parameters"] == {"token": "[redacted]"}
        assert b'"parameters":{"token":"t0p"}' not in each.payload.replace(b" ", b"").partition(b'"run_request"')[0]


@pytest.mark.parametrize("odd", ["\ud800", "\0", float("inf"), {"a": float("nan")}], ids=ascii)
def test_a_request_with_values_that_no_body_has_costs_no_result(account: Account, odd: Any) -> None:
    # Given submissions whose kept request has what Python's JSON takes and no database does
    asked = {"prompt": roads.PROMPT, "url": roads.URL}
    account.submitted({"tsk_1": asked | {"title": odd, "model": odd, "totp_url": odd}, "tsk_2": asked}, {})

    # When their webhooks come in one batch
    account.take(*((roads.webhook("task_v1.completed", NOW, run_id), "webhook") for run_id in ("tsk_1", "tsk_2")))

    # Then both are told, with values that any sink can write
    rows, chat = account.told("rows"), account.told("chat")
    assert rows.keys() == chat.keys() == {("s", "tsk_1"), ("s", "tsk_2")}
    text = json.dumps(rows["s", "tsk_1"][0].run, ensure_ascii=False, allow_nan=False)
    assert b"\\u0000" not in text.encode()


def test_event_that_hits_a_bug_delays_no_other(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given code that breaks on one run
    def broken(facts: Any, history: Any) -> Any:
        if facts.outcome == "terminated":
            raise IndexError
        return classify(facts, history)

    classify = deduplication.classify
    monkeypatch.setattr(deduplication, "classify", broken)
    bodies = [roads.webhook("task_v1.completed", NOW, f"tsk_{number}") for number in range(3)]
    bodies[1]["status"] = "terminated"

    account.take(*((body, "webhook") for body in bodies))

    assert account.told("rows").keys() == {("s", "tsk_0"), ("s", "tsk_2")}


def test_an_update_goes_to_the_sinks_that_were_not_told_yet(account: Account) -> None:
    # Given a run of somebody else, whose webhook does not say what was asked for
    webhook = roads.webhook("task_v1.completed", NOW, "tsk_1")
    account.take((webhook, "webhook"))
    assert ("s", "tsk_1") not in account.told("chat")

    # When Skyvern's API tells, then the route that asks for it matches, once
    account.take((roads.poll(webhook), "poll"))
    account.take((roads.poll(webhook) | {"modified_at": "2030-01-01T00:00:00"}, "poll"))
    assert len(account.told("chat")["s", "tsk_1"]) == 1
    (first, second) = account.told("rows")["s", "tsk_1"]
    assert first.run["prompt"] is None
    assert second.run["prompt"] == roads.PROMPT


def test_members_missing_from_a_foreign_webhook_are_polled(ledger: Ledger, account: Account) -> None:
    # Given a source that may be asked once
    allowed = iter([True])
    account.dispatcher.recorder.may_ask = lambda _: next(allowed, False)
    account.submitted({"tsk_1": {"prompt": roads.PROMPT}}, {})

    # When webhooks of tasks and workflows come, some of them submitted here
    for name, run_id in [
        ("task_v1.completed", "tsk_1"),
        ("workflow_run.completed", "wr_1"),
        ("task_v2.failed", "tsk_2"),
    ]:
        account.take((roads.webhook(name, NOW, run_id), "webhook"))
    account.take((roads.webhook("task_v1.completed", NOW, "tsk_3"), "webhook"))

    # Then only the one is asked for
    due = ledger.write(lambda it: polls.lease_due(it, "s", NOW + 3600, 10))
    assert [each.run_id for each in due] == ["tsk_2"]
