"""Replay, backfill and their control from the command line, with a clock that is killed in the middle; a worker that is
stopped while its sink is slow.
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from receiver.domain.delivery import DeliveryMove
from receiver.ledger.schema import operations
from tests.servers import warm_python
from tests.servers.deployment import Deployment
from tests.servers.http import Reply, ScriptedServer
from tests.servers.receiver import body
from tests.support.ledger import claim, new_event, record, settle, with_tables
from tests.support.waiting import PATIENCE, eventually

pytestmark = pytest.mark.long

Deployments = Callable[..., Deployment]


@pytest.fixture
def consumer() -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        yield server


def config(consumer: ScriptedServer, **http: Any) -> dict[str, Any]:
    sink = {"type": "http", "url": f"{consumer.url}/hooks", "retry": {"attempts": 2, "first": "100ms"}, **http}
    return {
        "sinks": {"hooks": sink, "results": {"type": "database", "url": "sqlite:///${RUNHOOK_DATA}/results.db"}},
        "routes": [{"name": "everything", "to": ["hooks"]}],
        "allowed_addresses": ["127.0.0.1"],
    }


def set_rate(it: Deployment, rate: float) -> None:
    """Change what all operations were asked for with: one slow enough to be met in its middle need not stay slow."""
    it.ledger.write(lambda connection: connection.execute(sa.update(operations).values(rate=rate)))


def keys(consumer: ScriptedServer) -> Counter[str]:
    return Counter(request.headers["webhook-id"] for request in consumer.requests)


def test_a_replay_has_a_rate_and_progress_survives_a_killed_clock_works_again_and_can_be_cancelled(
    deployment: Deployments, redis_url: str, consumer: ScriptedServer
) -> None:
    # Given ten dead letters
    it = deployment(redis_url, **config(consumer))
    consumer.script += [Reply(400)] * 10
    it.run("worker")
    it.run("clock")
    it.start()
    it.acked(*(body(number) for number in range(10)))
    eventually(lambda: it.states() == {"dead": 10})
    refused = keys(consumer)

    # When a replay is counted, then begun at a rate, and the clock is killed in the middle of it
    assert it.runhook("replay", "--sink", "hooks", "--dry-run") == "10 deliveries to replay\n"
    consumer.script += [Reply(400)] * 10
    line = ["-m", "receiver.cli", "replay", "--sink", "hooks", "--rate", "0.5", "--wait"]
    watch = warm_python.start(line, it.directory / "watch.log", env=it.environment)

    def progress() -> list[int]:
        return [int(found) for found in re.findall(r": (\d+) of 10$", it.log_of("watch"), re.MULTILINE)]

    eventually(lambda: len(progress()) >= 2)
    it.kill_part("clock")
    assert watch.poll() is None
    assert len(consumer.requests) < 20
    assert [each["rate"] for each in it.json("operations")] == [0.5]
    set_rate(it, 1000)
    it.run("clock")
    # Then it goes on where it stood, shows its progress, and sends each once more under the same key
    assert watch.wait(PATIENCE) == 0
    assert it.log_of("watch").splitlines()[1].endswith(": 10 deliveries to replay")
    assert progress() == sorted(progress())
    assert progress()[-1] == 10
    assert len(progress()) >= 3
    eventually(lambda: it.states() == {"dead": 10})
    assert keys(consumer) == {key: 2 * count for key, count in refused.items()}
    (done,) = it.json("operations")
    assert (done["state"], done["done"], done["total"], done["rate"]) == ("done", 10, 10, 1000)

    # And a second replay reaches a sink that is well by now, and a third has nothing to do unless it is forced
    it.runhook("replay", "--all", "--wait")
    it.all_delivered(10)
    some = it.deliveries()[0]
    assert "1 delivered: use --force to send them again" in it.runhook("replay", some["id"], code=1)
    assert "wr_nobody: there is no such run" in it.runhook("replay", some["id"], "wr_nobody", "--force", code=2)
    it.runhook("replay", some["id"], "--force")
    eventually(lambda: keys(consumer)[some["id"]] == 4)
    assert [each["outcome"] for each in it.json("attempts", some["id"])] == ["refused"] * 2 + ["accepted"] * 2

    # And one that is cancelled in the middle takes no more
    before = len(consumer.requests)
    (named,) = re.findall(r"op_\w+", it.runhook("replay", "--state", "delivered", "--rate", "0.1"))
    eventually(lambda: len(consumer.requests) > before)
    assert it.runhook("cancel", named).startswith(f"{named}: cancelled\n")
    stopped = it.json("operations")[0]
    assert stopped["state"] == "cancelled"
    assert 1 <= stopped["done"] < 10
    assert named in it.runhook("cancel", named, code=1)
    set_rate(it, 1000)  # the clock's next step would take the rest, were it still running
    # And a new sink is filled with the old events, once
    it.runhook("replay", "--backfill", "results", "--wait")
    it.all_delivered(10, sink="results")
    it.all_delivered(10, sink="hooks")
    assert len(consumer.requests) == before + stopped["done"]
    assert "\n0 deliveries" in it.runhook("replay", "--backfill", "results", "--dry-run")


def test_a_worker_that_is_stopped_finishes_or_hands_back_and_records_no_success_that_was_none(
    deployment: Deployments, redis_url: str, consumer: ScriptedServer
) -> None:
    # Given a sink that takes its time for each delivery, two at a time, and six deliveries
    it = deployment(redis_url, **config(consumer, concurrency=2, timeout=90))
    answer = threading.Event()
    consumer.script += [Reply(until=answer)] * 6
    worker = it.run("worker")
    it.run("clock")
    it.start()
    it.acked(*(body(number) for number in range(6)))
    eventually(lambda: len(consumer.requests) >= 2)
    # When the worker is asked to stop
    worker.terminate()
    eventually(lambda: "worker.stopping" in it.log_of("worker"))
    answer.set()
    assert worker.wait(PATIENCE) == 0
    # Then what it had begun is delivered, nothing is in its hands, and the rest waits
    begun = len(consumer.requests)
    assert it.states() == {"delivered": begun, "queued": 6 - begun}
    assert begun < 6
    # And the next worker does that, each once
    it.run("worker")
    it.all_delivered(6)
    assert set(keys(consumer).values()) == {1}

    # And a send that does not end before the stop is no success: it is handed back, and made again
    it.kill_part("worker")
    consumer.script[:] = [Reply(until=threading.Event())]
    worker = it.run("worker", "--stop-timeout", "1")
    it.acked(body(7))
    eventually(lambda: len(consumer.requests) == 7)
    worker.terminate()
    assert worker.wait(PATIENCE) == 1
    (delivery,) = (each for each in it.deliveries() if each["state"] != "delivered")
    assert delivery["state"] == "queued"
    it.run("worker")
    it.all_delivered(7)
    outcomes = [each["outcome"] for each in it.json("attempts", delivery["id"])]
    assert outcomes == ["lapsed", "accepted"]
    assert keys(consumer)[delivery["id"]] == 2


def test_what_waits_for_a_sink_that_was_renamed_is_told_of_and_goes_to_the_new_one_under_its_key(
    deployment: Deployments, redis_url: str, consumer: ScriptedServer
) -> None:
    # Given a delivery that waits for its next attempt, to a sink that the config calls by another name now
    it = deployment(redis_url, **config(consumer))
    record(with_tables(it.ledger), new_event("tsk_1", "renamed"))
    settle(it.ledger, claim(it.ledger, "renamed"), DeliveryMove.DEFER, due_at=time.time() + 3600)
    (waiting,) = it.deliveries()

    # When worker and clock start
    it.run("worker")
    it.run("clock")

    # Then it is told of, and when it is moved it is sent under the key that it had
    eventually(lambda: "removed sink renamed has pending deliveries: 1 waiting" in it.log_of("worker"))
    assert "moved to hooks: 1 delivery of renamed" in it.runhook("sink", "move", "renamed", "hooks")
    it.all_delivered(1, sink="hooks")
    assert keys(consumer) == {waiting["id"]: 1}
