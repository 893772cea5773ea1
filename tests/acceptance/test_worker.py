"""The worker as real processes that are killed, hung, stopped and cut off: work continues, and no process is left."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
import sqlalchemy as sa

from receiver.domain.time_limits import CLAIM
from receiver.ledger.schema import attempts, deliveries, events
from tests.servers.deployment import Deployment
from tests.servers.http import Reply, ScriptedServer
from tests.servers.receiver import body
from tests.servers.valkey import ValkeyProcess
from tests.support.ledger import new_event, record, with_tables
from tests.support.processes import alive
from tests.support.waiting import PATIENCE, Stopwatch, eventually

MOMENT = 10
"""Seconds of a recovery, which takes one or two; 30 are promised."""

Deploy = Callable[..., Deployment]


def processes(it: Deployment) -> dict[str, int]:
    """Return the process that does each part now, as the log has it."""
    log = it.log_of("worker")
    return {part: int(pid) for part, pid in re.findall(r"part\.started part=(\S+) host=\S+ process=(\d+)", log)}


def ready(it: Deployment, *parts: str) -> dict[str, int]:
    """Wait until these parts have started; return their processes."""
    eventually(lambda: set(parts) <= processes(it).keys(), what=lambda: it.log_of("worker"))
    return processes(it)


def wait_for_work(it: Deployment, pid: int) -> None:
    """Wait until a main process has begun its work: only then does its end count."""
    with redis.Redis.from_url(it.redis_url) as client:
        names: Any = lambda: client.smembers("rq:workers:dispatch")  # noqa: E731
        eventually(lambda: any(b".%d." % pid in name for name in names()), what=lambda: it.log_of("worker"))


def outcomes(it: Deployment) -> list[str]:
    query = sa.select(attempts.c.outcome).order_by(attempts.c.ended_at)
    return [str(each) for each in it.ledger.read(lambda connection: connection.scalars(query).all())]


class Hooked:
    """A deployment with one HTTP sink, `hook`, and others that write files."""

    def __init__(self, deploy: Deploy, redis_url: str, consumer: ScriptedServer, **sinks: dict[str, Any]) -> None:
        hook = {"type": "http", "url": consumer.url, "timeout": 60, "concurrency": 2}
        hook["retry"] = {"attempts": 50, "first": 0.2, "factor": 1.5, "max": 2}
        self.consumer = consumer
        self.it = deploy(redis_url, sinks={"hook": hook, **sinks})
        with_tables(self.it.ledger)

    def order(self, run: str, sink: str = "hook") -> None:
        record(self.it.ledger, new_event(run, sink))

    def hold(self) -> threading.Event:
        """Have the next send wait for this event."""
        release = threading.Event()
        self.consumer.script += [Reply(until=release)]
        return release

    def sending(self, run: str = "tsk_held") -> threading.Event:
        """Begin a send that is held; return what releases it."""
        release, before = self.hold(), len(self.consumer.requests)
        self.order(run)
        eventually(lambda: len(self.consumer.requests) > before, what=lambda: self.it.log_of("worker"))
        return release


@pytest.fixture
def hooked(deployment: Deploy, redis_url: str) -> Any:
    with ScriptedServer() as consumer:
        yield lambda url=redis_url, **sinks: Hooked(deployment, url, consumer, **sinks)


FILES = {"type": "files", "path": "${RUNHOOK_DATA}/files"}

# --- Which processes there are


def test_dispatch_and_sinks_share_a_process_by_default(deployment: Deploy, redis_url: str) -> None:
    sinks: dict[str, Any] = {name: {"type": "files", "path": f"${{RUNHOOK_DATA}}/{name}"} for name in ("a", "b", "c")}
    sinks["c"]["worker"] = "own"
    sinks["d"] = {"type": "notify", "urls": ["json://127.0.0.1:1"]}
    it = deployment(redis_url, sinks=sinks)
    with_tables(it.ledger)
    record(it.ledger, new_event("tsk_1", "a", "b", "c"))
    worker = it.run("worker")
    it.all_delivered(3)
    now = ready(it, "dispatch", *(f"deliver:{sink}" for sink in sinks))
    assert now["dispatch"] == now["deliver:a"] == now["deliver:b"]
    assert len(set(now.values())) == 3
    # And they end together, in order
    worker.terminate()
    assert worker.wait(PATIENCE) == 0
    assert it.log_of("worker").count("part.stopped part=deliver:") == 4


def test_only_one_sink_runs_with_only(hooked: Callable[..., Hooked]) -> None:
    it = hooked(files=FILES)
    it.order("tsk_1")
    it.order("tsk_2", "files")
    it.it.run("worker", "--only", "files")
    it.it.all_delivered(1, "files")
    assert set(processes(it.it)) == {"deliver:files"}
    assert it.it.states("hook") == {"queued": 1}


# --- Kills and stops


def test_kill_9_of_the_process_in_a_send_costs_a_moment(hooked: Callable[..., Hooked]) -> None:
    # Given the main process in the middle of a send, and a neighbour
    it = hooked(own={**FILES, "worker": "own"})
    it.it.run("worker")
    before = ready(it.it, "dispatch", "deliver:hook", "deliver:own")
    it.sending()
    # When it is killed
    os.kill(before["dispatch"], signal.SIGKILL)
    # Then another one sends again, without help, and the neighbour did not notice
    watch = Stopwatch()
    it.it.all_delivered(1, "hook")
    print(f"{watch.seconds:.2f}", "seconds from kill -9 to delivered")
    watch.at_most(MOMENT)
    assert outcomes(it.it) == ["lapsed", "accepted"]
    assert processes(it.it)["deliver:own"] == before["deliver:own"]
    assert "main: killed by signal 9; starts again in 0.0 s" in it.it.log_of("worker")


def test_kill_9_of_the_supervisor_leaves_no_orphan(hooked: Callable[..., Hooked]) -> None:
    it = hooked(own={**FILES, "worker": "own"})
    it.it.run("worker")
    pids = set(ready(it.it, "dispatch", "deliver:hook", "deliver:own").values())
    it.sending()
    it.it.kill_part("worker")
    eventually(lambda: not any(alive(pid) for pid in pids))


@pytest.mark.long
@pytest.mark.parametrize("beside", [False, True], ids=["the next worker", "a worker beside it"])
def test_claims_of_a_killed_worker_are_released(hooked: Callable[..., Hooked], beside: bool) -> None:
    # Given a worker that has claimed two deliveries, for all the places of its sink, and two more that wait
    it = hooked()
    for run in ("tsk_1", "tsk_2"):
        it.hold()
        it.order(run)
    it.order("tsk_3")
    it.order("tsk_4")
    it.it.run("worker")
    eventually(lambda: len(it.consumer.requests) == 2, what=lambda: it.it.log_of("worker"))
    it.it.parts["killed"] = it.it.parts.pop("worker")
    if beside:
        it.it.run("worker")
        eventually(lambda: it.it.states() == {"delivered": 2, "sending": 2})

    # When it is killed, and its claims hold for longer than this test waits
    def extend_and_kill(connection: sa.Connection) -> None:
        longer = sa.update(deliveries).where(deliveries.c.state == "sending")
        connection.execute(longer.values(claim_until=deliveries.c.claim_until + 5 * PATIENCE))
        it.it.kill_part("killed")

    it.it.ledger.write(extend_and_kill)
    if not beside:
        it.it.run("worker")
    # Then another worker sends all of it
    it.it.all_delivered(4)
    assert sorted(outcomes(it.it)) == ["accepted"] * 4 + ["lapsed"] * 2


def test_sigterm_lets_a_send_end_and_exits_0(hooked: Callable[..., Hooked]) -> None:
    it = hooked()
    worker = it.it.run("worker")
    ready(it.it, "deliver:hook")
    release = it.sending()
    worker.terminate()
    eventually(lambda: "worker.stopping process=main" in it.it.log_of("worker"))
    it.order("tsk_later")
    time.sleep(0.5)
    release.set()
    assert worker.wait(PATIENCE) == 0
    assert it.it.states("hook") == {"delivered": 1, "queued": 1}
    assert outcomes(it.it) == ["accepted"]


HANGING = """
import time
from receiver import worker_process
from receiver.delivery import runner

