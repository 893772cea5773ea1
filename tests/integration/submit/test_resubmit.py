"""The resubmit sink at work: runs that always fail, the real submit API, a simulated Skyvern, and a chain that ends."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
import redis

from handlers.resubmit import ResubmitOptions, ResubmitSink
from handlers.testing.conformance import NoServices
from receiver.config.destinations import RetryPolicy
from receiver.delivery.runner import SinkRunner
from receiver.ledger import Ledger, operations
from receiver.ledger.selection import Selection
from receiver.ledger.verbs import Operation
from simulator.faults import Fault
from tests.servers.skyvern import SkyvernSimulator
from tests.servers.submitting import Submitting
from tests.support import queries
from tests.support.ledger import step_operations
from tests.support.runners import run_out
from tests.support.waiting import eventually

SINK = {"type": "resubmit", "base_url": "http://127.0.0.1:1", "key": "rhk_x"}  # stands for the one below
ROUTE = {"name": "again", "when": {"status": ["failed", "completed"]}, "to": ["again"]}


@contextmanager
def delivering(rig: Submitting, redis_url: str, **options: Any) -> Iterator[None]:
    """The worker of the sink `again`, in a thread."""
    validated = ResubmitOptions.model_validate(
        {"base_url": rig.url, "key": rig.key("submit", "read", "resubmit"), **options}
    )
    sink: Any = ResubmitSink("again", validated, NoServices())
    connection = redis.Redis.from_url(redis_url, socket_timeout=10)
    ledger, ended = Ledger(rig.settings.database_url), threading.Event()
    runner = SinkRunner(ledger, sink, RetryPolicy(), 4, connection, "w")
    thread = threading.Thread(target=run_out, args=(runner, ended.is_set))
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(120)
        ledger.close()
        connection.close()


def deliveries(rig: Submitting, state: str = "delivered") -> list[dict[str, Any]]:
    found = rig.ledger.read(lambda connection: queries.list_deliveries(connection, queries.Filter(sink="again")))
    return [each for each in found if each["state"] == state]


def replay(rig: Submitting) -> None:
    now = time.time()
    rig.ledger.write(
        lambda c: operations.create(c, "op_1", Operation("replay", Selection(sink="again"), force=True), now)
    )
    step_operations(rig.ledger, now)


@pytest.mark.parametrize(("public", "budget"), [(True, 2), (False, 1)], ids=["by webhook", "by polling"])
def test_failing_runs_are_tried_within_the_budget(
    submitting: Callable[..., Submitting],
    simulate_skyvern: Callable[..., SkyvernSimulator],
    redis_url: str,
    public: bool,
    budget: int,
) -> None:
    sim = simulate_skyvern(ratios={Fault.FAIL: 1.0}, run_seconds=0.2)
    settings = {} if public else {"public_url": "", "polling": True, "reconcile": {"webhook_grace": 0}}
    rig = submitting(sim.url, sinks={"again": SINK}, routes=[ROUTE], **settings)
    wanted = "https://app.example/h"

    with delivering(rig, redis_url, budget=budget, changes={"max_steps": "{{ 25 * try }}"}):
        first = rig.task("p", webhook_url=wanted, labels={"team": "billing"}).json()["run_id"]

        def spent() -> bool:
            if not public:  # nothing else asks for the results here
                for run_id in list(sim.world.runs):
                    rig.client.get(f"/v1/runs/{run_id}")
            return any("budget is spent" in each["receipt"].get("note", "") for each in deliveries(rig))

        eventually(spent)
        made = len(sim.world.runs)
        replay(rig)  # by hand, of all of them: it is the same wish still
        eventually(lambda: sum(each["attempts"] for each in deliveries(rig)) == 2 * (budget + 1))

    assert made == len(sim.world.runs) == budget + 1
    rows = rig.rows()
    assert [row["callback_url"] for row in rows] == [wanted] * (budget + 1)
    chain = [json.loads(row["labels"]) for row in rows]
    assert chain[0] == {"team": "billing"}
    assert [labels["runhook-try"] for labels in chain[1:]] == [str(number) for number in range(2, budget + 2)]
    assert {(labels["team"], labels["runhook-chain"]) for labels in chain[1:]} == {("billing", first)}
    assert [run.max_steps for run in sim.world.runs.values()] == [None, *(25 * n for n in range(2, budget + 2))]
    following = {each["run_id"]: each["receipt"]["id"] for each in deliveries(rig)}
    last = rows[-1]["run_id"]
    assert following == {row["run_id"]: nxt["run_id"] for row, nxt in pairwise(rows)} | {last: last}


def test_a_lost_answer_makes_no_second_run(
    submitting: Callable[..., Submitting], simulate_skyvern: Callable[..., SkyvernSimulator], redis_url: str
) -> None:
    sim = simulate_skyvern(ratios={Fault.FAIL: 1.0}, run_seconds=0.2)
    rig = submitting(sim.url, sinks={"again": SINK}, routes=[ROUTE])

    with delivering(rig, redis_url, budget=1, changes={"title": "p [drop]"}):
        rig.task("p")
        eventually(lambda: len(deliveries(rig)) == 2)

    assert len(sim.world.runs) == 2
    assert sim.stats()["answers_dropped"] == 1


def test_a_run_that_completes_at_its_second_try_ends_the_chain(
    submitting: Callable[..., Submitting], simulate_skyvern: Callable[..., SkyvernSimulator], redis_url: str
) -> None:
    sim = simulate_skyvern(run_seconds=0.2)
    rig = submitting(sim.url, sinks={"again": SINK}, routes=[ROUTE])

    with delivering(rig, redis_url, changes={"prompt": "p", "title": "p"}):
        rig.task("p [fail]")
        eventually(lambda: len(deliveries(rig)) == 2)

    notes = sorted(each["receipt"]["note"] for each in deliveries(rig))
    assert notes[0] == "the run is completed: not submitted again"
    assert notes[1].startswith("try 2 of 3")
    assert [run.status for run in sim.world.runs.values()] == ["failed", "completed"]
