"""Sinks that share a worker process, and one of them that does harm: the others go on, and it gets one of its own."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

import pytest

from receiver.delivery.prefetch import unrecorded_starts
from tests.servers.deployment import Deployment
from tests.servers.http import ScriptedServer
from tests.support.ledger import new_event, record, with_tables
from tests.support.waiting import eventually

GOOD = ("archive", "ops", "results")
EACH = 60
AT_ONCE = 4

# Terms and windows are as short as a test. What a send of the sink `bad` does comes after it.
BAD = """
import ctypes, os, time
from handlers.http import HttpSink
from receiver.runtime import set_apart, shared_process, supervisor

shared_process._WINDOW, supervisor._MEMORY = 1.0, 300 << 20
set_apart.SUSPECTED, set_apart.PROVEN = 4.0, 600.0

def send(self, delivery, send=HttpSink.send):
    if self.name == "bad":
        harm()
    else:
        time.sleep(0.02)
    return send(self, delivery)

HttpSink.send = send
"""
HARM = {
    "hangs in Python": "def harm(): time.sleep(3600)",
    "hangs in C": "def harm(): ctypes.PyDLL(None).sleep(3600)",
    "computes for ever": "def harm():\n while True: pass",
    "ends its process": "def harm(): os.abort()",
    "eats memory": "def harm(): eaten = b'x' * (400 << 20); time.sleep(3)",
}


def starts(it: Deployment) -> list[tuple[str, str]]:
    """Return which sink was started in which process, in order, as the log has it."""
    return re.findall(r"part\.started part=deliver:(\S+) host=\S+ process=(\d+)", it.log_of("worker"))


def processes(it: Deployment) -> dict[str, str]:
    """Return the process that each sink is in now."""
    return dict(starts(it))


def is_apart(it: Deployment) -> bool:
    now = processes(it)
    return len({now[sink] for sink in GOOD}) == 1 and now["bad"] != now["ops"]


@pytest.mark.long
@pytest.mark.parametrize("harm", HARM)
def test_a_sink_that_harms_others_gets_a_process_of_its_own_and_they_go_on_together(
    harm: str, deployment: Callable[..., Deployment], redis_url: str
) -> None:
    with ScriptedServer() as consumer:
        # Given four sinks that share a process
        sinks = {
            sink: {"type": "http", "url": f"{consumer.url}/{sink}", "timeout": 2, "concurrency": AT_ONCE}
            for sink in (*GOOD, "bad")
        }
        sinks["bad"]["concurrency"] = 1
        it = deployment(redis_url, sinks=sinks)
        with_tables(it.ledger)
        it.run("worker", first=f"{BAD}{HARM[harm]}\n")
        it.run("clock")
        eventually(lambda: len(processes(it)) == 4)
        assert len(set(processes(it).values())) == 1
        # When one of them does harm while the others are busy
        record(it.ledger, *(new_event(f"tsk_{number}", *GOOD) for number in range(EACH // 2)))
        eventually(lambda: len(consumer.requests) > 3)
        record(it.ledger, *(new_event(f"tsk_bad_{number}", "bad") for number in range(3)))
        record(it.ledger, *(new_event(f"tsk_{number}", *GOOD) for number in range(EACH // 2, EACH)))
        # Then theirs is delivered though it never ends, and it is alone
        for sink in GOOD:
            it.all_delivered(EACH, sink)
        eventually(lambda: "deliver:bad: has a process of its own" in it.log_of("worker"))
        eventually(lambda: is_apart(it))
        # And nothing was sent twice but what was under way when the process had to be killed
        times = Counter((request.path, request.headers["webhook-id"]) for request in consumer.requests)
        theirs = {key: count for key, count in times.items() if key[0] != "/bad"}
        assert len(theirs) == len(GOOD) * EACH
        again = Counter(path for (path, _), count in theirs.items() if count > 1)
        # A busy machine may have one more killed: a suspicion is over before it is proven, or a process ends too late.
        shared = {process for sink, process in starts(it) if sink in GOOD}
        killed = set(re.findall(r"killing process (\d+)", it.log_of("worker")))
        died = len(shared - {processes(it)["ops"]} if harm == "ends its process" else shared & killed)
        assert max(again.values(), default=0) <= died * (AT_ONCE + unrecorded_starts(AT_ONCE)), again
        assert max(theirs.values()) <= 1 + died
        # And they still share a process, which takes what comes later
        record(it.ledger, *(new_event(f"tsk_{number}", *GOOD) for number in range(EACH, EACH + 5)))
        for sink in GOOD:
            it.all_delivered(EACH + 5, sink)


def test_sinks_share_a_process_unless_they_are_to_have_their_own(
    deployment: Callable[..., Deployment], redis_url: str
) -> None:
    sinks = {name: {"type": "files", "path": f"${{RUNHOOK_DATA}}/{name}"} for name in ("a", "b", "c")}
    sinks["c"]["worker"] = "own"
    sinks["d"] = {"type": "notify", "urls": ["json://127.0.0.1:1"]}
    it = deployment(redis_url, sinks=sinks)
    with_tables(it.ledger)
    record(it.ledger, new_event("tsk_1", "a", "b", "c"))
    worker = it.run("worker")
    it.all_delivered(3)
    eventually(lambda: len(processes(it)) == 4)
    now = processes(it)
    assert now["a"] == now["b"]
    assert len(set(now.values())) == 3
    # And they end together, in order
    worker.terminate()
    assert worker.wait(60) == 0
    assert it.log_of("worker").count("part.stopped part=deliver:") == 4
