"""Wake-ups against a real Valkey: no wake-up is lost, and nothing but a wake-up runs."""

from __future__ import annotations

import asyncio
import json
import pickle
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from rq import Queue, Worker
from rq.command import send_kill_horse_command, send_shutdown_command
from rq.job import Callback, Job
from rq.webhook import Webhook

from receiver import wakeups
from receiver.runtime import redis_client
from receiver.wakeups import JobTimeout, Stop, flag_key
from receiver.wakeups.rq_worker import RunhookWorker
from tests.servers.valkey import ValkeyProcess
from tests.support.waiting import PATIENCE, Stopwatch, eventually

QUEUE = "deliver:ops"
LANE = f"rq:queue:{QUEUE}:intermediate"


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis_client.connect(redis_url, timeout=5.0, connect_timeout=2.0, retries=0) as it:
        yield it


def serve(
    url: str, body: Callable[[Stop], None], *, name: str = "w", seconds: float = PATIENCE, **options: Any
) -> None:
    """Run a worker until its body asks it to stop; fail when it does not within `seconds`."""
    stop = Stop(wakeups.TURN)
    late = threading.Event()

    def give_up() -> None:
        late.set()
        stop.ask()

    timer = threading.Timer(seconds, give_up)
    timer.start()
    try:
        wakeups.run_worker(QUEUE, body, url, name, stop=stop, **options)
    finally:
        timer.cancel()
    assert not late.is_set(), f"the worker did not come to an end within {seconds} s"


def once(stop: Stop) -> None:
    stop.ask()


def queued(client: redis.Redis) -> int:
    return int(client.llen(f"rq:queue:{QUEUE}"))


def leftovers(client: redis.Redis) -> set[str]:
    """Keys that are not a worker's last record or a mere name."""
    keys = {key.decode() for key in client.scan_iter()}
    return {key for key in keys if not key.startswith("rq:worker:") and key != "rq:queues"}


# --- waking


def test_only_the_first_of_many_wake_ups_is_enqueued(client: redis.Redis) -> None:
    assert [wakeups.wake(client, QUEUE) for _ in range(3)] == [True, False, False]
    assert queued(client) == 1
    assert 0 < client.ttl(flag_key(QUEUE)) <= wakeups.FLAG_TTL


def test_a_lowered_flag_lets_the_next_wake_up_through(client: redis.Redis) -> None:
    wakeups.wake(client, QUEUE)
    serve(client_url(client), lambda stop: (wakeups.lower_flag(client, QUEUE), stop.ask())[0])
    assert wakeups.wake(client, QUEUE)


def test_a_flag_that_lapsed_while_its_wake_up_waits_does_not_add_a_second(client: redis.Redis) -> None:
    wakeups.wake(client, QUEUE)
    client.delete(flag_key(QUEUE))
    assert not wakeups.wake(client, QUEUE)
    assert queued(client) == 1


def test_several_queues_are_woken_in_one_go(client: redis.Redis) -> None:
    wakeups.wake(client, "deliver:a")
    assert wakeups.wake_sinks(client, ["a", "b", "c"]) == 2
    assert wakeups.wake_sinks(client, []) == 0


def test_a_caller_that_raised_the_flag_itself_gets_its_wake_up(client: redis.Redis) -> None:
    client.set(flag_key(QUEUE), 1, nx=True, ex=10)
    assert wakeups.wake(client, QUEUE, force=True)
    assert queued(client) == 1


async def test_a_wake_up_travels_in_a_transaction_of_an_async_client(redis_url: str, client: redis.Redis) -> None:
    async with redis.asyncio.Redis.from_url(redis_url) as ingest, ingest.pipeline(transaction=True) as pipeline:
        pipeline.xadd("stream", {"a": "b"})
        wakeups.wake_dispatcher(pipeline)
        assert (await pipeline.execute())[1] == 1
    assert client.llen("rq:queue:dispatch") == 1


def test_settle_wakes_again_when_work_came_before_the_flag_went_down(client: redis.Redis) -> None:
    client.set(flag_key(QUEUE), 1)
    assert wakeups.settle(client, QUEUE, lambda: True)
    assert queued(client) == 1


def test_settle_leaves_the_flag_down_when_there_is_nothing(client: redis.Redis) -> None:
    client.set(flag_key(QUEUE), 1)
    assert not wakeups.settle(client, QUEUE, lambda: False)
    assert client.exists(flag_key(QUEUE)) == 0