def build(settings, config, name, *rest, really=runner.build, tries=[], **options):
    if name == "broken":
        tries.append(1)
        if len(tries) == 2 or FIRST:
            time.sleep(300)
        raise RuntimeError("no")
    return really(settings, config, name, *rest, **options)

runner.build = build
worker_process.TRY_AGAIN = 1.0
FIRST = """


def test_send_longer_than_a_claim_is_sent_once(hooked: Callable[..., Hooked]) -> None:
    # Given a neighbour whose constructor hangs, the second time
    it = hooked(broken=FILES)
    it.it.run("worker", first=f"{HANGING}False")
    it.it.run("clock")
    it.consumer.script += [Reply(delay=CLAIM + 5)]
    it.order("tsk_1")
    it.it.all_delivered(1)
    # And what comes without a wake-up is found
    it.order("tsk_2")
    it.it.all_delivered(2)
    assert outcomes(it.it) == ["accepted", "accepted"]
    assert len(it.consumer.requests) == 2


LOOKS_FAIL = """
from receiver.ledger.deliveries import claims

def due_sinks(*_):
    raise TypeError("a bug")

claims.due_sinks = due_sinks
"""


def test_claims_are_renewed_though_looks_for_due_ones_fail(hooked: Callable[..., Hooked]) -> None:
    it = hooked()
    release = it.hold()
    it.order("tsk_1")
    it.it.run("worker", first=LOOKS_FAIL)
    eventually(lambda: it.consumer.requests)

    def claimed_until() -> float:
        query = sa.select(deliveries.c.claim_until)
        return it.it.ledger.read(lambda connection: connection.scalars(query).one()) or 0.0

    first = claimed_until()
    eventually(lambda: claimed_until() > first + 3)
    release.set()
    it.it.all_delivered(1)


def test_constructor_that_hangs_at_the_start_delays_nothing(hooked: Callable[..., Hooked]) -> None:
    it = hooked(broken=FILES)
    it.it.run("worker", first=f"{HANGING}True")
    it.it.start()
    # When a webhook comes, then it is recorded, and other sinks send
    it.it.acked(body(0))
    it.order("tsk_1")
    it.it.all_delivered(1, "hook")
    query = sa.select(sa.func.count()).select_from(events)
    eventually(lambda: it.it.ledger.read(lambda connection: connection.scalar(query)) == 2)
    eventually(lambda: "no deliver:broken is running" in it.it.call("status").stdout)


FAILING = """
from functools import partial
from receiver.delivery import runner

