"""Requests that wait for a run whose webhook is lost: they end soon after it, for few calls, and no key takes all."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx2
import pytest

from simulator.faults import Fault
from tests.servers.skyvern import Simulate
from tests.servers.submitting import Make, Submitting
from tests.support.ledger import polls_due
from tests.support.waiting import PATIENCE, Stopwatch, eventually


@pytest.mark.parametrize("redis", ["", "redis://127.0.0.1:9/0"], ids=["with Redis", "without"])
def test_lost_webhook_ends_waits_within_5_s(submitting: Make, simulate_skyvern: Simulate, redis: str) -> None:
    sim = simulate_skyvern(ratios={Fault.LOSE: 1.0}, run_seconds=60.0)  # 1.5 to 4.5 s at this speed
    rig = submitting(sim.url, redis=redis, dispatching=False, polling=True)
    run_id = rig.task().json()["run_id"]
    ended: list[float] = []

    def note_end() -> None:
        sim.wait_final(run_id)
        ended.append(time.time())

    def wait(_: int) -> tuple[httpx2.Response, float]:
        answer = rig.client.get(f"/v1/runs/{run_id}?wait=300")
        return answer, time.time()

    watcher = threading.Thread(target=note_end)
    watcher.start()
    watch = Stopwatch()
    with ThreadPoolExecutor(20) as pool:
        waits = list(pool.map(wait, range(20)))
    watcher.join()

    assert {answer.json()["status"] for answer, _ in waits} == {"completed"}
    watch.at_most(60)
    assert max(at for _, at in waits) - ended[0] < 5 * watch.slowness
    seconds = max(at for _, at in waits) - sim.run(run_id).created_at.timestamp()
    assert sim.run(run_id).polls <= seconds / 3 + 2
    assert polls_due(rig.ledger)[run_id] < time.time() + 121  # when the webhook has had its time


def test_end_seen_by_one_process_ends_waits_of_both(submitting: Make, simulate_skyvern: Simulate) -> None:
    sim = simulate_skyvern(ratios={Fault.LOSE: 1.0}, run_seconds=40.0)
    rigs = [submitting(sim.url, dispatching=False, polling=not number) for number in range(2)]
    run_id = rigs[0].task().json()["run_id"]

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda n: rigs[n % 2].client.get(f"/v1/runs/{run_id}?wait=300"), range(20)))

    assert {answer.json()["status"] for answer in answers} == {"completed"}


@contextmanager
def held(rig: Submitting, path: str, key: str, count: int) -> Iterator[None]:
    """So many requests that wait until the end."""
    with (
        httpx2.Client(base_url=rig.url, trust_env=False, timeout=PATIENCE) as client,
        ThreadPoolExecutor(count) as pool,
    ):
        for _ in range(count):
            pool.submit(client.get, path, headers={"x-api-key": key})
        yield


def test_one_key_takes_a_share_of_the_waiters(submitting: Make, simulate_skyvern: Simulate) -> None:
    sim = simulate_skyvern(run_seconds=1000.0)
    rig = submitting(sim.url, dispatching=False, submit={"max_waiters": 8})
    run_id = rig.task().json()["run_id"]
    greedy, other = rig.key("read"), rig.key("read")

    with held(rig, f"/v1/runs/{run_id}?wait=60", greedy, 4):
        eventually(lambda: rig.held() == 4)
        refused = rig.client.get(f"/v1/runs/{run_id}?wait=3", headers={"x-api-key": greedy})
        served = rig.client.get(f"/v1/runs/{run_id}?wait=0.1", headers={"x-api-key": other})
        rig.client.post(f"/v1/runs/{run_id}/cancel")  # which ends the waits

    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
    assert refused.json()["detail"].startswith("requests with this key wait for runs already (4)")
    assert served.status_code == 200


def test_a_wait_that_begins_after_the_end_is_over_at_once(submitting: Make, simulate_skyvern: Simulate) -> None:
    sim = simulate_skyvern(ratios={Fault.LOSE: 1.0})
    rig = submitting(sim.url, dispatching=False, polling=True)
    run_id = rig.task().json()["run_id"]
    sim.wait_final(run_id)
    watch = Stopwatch()

    first = rig.client.get(f"/v1/runs/{run_id}?wait=300")
    second = rig.client.get(f"/v1/runs/{run_id}?wait=300")  # by now the end is noted

    watch.at_most(5)
    assert first.json()["status"] == second.json()["status"] == "completed"
    assert sim.run(run_id).polls <= 3