@pytest.mark.parametrize("moment", ["before the flag goes down", "after the last look"])
def test_work_that_comes_while_a_job_ends_is_done(redis_url: str, client: redis.Redis, moment: str) -> None:
    # Given one piece of work more, written and woken for at the worst moment of the first job's end
    taken: list[int] = []

    def one_more() -> None:
        client.incr("work")
        wakeups.wake(client, QUEUE)

    def look() -> bool:
        found = int(client.get("work") or 0) > 0
        if moment == "after the last look" and len(taken) == 1:
            one_more()
        return found

    def body(stop: Stop) -> None:
        taken.append(int(client.getset("work", 0) or 0))
        if moment == "before the flag goes down" and len(taken) == 1:
            one_more()
        wakeups.settle(client, QUEUE, look)
        if len(taken) == 2:
            stop.ask()

    one_more()
    serve(redis_url, body)
    assert taken == [1, 1]


def test_no_wake_up_is_lost_between_a_busy_producer_and_a_worker(redis_url: str, client: redis.Redis) -> None:
    # Given work that is counted in Redis, and a producer that wakes after each piece, at every moment of the protocol
    pieces, taken = 250, 0
    pauses = [0.0, 0.0005, 0.001, 0.002, 0.004]

    def produce() -> None:
        with redis_client.connect(redis_url, timeout=5.0, connect_timeout=2.0, retries=0) as mine:
            for number in range(pieces):
                mine.incr("work")
                wakeups.wake(mine, QUEUE)
                time.sleep(pauses[number % len(pauses)])

    def body(stop: Stop) -> None:
        nonlocal taken
        taken += int(client.getset("work", 0) or 0)
        wakeups.settle(client, QUEUE, lambda: int(client.get("work") or 0) > 0)
        if taken == pieces:
            stop.ask()

    producer = threading.Thread(target=produce)
    producer.start()
    # When nobody sweeps and no clock runs, then the worker still sees every piece
    serve(redis_url, body)
    producer.join()
    assert taken == pieces


# --- nudges


def test_waking_a_queue_whose_job_lingers_nudges_it(client: redis.Redis) -> None:
    wakeups.wake(client, QUEUE)
    assert not wakeups.wait_nudge(client, QUEUE, 0.05)
    wakeups.wake(client, QUEUE)
    wakeups.wake(client, QUEUE)
    assert wakeups.wait_nudge(client, QUEUE, 1)
    assert not wakeups.wait_nudge(client, QUEUE, 0.05)


def test_a_nudge_ends_the_wait_at_once(redis_url: str, client: redis.Redis) -> None:
    watch = Stopwatch()
    client.set(flag_key(QUEUE), 1)
    with redis_client.connect(redis_url, timeout=5.0, connect_timeout=2.0, retries=0) as other:
        timer = threading.Timer(0.1, lambda: wakeups.wake(other, QUEUE))
        timer.start()
        assert wakeups.wait_nudge(client, QUEUE, 4)
        timer.join()
    watch.at_most(3)


# --- serving


def client_url(client: redis.Redis) -> str:
    options = client.connection_pool.connection_kwargs
    return f"redis://{options['host']}:{options['port']}/{options['db']}"


def test_a_job_leaves_no_trace(redis_url: str, client: redis.Redis) -> None:
    def body(stop: Stop) -> None:
        assert client.zcard(f"rq:wip:{QUEUE}") == 1
        assert client.llen(LANE) == 0
        wakeups.settle(client, QUEUE, lambda: False)
        stop.ask()

    wakeups.wake(client, QUEUE)
    serve(redis_url, body)
    assert leftovers(client) == set()


