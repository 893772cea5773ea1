"""A run whose webhook came without its token, before the receiver knew whose it is: its sinks hear of that at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from receiver.dispatch.dispatcher import Dispatcher
from receiver.ledger import Ledger
from receiver.reconcile import resolver
from tests.servers.scripted import Reply, ScriptedServer
from tests.servers.submitting import Submitting
from tests.support.events import body, event
from tests.support.labels import ROUTES, make_dispatcher
from tests.support.ledger import states
from tests.support.waiting import eventually

JSON = {"content-type": "application/json"}
TIMES = {"created_at": "2026-11-25T10:00:00", "modified_at": "2026-11-25T10:00:01"}
WEBHOOK = event(body("tsk_1", **TIMES))


@pytest.fixture
def rig(submitting: Callable[..., Submitting], scripted_server: ScriptedServer) -> Submitting:
    """A receiver without workers, with the routes of the dispatcher."""
    sinks = {name: {"type": "http", "url": "https://app.example"} for name in ("results", "billing")}
    routes = [each.model_dump(exclude_unset=True) for each in ROUTES]
    return submitting(scripted_server.url, dispatching=False, sinks=sinks, routes=routes)


@pytest.fixture
def dispatcher(rig: Submitting, redis_url: str) -> Iterator[Dispatcher]:
    it = make_dispatcher(Ledger(rig.settings.database_url), redis_url)
    yield it
    it.close()


def test_answer_after_the_webhook_queues_the_callback(
    rig: Submitting, scripted_server: ScriptedServer, dispatcher: Dispatcher
) -> None:
    # Given a submit that Skyvern has not answered, and the webhook of its run
    answered = threading.Event()
    scripted_server.script = [Reply(200, body("tsk_1", "queued", **TIMES), JSON, until=answered)]
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(rig.task, webhook_url="https://app.example/done")
        eventually(lambda: scripted_server.calls)
        dispatcher.dispatch([WEBHOOK])
        assert states(rig.ledger) == {"tsk_1:results": "queued"}

        # When it is answered
        answered.set()
        assert reply.result().status_code == 200

    # Then the caller's webhook is queued; the other sink was told before
    assert states(rig.ledger) == {"tsk_1:results": "queued", "tsk_1:callback": "queued"}


@pytest.mark.parametrize("road", ["a search for the lost answer", "a GET of the run"])
def test_lost_answer_found_after_the_webhook_queues_the_callback(
    rig: Submitting,
    scripted_server: ScriptedServer,
    dispatcher: Dispatcher,
    road: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given a submit whose answer is lost, and the webhook of an attempt of its run that Skyvern will make again
    searching = road == "a search for the lost answer"
    monkeypatch.setattr(resolver, "INLINE", (0.0,) if searching else ())
    lost = threading.Event()
    scripted_server.script = [Reply(hang_up=True, until=lost)]
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(rig.task, webhook_url="https://app.example/done")
        eventually(lambda: scripted_server.calls)
        dispatcher.dispatch([event(body("tsk_1", "failed", attempt=1, retry_pending=True, **TIMES))])

        # When Skyvern shows the end of the run, with its token
        ours = f"{rig.url}/webhooks/skyvern/{rig.rows()[0]['id']}"
        shown: dict[str, Any] = {**TIMES, "run_request": {"webhook_url": ours}}
        run = Reply(200, body("tsk_1", **shown), JSON)
        listed = Reply(200, b'[{"task_id": "tsk_1", "run_id": "tsk_1", "status": "completed"}]', JSON)
        scripted_server.script += [listed] if searching else []
        scripted_server.default = run
        lost.set()
        reply.result()
    if not searching:
        assert rig.client.get("/v1/runs/tsk_1").status_code == 200

    # Then the caller's webhook is queued
    assert rig.rows()[0]["run_id"] == "tsk_1"
    assert states(rig.ledger) == {"tsk_1:callback": "queued"}