class Settlement(runner.Settlement):
    def settle(self, ledger, tasks, unstarted=()):
        if tasks and self._sink == "hook" and tasks[0].claimed[0].attempt_number == 1:
            raise TypeError("a bug")
        return super().settle(ledger, tasks, unstarted)

runner.Settlement = Settlement
runner.SinkRunner = partial(runner.SinkRunner, fails_for=18.0)
"""


def test_process_is_replaced_after_errors_of_a_sink_last(hooked: Callable[..., Hooked]) -> None:
    # Given a settlement that fails whenever it is tried in this process
    it = hooked(files=FILES)
    it.it.run("worker", first=FAILING)
    first = ready(it.it, "dispatch", "deliver:hook", "deliver:files")
    it.order("tsk_1")
    # Then the status shows that, and other sinks go on
    it.order("tsk_2", "files")
    it.it.all_delivered(1, "files")
    eventually(lambda: "task_failing" in it.it.call("status", "--json").stdout, every=1.0)
    assert "sink hook: TypeError at" in it.it.call("status").stdout
    # And a fresh process takes its work over
    it.it.all_delivered(1, "hook")
    assert processes(it.it)["dispatch"] != first["dispatch"]
    log = it.it.log_of("worker")
    assert log.count("deliver.paused") == 1
    assert "main: the sink hook could not be served for 18 s: TypeError at" in log
    assert outcomes(it.it) == ["accepted", "lapsed", "accepted"]


def test_sigterm_during_the_start_lets_a_send_end(hooked: Callable[..., Hooked]) -> None:
    # Given a process in which one sink sends while the next one is not built yet
    it = hooked(broken=FILES)
    it.order("tsk_1")
    release = it.hold()
    worker = it.it.run("worker", first=f"{HANGING}True".replace("300", "3"))
    eventually(lambda: it.consumer.requests, what=lambda: it.it.log_of("worker"))
    worker.terminate()
    time.sleep(0.5)
    release.set()
    assert worker.wait(PATIENCE) == 0, it.it.log_of("worker")
    assert outcomes(it.it) == ["accepted"]


def test_send_that_does_not_end_is_killed_at_the_stop_and_freed(hooked: Callable[..., Hooked]) -> None:
    it = hooked()
    worker = it.it.run("worker", "--stop-timeout", "1")
    pid = ready(it.it, "deliver:hook")["deliver:hook"]
    it.sending()
    worker.terminate()
    assert worker.wait(PATIENCE) == 1
    assert not alive(pid)
    assert "did not end within 1 s" in it.it.log_of("worker")
    it.it.run("worker")
    it.it.all_delivered(1)  # by no clock: before the claim lapses


def test_second_signal_a_second_later_does_not_wait(hooked: Callable[..., Hooked]) -> None:
    it = hooked()
    worker = it.it.run("worker", "--stop-timeout", "600")
    ready(it.it, "deliver:hook")
    it.sending()
    worker.terminate()
    worker.terminate()  # as a terminal and a process manager may do at once
    time.sleep(1.1)
    assert worker.poll() is None
    # (again where a busy machine has heard of the first one late)
    eventually(lambda: worker.terminate() or worker.poll() is not None, every=1.1)
    assert worker.wait(PATIENCE) == 1  # 0 after the send's end
    assert "main: a second signal came; killing process" in it.it.log_of("worker")


# --- Processes that hang or end by themselves


def test_hanging_process_is_killed_and_its_work_repeated(hooked: Callable[..., Hooked]) -> None:
    it = hooked()
    it.it.run("worker")
    pid = ready(it.it, "deliver:hook")["deliver:hook"]
    it.sending()
    os.kill(pid, signal.SIGSTOP)
    watch = Stopwatch()
    it.it.all_delivered(1)
    print(f"{watch.seconds:.2f}", "seconds from the stop of a process to its work done by another")
    watch.at_most(30)
    assert "main: gave no sign of life for 15 s and was killed" in it.it.log_of("worker")


def test_three_unexplained_ends_give_each_sink_its_own_process(hooked: Callable[..., Hooked]) -> None:
    it = hooked(files=FILES, other=FILES)
    it.it.run("worker", "--only", "dispatch", "--only", "hook", "--only", "files")
    for _ in range(3):
        now = ready(it.it, "dispatch", "deliver:hook", "deliver:files")
        eventually(lambda: "main" not in it.it.log_of("worker") or alive(processes(it.it)["dispatch"]))
        eventually(lambda: len({alive(pid) for pid in processes(it.it).values()}) == 1)
        eventually(lambda pid=now["dispatch"]: processes(it.it)["dispatch"] == pid)
        wait_for_work(it.it, now["dispatch"])
        os.kill(now["dispatch"], signal.SIGKILL)
        eventually(lambda pid=now["dispatch"]: processes(it.it)["dispatch"] != pid, what=lambda: it.it.log_of("worker"))
    eventually(lambda: len({processes(it.it)[part] for part in ("dispatch", "deliver:hook", "deliver:files")}) == 3)
    assert "worker.split" in it.it.log_of("worker")
    it.order("tsk_1")
    it.order("tsk_2", "files")
    it.it.all_delivered(2)
    # And the status shows it
    eventually(lambda: "worker_split" in str(it.it.call("status", "--json").stdout))
    # And it shows what the worker is still limited to
    limited = "(`--only dispatch --only hook --only files`) is limited"
    eventually(lambda: limited in it.it.call("status").stdout)


def test_sigterm_to_a_child_never_splits_the_worker(hooked: Callable[..., Hooked]) -> None:
    it = hooked(files=FILES)
    it.it.run("worker")
    for _ in range(3):
        pid = ready(it.it, "dispatch")["dispatch"]
        wait_for_work(it.it, pid)
        os.kill(pid, signal.SIGTERM)
        eventually(lambda pid=pid: processes(it.it)["dispatch"] != pid, what=lambda: it.it.log_of("worker"))
    it.order("tsk_1")
    it.order("tsk_2", "files")
    it.it.all_delivered(2)
    now = processes(it.it)
    assert now["dispatch"] == now["deliver:hook"] == now["deliver:files"]
    assert "worker.split" not in it.it.log_of("worker")


BROKEN = """
from receiver.delivery import runner