def test_a_body_that_fails_costs_one_line_and_the_next_job_runs(
    redis_url: str, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    runs = []

    def body(stop: Stop) -> None:
        runs.append(1)
        if len(runs) == 2:
            stop.ask()
            return
        threading.Timer(0.1, lambda: wakeups.wake(client, QUEUE)).start()
        raise ValueError("the payload of a run, which nobody may read in a log")

    wakeups.wake(client, QUEUE)
    serve(redis_url, body)
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert "ValueError at test_rq_worker.py:" in line
    assert "payload" not in caplog.text
    assert client.zcard(f"rq:failed:{QUEUE}") == 0


def test_a_body_that_misses_redis_is_told_as_such_and_its_job_leaves_no_trace(
    redis_url: str, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    runs = []

    def body(stop: Stop) -> None:
        runs.append(1)
        if len(runs) == 1:
            raise redis.TimeoutError("Timeout reading from a Redis that hangs")
        stop.ask()

    wakeups.wake(client, QUEUE)
    serve(redis_url, body)
    assert [record.getMessage() for record in caplog.records] == [
        f"{QUEUE}: Redis can't be used now (TimeoutError); trying again",
        f"{QUEUE}: Redis is back",
    ]
    assert client.zcard(f"rq:wip:{QUEUE}") == 0


def test_a_job_that_outlives_its_timeout_is_cut_off_even_through_except_exception(
    redis_url: str, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    cut = []

    def body(stop: Stop) -> None:
        stop.ask()
        try:
            time.sleep(10)
        except Exception:
            pytest.fail("a time-out must not pass for a failure")
        except JobTimeout:
            cut.append(1)
            raise

    wakeups.wake(client, QUEUE)
    serve(redis_url, body, timeout=0.2)
    assert cut == [1]
    assert "cut off" in caplog.text
    assert client.exists(flag_key(QUEUE)) == 0


def test_the_supervisor_hears_when_a_job_must_have_ended(redis_url: str, client: redis.Redis) -> None:
    heard: list[float] = []
    wakeups.wake(client, QUEUE)
    before = time.monotonic()
    serve(redis_url, once, timeout=30, on_job=heard.append)
    assert before + 30 <= heard[0] <= time.monotonic() + 30
    assert heard[1:] == [0.0]


def test_a_stop_is_heeded_between_two_jobs_and_the_next_job_stays_queued(redis_url: str, client: redis.Redis) -> None:
    ended = []

    def body(stop: Stop) -> None:
        stop.ask()
        wakeups.wake(client, QUEUE, force=True)
        ended.append(1)

    wakeups.wake(client, QUEUE)
    serve(redis_url, body)
    assert ended == [1]
    assert queued(client) == 1
    assert client.llen(LANE) == 0


def test_nobody_can_command_a_worker_by_pub_sub(redis_url: str, client: redis.Redis) -> None:
    listeners = []

    def body(stop: Stop) -> None:
        send_shutdown_command(client, "w.1")
        send_kill_horse_command(client, "w.1")
        listeners.append(client.pubsub_numsub("rq:pubsub:w.1"))
        stop.ask()

    wakeups.wake(client, QUEUE)
    serve(redis_url, body)
    assert listeners == [[(b"rq:pubsub:w.1", 0)]]


def test_rq_sees_the_worker_and_its_queue(redis_url: str, client: redis.Redis) -> None:
    seen: list[Any] = []

    def body(stop: Stop) -> None:
        for worker in Worker.all(connection=client):
            seen.append((worker.name, worker.queue_names(), worker.get_state()))
        stop.ask()

    wakeups.wake(client, QUEUE)
    serve(redis_url, body)
    assert seen == [("w.1", [QUEUE], "busy")]


# --- strangers


def push(client: redis.Redis, data: bytes | None, job_id: str = "forged", **fields: Any) -> None:
    """A job as someone with write access to Redis would place it."""
    if data is not None:
        client.hset(Job.key_for(job_id), mapping={"data": data, "origin": QUEUE, "status": "queued", **fields})
    client.rpush(f"rq:queue:{QUEUE}", job_id)


def forge_os_system(client: redis.Redis, mark: Path) -> None:
    push(client, zlib.compress(json.dumps(["os.system", None, [f"touch {mark}"], {}]).encode()))


class Touch:
    """Pickled, it runs code when it is read."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path(self.path).touch, ())


def forge_pickle(client: redis.Redis, mark: Path) -> None:
    push(client, zlib.compress(pickle.dumps(Touch(str(mark)))), meta=pickle.dumps(Touch(str(mark))))


def touch(_job: Job, connection: redis.Redis, *_: Any) -> None:
    Path(str(connection.get("mark"), "utf-8")).touch()


def forge_callbacks(client: redis.Redis, mark: Path) -> None:
    client.set("mark", str(mark))
    queue = Queue(QUEUE, connection=client, serializer="json")
    for function in ("receiver.wakeups.work", "no.such.function"):
        queue.enqueue(
            function,
            on_success=Callback("tests.integration.wakeups.test_rq_worker.touch"),
            on_failure=Callback("tests.integration.wakeups.test_rq_worker.touch"),
            on_stopped=Callback("tests.integration.wakeups.test_rq_worker.touch"),
        )


def forge_dependents(client: redis.Redis, mark: Path) -> None:
    queue = Queue(QUEUE, connection=client, serializer="json")
    first = queue.enqueue("receiver.wakeups.work", result_ttl=0)
    queue.enqueue("os.system", f"touch {mark}", depends_on=first)


def forge_instance(client: redis.Redis, mark: Path) -> None:
    push(client, zlib.compress(json.dumps(["system", "os", [f"touch {mark}"], {}]).encode()))


def forge_broken(client: redis.Redis, mark: Path) -> None:
    push(client, b"\xff\xfe no data at all", timeout="soon", created_at="never", dependency_ids="[", ttl="x")
    push(client, b"", "empty")
    push(client, None, "missing")
    push(client, None, "not a valid id \n")
    client.rpush(f"rq:queue:{QUEUE}", b"\xff\xfe")
    client.set(Job.key_for("string"), "not a hash")
    push(client, None, "string")
    push(client, zlib.compress(b"[" * 1_000_000), "bomb")


@pytest.mark.parametrize(
    "forge",
    [forge_os_system, forge_pickle, forge_callbacks, forge_dependents, forge_instance, forge_broken],
    ids=lambda forge: forge.__name__,
)
def test_a_forged_job_runs_no_code_and_the_worker_goes_on(
    redis_url: str, client: redis.Redis, tmp_path: Path, forge: Callable[[redis.Redis, Path], None]
) -> None:
    # Given jobs of a stranger in front of a wake-up of ours
    mark = tmp_path / "mark"
    forge(client, mark)
    client.rename(f"rq:queue:{QUEUE}", "strangers")
    wakeups.wake(client, QUEUE)
    client.lmove(f"rq:queue:{QUEUE}", "ours", "LEFT", "RIGHT")
    client.rename("strangers", f"rq:queue:{QUEUE}")
    client.lmove("ours", f"rq:queue:{QUEUE}", "LEFT", "RIGHT")
    # When the worker takes them all
    serve(redis_url, lambda stop: stop.ask() if queued(client) == 0 else None)
    # Then ours ran, no foreign code did, and theirs are gone
    assert not mark.exists()
    assert client.llen(LANE) == 0
    assert client.zcard(f"rq:failed:{QUEUE}") == 0


def test_a_webhook_in_a_record_is_never_called(redis_url: str, client: redis.Redis) -> None:
    calls = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        calls.append(await reader.readline())
        writer.close()

    async def go() -> None:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            Queue(QUEUE, connection=client, serializer="json").enqueue(
                "receiver.wakeups.work", webhooks=[Webhook(f"http://127.0.0.1:{port}/", "finished", timeout=1)]
            )
            ran: list[int] = []

            def body(stop: Stop) -> None:
                ran.append(1)
                stop.ask()

            serve(redis_url, body)
            await asyncio.sleep(0.05)
            assert ran == [1]

    asyncio.run(go())
    assert calls == []


# --- repair


def die_in_the_middle(url: str, name: str) -> None:
    """Leave behind what a worker that is killed in the middle of a job leaves."""

    class Killed(BaseException):
        pass

    def body(_stop: Stop) -> None:
        raise Killed

    client = redis_client.connect(url, timeout=5.0, connect_timeout=2.0, retries=0)
    worker = RunhookWorker(QUEUE, client, f"{name}.1", body=lambda: body(Stop()))
    worker.register_birth()
    worker.register_death = lambda: None  # type: ignore[method-assign]
    with pytest.raises(Killed):
        worker.serve(Stop())
    client.close()


def test_what_a_dead_child_held_is_cleared_and_woken_again_at_once(redis_url: str, client: redis.Redis) -> None:
    wakeups.wake(client, QUEUE)
    die_in_the_middle(redis_url, "dead")
    assert client.zcard(f"rq:wip:{QUEUE}") == 1
    assert wakeups.clear_dead(client, QUEUE, "dead") == 1
    assert client.zcard(f"rq:wip:{QUEUE}") == 0
    assert client.keys("rq:worker:dead*") == []
    assert queued(client) == 1


def test_clearing_one_dead_child_leaves_a_living_one_alone(redis_url: str, client: redis.Redis) -> None:
    wakeups.wake(client, QUEUE)
    die_in_the_middle(redis_url, "living")
    assert wakeups.clear_dead(client, QUEUE, "liv") == 0
    assert client.zcard(f"rq:wip:{QUEUE}") == 1


def test_a_sweep_that_finds_nothing_repairs_nothing(client: redis.Redis) -> None:
    assert not wakeups.sweep(client, [QUEUE, "dispatch"])
    assert not wakeups.sweep(client, [])
    assert client.keys() == []


def test_a_sweep_leaves_a_running_job_alone(redis_url: str, client: redis.Redis) -> None:
    swept = []

    def body(stop: Stop) -> None:
        swept.append(wakeups.sweep(client, [QUEUE]))
        stop.ask()

    wakeups.wake(client, QUEUE)
    serve(redis_url, body)
    assert swept == [wakeups.Swept()]


def test_a_sweep_wakes_again_what_a_dead_worker_had_begun(redis_url: str, client: redis.Redis) -> None:
    wakeups.wake(client, QUEUE)
    die_in_the_middle(redis_url, "dead")
    assert not wakeups.sweep(client, [QUEUE])  # it may be alive
    client.delete("rq:worker:dead.1")  # its record lapses
    assert wakeups.sweep(client, [QUEUE]) == wakeups.Swept(started=1, workers=1)
    assert queued(client) == 1
    assert not wakeups.sweep(client, [QUEUE])


def test_a_sweep_wakes_again_what_was_lost_between_two_lists(client: redis.Redis) -> None:
    wakeups.wake(client, QUEUE)
    client.lmove(f"rq:queue:{QUEUE}", LANE)  # and the worker is killed here
    assert eventually(lambda: wakeups.sweep(client, [QUEUE]), every=0.2) == wakeups.Swept(intermediate=1)
    assert (queued(client), client.llen(LANE)) == (1, 0)
    assert client.keys(f"{LANE}*") == []


def test_a_sweep_clears_the_failed_list_that_stock_rq_may_have_filled(client: redis.Redis) -> None:
    job = Queue(QUEUE, connection=client, serializer="json").enqueue("receiver.wakeups.work")
    client.delete(f"rq:queue:{QUEUE}")
    job.failed_job_registry.add(job, ttl=60, exc_string="killed")
    assert wakeups.sweep(client, [QUEUE]) == wakeups.Swept(failed=1)
    assert client.exists(Job.key_for(job.id)) == 0
    assert queued(client) == 1


def test_no_record_of_a_job_stays_for_ever(client: redis.Redis) -> None:
    wakeups.wake(client, QUEUE)
    (key,) = client.keys("rq:job:*")
    assert 0 < client.ttl(key) <= 3600


# --- Redis away


def test_a_worker_goes_on_after_redis_was_killed_and_is_back(valkey_factory: Callable[..., ValkeyProcess]) -> None:
    # Given a worker in the middle of a job when its Redis is killed
    server = valkey_factory()
    client = server.connect()
    ran: list[int] = []

    def come_back() -> None:
        time.sleep(1)
        server.start()
        with redis_client.connect(server.url, timeout=5.0, connect_timeout=2.0, retries=0) as mine:
            wakeups.sweep(mine, [QUEUE])
            wakeups.wake(mine, QUEUE)

    restart = threading.Thread(target=come_back)

    def body(stop: Stop) -> None:
        ran.append(1)
        if len(ran) == 1:
            server.kill()
            restart.start()
        else:
            stop.ask()

    wakeups.wake(client, QUEUE)
    watch = Stopwatch()
    serve(server.url, body)
    restart.join()
    # Then the same process runs the next job soon after its return
    assert len(ran) == 2
    watch.at_most(15)  # stock RQ waits for up to 50 s


def test_a_worker_waits_out_a_redis_that_refuses_writes(
    valkey_factory: Callable[..., ValkeyProcess], caplog: pytest.LogCaptureFixture
) -> None:
    server = valkey_factory()
    client = server.connect()
    client.config_set("maxmemory", "1kb")
    relief = threading.Timer(1, lambda: client.config_set("maxmemory", "0"))
    relief.start()
    serve(server.url, once)
    relief.join()
    assert caplog.text.count("Redis can't be used now (OutOfMemoryError)") == 1
    assert "Redis is back" in caplog.text
