"""The worker against a real Valkey: a job leaves no trace, and nothing but a wake-up runs."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import signal
import threading
import time
import zlib
from collections.abc import Callable
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
from receiver.wakeups import cleanup, flag_key
from receiver.wakeups.rq_worker import JobTimeout, Stop, run_worker
from tests.servers.valkey import ValkeyProcess
from tests.support.waiting import Stopwatch, eventually
from tests.support.wakeups import LANE, QUEUE, FunctionBody, once, queued, serve


def leftovers(client: redis.Redis) -> set[str]:
    """Keys that are not a worker's last record or a mere name."""
    keys = {key.decode() for key in client.scan_iter()}
    return {key for key in keys if not key.startswith("rq:worker:") and key != "rq:queues"}


# --- Serving


def test_a_job_leaves_no_trace(redis_url: str, client: redis.Redis) -> None:
    def body(stop: Stop) -> None:
        assert client.zcard(f"rq:wip:{QUEUE}") == 1
        assert client.llen(LANE) == 0
        wakeups.finish(client, QUEUE, lambda: False)
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


def test_a_body_that_misses_redis_is_logged_as_such_and_its_job_leaves_no_trace(
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
            time.sleep(60)
        except Exception:
            pytest.fail("a time-out must not pass for a failure")
        except JobTimeout:
            cut.append(1)
            raise

    wakeups.wake(client, QUEUE)
    serve(redis_url, body, timeout=1)
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


# --- Strangers


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
            cleanup.sweep(mine, [QUEUE])
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


def test_a_worker_that_waits_for_a_job_stops_at_once(
    redis_url: str, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.wakeups.rq_worker._POLL", 3600.0)
    monkeypatch.setattr("receiver.wakeups.rq_worker._HEARTBEAT", 3600.0)
    stop = Stop(wakeups.TIME_SLICE)
    body = FunctionBody(lambda _: None, wakeups.JOB_TIMEOUT)
    before = signal.signal(signal.SIGTERM, lambda *_: stop.ask())

    def terminate() -> None:
        eventually(lambda: any(each["cmd"] == "blmove" for each in client.client_list()))
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=terminate)
    thread.start()
    try:
        run_worker(QUEUE, body, redis_url, "w", stop=stop)
    finally:
        thread.join()
        signal.signal(signal.SIGTERM, before)

    assert stop.asked
    assert client.smembers(f"rq:workers:{QUEUE}") == set()