def build(settings, config, name, *rest, really=runner.build, **options):
    if name == "broken":
        raise RuntimeError("no")
    return really(settings, config, name, *rest, **options)

runner.build = build
"""


@pytest.mark.parametrize("place", ["own", "shared"])
def test_sink_that_cannot_start_delays_no_other(place: str, hooked: Callable[..., Hooked]) -> None:
    it = hooked(broken={**FILES, "worker": place})
    it.it.run("worker", first=BROKEN)
    it.order("tsk_1")
    it.it.all_delivered(1, "hook")
    eventually(lambda: "RuntimeError at" in it.it.log_of("worker"))
    time.sleep(1.5)
    lines = [line for line in it.it.log_of("worker").splitlines() if "RuntimeError at" in line]
    assert len(lines) == 1, lines
    eventually(lambda: "no deliver:broken is running" in it.it.call("status").stdout)


# --- Redis fails


@pytest.mark.parametrize("fault", ["killed", "hung"])
def test_work_continues_during_and_after_a_redis_outage(
    fault: str, hooked: Callable[..., Hooked], valkey_factory: Callable[..., ValkeyProcess]
) -> None:
    # Given a worker in the middle of a send, and a delivery that waits for its second try
    server = valkey_factory()
    it = hooked(server.url)
    it.it.run("worker")
    it.it.run("clock")
    before = ready(it.it, "dispatch", "deliver:hook")
    it.it.start()
    release = it.sending()
    it.consumer.script += [Reply(503, {"retry-after": "2"})]
    it.order("tsk_waiting")
    eventually(lambda: it.it.states("hook").get("waiting") == 1)
    # When Redis is down, or hangs, and more comes due
    server.kill() if fault == "killed" else server.hang()
    for number in range(5):
        it.order(f"tsk_meanwhile_{number}")
    # Then all of it is sent: the ledger is enough for that
    eventually(lambda: it.it.states("hook").get("delivered") == 6, what=lambda: it.it.log_of("worker"))
    eventually(lambda: it.it.log_of("worker").count("main: Redis can't be used now") == 1)
    # And the same processes do old and new work within seconds of its return
    server.start() if fault == "killed" else server.resume()
    release.set()
    watch = Stopwatch()
    it.order("tsk_after")
    eventually(lambda: it.it.states("hook") == {"delivered": 8}, what=lambda: it.it.log_of("worker"))
    print(f"{watch.seconds:.2f}", f"seconds from the return of a Redis that was {fault} to work done")
    watch.at_most(MOMENT)
    eventually(lambda: it.it.log_of("worker").count("Redis is back") == 1)
    assert len(it.consumer.requests) == 9
    assert processes(it.it) == before
    assert all(alive(pid) for pid in before.values())


def test_missing_redis_is_waited_for_and_reported_in_one_line(hooked: Callable[..., Hooked]) -> None:
    it = hooked("redis://127.0.0.1:1/0").it
    worker = it.run("worker", "--patience", "2")
    assert worker.wait(PATIENCE) == 3
    *_, waiting, given_up = it.log_of("worker").splitlines()
    assert "WARNING runhook.worker msg=\"Redis can't be used (redis://127.0.0.1:1/0)" in waiting
    assert given_up.startswith("runhook: Redis can't be used (redis://127.0.0.1:1/0): ")
    assert given_up.endswith("; start it, or fix REDIS_URL")


def test_worker_waits_at_its_start_for_redis(
    hooked: Callable[..., Hooked], valkey_factory: Callable[..., ValkeyProcess]
) -> None:
    server = valkey_factory()
    server.kill()
    it = hooked(server.url)
    it.it.run("worker")
    eventually(lambda: "waiting for it" in it.it.log_of("worker"))
    server.start()
    it.order("tsk_1")
    it.it.all_delivered(1)


def test_signal_while_idle_ends_every_process_by_itself(hooked: Callable[..., Hooked]) -> None:
    it = hooked(own={**FILES, "worker": "own"})
    worker = it.it.run("worker")
    ready(it.it, "dispatch", "deliver:own")
    eventually(lambda: "worker.started" in it.it.log_of("worker"))
    watch = Stopwatch()
    worker.send_signal(signal.SIGINT)
    assert worker.wait(PATIENCE) == 0  # 1 where a process had to be killed
    watch.at_most(MOMENT)


def test_limited_worker_logs_which_sinks_it_leaves_out(deployment: Deploy, redis_url: str, tmp_path: Path) -> None:
    files = {name: {"type": "files", "path": str(tmp_path / name)} for name in ("one", "two")}
    it = deployment(redis_url, sinks=files, spool={"reserve_bytes": 0})
    it.start()
    it.run("worker", "--only", "dispatch", "--only", "one")
    ready(it, "dispatch", "deliver:one")
    assert "worker.limited not_served=two" in it.log_of("worker")
    limits = "is limited: start another, or restart it without `--only`"

    def advice() -> str:
        return it.call("status").stdout

    eventually(lambda: "no deliver:two is running" in advice())
    assert f"(`--only dispatch --only one`) {limits}" in advice()


ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


def test_template_over_the_timeout_fails_and_delays_no_other(deployment: Deploy, redis_url: str) -> None:
    # Given a template that takes minutes for one run
    template = "{% if run.run_id == 'tsk_slow' %}" + ENDLESS + "{% endif %}{}"
    with ScriptedServer() as consumer:
        slow = {"type": "http", "url": consumer.url, "timeout": 1, "template": template, "retry": {"attempts": 1}}
        it = deployment(redis_url, sinks={"slow": slow, "files": FILES})
        with_tables(it.ledger)
        for run in ("tsk_slow", "tsk_1", "tsk_2"):
            record(it.ledger, new_event(run, "slow", "files"))
        it.run("worker")
        # Then its delivery fails with the reason, and the others are delivered
        eventually(lambda: it.states("slow") == {"dead": 1, "delivered": 2}, what=lambda: it.log_of("worker"))
        it.all_delivered(3, "files")
    query = sa.select(deliveries.c.reason).where(deliveries.c.state == "dead")
    assert it.ledger.read(lambda connection: connection.scalar(query)) == "the send did not end within 1 s"
