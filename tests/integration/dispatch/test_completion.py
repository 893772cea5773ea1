"""What an event lacks comes from earlier events of its run: from one that said the same all of it, from another only
what describes the run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from receiver.config.destinations import RetryPolicy
from receiver.delivery.send_task import to_delivery
from receiver.dispatch.recorder import EventRecorder
from receiver.domain.event import Event, event_id
from receiver.domain.redaction import Redactor
from receiver.ledger import Ledger
from receiver.routing.route import RouteConfig
from receiver.routing.router import Router
from receiver.telemetry.workers import WorkerCounter
from tests.support import queries, roads
from tests.support.dispatching import dispatch
from tests.support.ledger import claim

NOW = time.time()
LATER = RouteConfig(name="of a later Skyvern", when="run.tokens_used > 5", to=["costs"])
ROUTES = [RouteConfig(name="everything", to=["rows"], interim=True), RouteConfig(name="once", to=["chat"]), LATER]
NO_FILES = {"recording_url": None, "screenshot_urls": None, "downloaded_files": [], "downloaded_file_urls": None}
NO_REDIS: Any = None

# Dispatches bodies, and returns the runs that a sink is told of, in order.
Take = Callable[..., None]
Told = Callable[[str], list[Mapping[str, Any]]]


@pytest.fixture(params=["one by one", "all at once"])
def take(request: pytest.FixtureRequest, ledger: Ledger) -> Take:
    dispatcher = EventRecorder(ledger, Router(ROUTES, completing=["rows"]), Redactor([]), WorkerCounter(NO_REDIS))

    def take_all(*bodies: Mapping[str, Any]) -> None:
        events = []
        for number, body in enumerate(bodies):
            content = json.dumps({**body, "modified_at": f"2026-11-25T10:00:{number:02d}.000001"}).encode()
            events.append(Event(event_id("s", content), "s", content, time.time(), "webhook"))
        for batch in [events] if request.param == "all at once" else [[each] for each in events]:
            dispatch(dispatcher, batch)

    return take_all


@pytest.fixture
def told(ledger: Ledger) -> Told:
    def told(sink: str) -> list[Mapping[str, Any]]:
        claimed = claim(ledger, sink, limit=500, now=time.time() + 5)
        found = [to_delivery(each, RetryPolicy()).run for each in claimed]
        return sorted(found, key=lambda run: str(run["modified_at"]))

    return told


def test_update_keeps_members_of_earlier_events(take: Take, told: Told) -> None:
    # Given the webhook of a cancelled run whose files were not saved yet, and a poll that has them
    whole = roads.webhook("task_v2.completed", NOW, "tsk_v2_1")
    take(whole | NO_FILES, roads.poll(whole))

    # Then the sink that completes what it keeps gets all of both, and the other one is told once
    first, second = told("rows")
    assert (first["recording_url"], first["summary"]) == (None, whole["summary"])
    for member in ("recording_url", "screenshot_urls", "downloaded_files", "summary", "organization_id", "workflow_id"):
        assert second[member] == whole[member], member
        assert whole[member], member
    assert len(told("chat")) == 1


def test_the_fullest_of_the_earlier_events_tells(take: Take, told: Told) -> None:
    whole = roads.webhook("task_v2.completed", NOW, "tsk_v2_1")
    less = {**roads.poll(whole | NO_FILES), "app_url": None, "queued_at": None}
    files = roads.poll(whole) | {"screenshot_urls": whole["screenshot_urls"][:1]}
    more_files = roads.poll(whole) | {"app_url": None}

    take(less, whole | NO_FILES, files, more_files)

    runs = told("rows")
    assert len(runs) == 4
    assert (runs[0]["summary"], runs[1]["summary"]) == (None, whole["summary"])
    assert [run["summary"] for run in runs[2:]] == [whole["summary"]] * 2


def test_unknown_member_that_comes_later_is_routed_once(take: Take, told: Told) -> None:
    # Given a body without a member that this version knows nothing of, else whole, and webhooks with it
    webhook = roads.webhook("workflow_run.completed", NOW, "wr_1")
    take(webhook, webhook | {"tokens_used": 9}, webhook | {"tokens_used": 9, "webhook_failure_reason": "x"})

    assert [run["tokens_used"] for run in told("costs")] == [9]
    assert len(told("chat")) == 1


def test_other_results_lend_only_descriptive_members(take: Take, told: Told) -> None:
    # Given a run that failed and is tried again, and the end of its second attempt as a poll shows it
    failed = roads.webhook("task_v2.failed", NOW, "tsk_v2_1") | {"retry_pending": True, "summary": "the first try"}
    ended = roads.webhook("task_v2.completed", NOW, "tsk_v2_1")
    take(failed, {**roads.poll(ended), "attempt": 2, "run_request": None})

    # Then it has the organization and the prompt of the first, and nothing of its result
    first, second = told("rows")
    for member in ("organization_id", "workflow_permanent_id", "prompt", "url"):
        assert second[member] == first[member] == failed[member], member
        assert failed[member], member
    assert (second["summary"], second["failure_category"]) == (None, None)
    assert second["output"] == ended["output"]


def test_a_run_of_its_own_lends_nothing_to_another(take: Take, told: Told) -> None:
    one, other = (roads.webhook("task_v2.completed", NOW, run_id) for run_id in ("tsk_v2_1", "tsk_v2_2"))
    take(one, roads.poll(other | NO_FILES) | {"run_request": None}, roads.poll(other) | {"run_request": None})

    assert [(run["run_id"], run["summary"], run["prompt"]) for run in told("rows")] == [
        ("tsk_v2_1", one["summary"], one["prompt"]),
        ("tsk_v2_2", None, None),
        ("tsk_v2_2", None, None),
    ]


def test_run_keeps_its_newest_update_after_a_repeat(take: Take, ledger: Ledger, told: Told) -> None:
    whole = roads.webhook("workflow_run.completed", NOW, "wr_1")
    take(whole | NO_FILES, roads.poll(whole), whole | NO_FILES)

    rows = ledger.read(lambda connection: queries.list_events(connection, queries.Filter()))
    assert [row["disposition"] for row in reversed(rows)] == ["new", "update", "repeat"]
    first, update, repeat = reversed(rows)
    assert (update["repeat_of"], repeat["repeat_of"]) == (first["id"], first["id"])
    assert [row["unrouted"] for row in rows] == [False] * 3
    (run,) = ledger.read(lambda connection: queries.list_runs(connection, queries.Filter()))
    assert (run["event_id"], run["events"], run["outcome"]) == (update["id"], 3, "completed")
    assert len(told("rows")) == 2
