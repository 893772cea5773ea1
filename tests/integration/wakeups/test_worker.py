"""RQ's loop against a real Valkey: a job leaves no trace, nothing but a wake-up runs, and Redis may fail."""

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
from rq.suspension import suspend
from rq.webhook import Webhook

from receiver import wakeups
from receiver.wakeups import flag_key, worker
from tests.servers.valkey import ValkeyProcess
from tests.support.inbox import QUEUE, Stop, queued, serve_queue
from tests.support.waiting import Stopwatch, eventually

LANE = f"rq:queue:{QUEUE}:intermediate"


def leftovers(client: redis.Redis) -> set[str]:
    """Keys that are not a worker's last record or a mere name."""
    keys = {key.decode() for key in client.scan_iter()}
    return {key for key in keys if not key.startswith(("rq:worker:", "rq:clean_")) and key != "rq:queues"}


class Jobs:
    """Work that is called at the start, and once for each wake-up: `then` gets the number of the call."""

    def __init__(self, then: Callable[[int, Stop], None]) -> None:
        self.calls = 0
        self.then = then

    def __call__(self, stop: Stop) -> None:
        self.calls += 1
        self.then(self.calls, stop)


# --- Serving


def test_job_leaves_no_trace(redis_url: str, client: redis.Redis) -> None:
    def then(call: int, stop: Stop) -> None:
        if call == 2:
            assert client.zcard(f"rq:wip:{QUEUE}") == 1
            assert client.llen(LANE) == 0
            wakeups.finish(client, QUEUE, lambda: False)
            stop.ask()

    wakeups.wake(client, QUEUE)
    serve_queue(redis_url, Jobs(then))
    assert leftovers(client) == set()


def test_failed_job_costs_one_line_and_the_next_runs(
    redis_url: str, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    def then(call: int, stop: Stop) -> None:
        if call == 2:
            threading.Timer(0.1, lambda: wakeups.wake(client, QUEUE)).start()
            raise ValueError("the payload of a run, which must not be in a log")
        if call == 3:
            stop.ask()

    wakeups.wake(client, QUEUE)
    serve_queue(redis_url, Jobs(then))
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert "ValueError at test_worker.py:" in line
    assert "payload" not in caplog.text
    assert client.zcard(f"rq:failed:{QUEUE}") == 0


def test_job_that_outlives_its_timeout_is_cut_off(
    redis_url: str, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    def then(call: int, stop: Stop) -> None:
        if call == 2:
            stop.ask()
            time.sleep(60)

    wakeups.wake(client, QUEUE)
    serve_queue(redis_url, Jobs(then), job_timeout=1)
    assert "cut off" in caplog.text
    assert client.exists(flag_key(QUEUE)) == 0


def test_stop_in_a_job_leaves_the_next_job_queued(redis_url: str, client: redis.Redis) -> None:
    def then(call: int, stop: Stop) -> None:
        if call == 2:
            stop.ask()
            wakeups.finish(client, QUEUE, lambda: True)

    wakeups.wake(client, QUEUE)
    serve_queue(redis_url, Jobs(then))
    assert queued(client) == 1
    assert client.llen(LANE) == 0


def test_signal_ends_the_wait_for_a_job_at_once(redis_url: str, client: redis.Redis) -> None:
    signalled: list[Stopwatch] = []

    def terminate() -> None:
        eventually(lambda: any(each["cmd"] == "blmove" for each in client.client_list()))
        signalled.append(Stopwatch())
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=terminate)
    thread.start()
    serve_queue(redis_url, lambda _: None)
    signalled[0].at_most(worker.WAIT - 1)
    thread.join()
    assert client.smembers(f"rq:workers:{QUEUE}") == set()


def test_nobody_can_command_a_worker_by_pub_sub(redis_url: str, client: redis.Redis) -> None:
    listeners = []

    def then(call: int, stop: Stop) -> None:
        if call == 2:
            send_shutdown_command(client, "w.1")
            send_kill_horse_command(client, "w.1")
            listeners.append(client.pubsub_numsub("rq:pubsub:w.1"))
            stop.ask()

    wakeups.wake(client, QUEUE)
    serve_queue(redis_url, Jobs(then))
    assert listeners == [[(b"rq:pubsub:w.1", 0)]]


def test_nobody_can_suspend_a_worker(redis_url: str, client: redis.Redis) -> None:
    suspend(client)
    wakeups.wake(client, QUEUE)
    serve_queue(redis_url, Jobs(lambda call, stop: stop.ask() if call == 2 else None))


def test_rq_sees_the_worker_and_its_queue(redis_url: str, client: redis.Redis) -> None:
    seen: list[Any] = []

    def then(call: int, stop: Stop) -> None:
        if call == 2:
            seen.extend(
                (worker.name, worker.queue_names(), worker.get_state()) for worker in Worker.all(connection=client)
            )
            stop.ask()

    wakeups.wake(client, QUEUE)
    serve_queue(redis_url, Jobs(then))
    assert seen == [("w.1", [QUEUE], "busy")]


def test_what_a_killed_worker_had_taken_holds_up_nothing(redis_url: str, client: redis.Redis) -> None:
    # Given a job that its worker took off the queue before it was killed
    wakeups.wake(client, QUEUE)
    client.lmove(f"rq:queue:{QUEUE}", LANE, "LEFT", "RIGHT")
    # When the next worker starts
    serve_queue(
        redis_url,
        Jobs(lambda call, stop: wakeups.finish(client, QUEUE, lambda: call == 1) and None if call == 1 else stop.ask()),
    )
    # Then it does the work, and the other job is gone
    assert client.llen(LANE) == 0


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
            on_success=Callback("tests.integration.wakeups.test_worker.touch"),
            on_failure=Callback("tests.integration.wakeups.test_worker.touch"),
            on_stopped=Callback("tests.integration.wakeups.test_worker.touch"),
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
    serve_queue(redis_url, lambda stop: stop.ask() if queued(client) == 0 else None)
    # Then ours ran, and no foreign code did
    assert not mark.exists()


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
            serve_queue(redis_url, Jobs(lambda call, stop: stop.ask() if call == 2 else None))
            await asyncio.sleep(0.05)

    asyncio.run(go())
    assert calls == []


# --- Redis fails


def test_worker_continues_after_redis_was_killed(valkey_factory: Callable[..., ValkeyProcess]) -> None:
    # Given a worker in the middle of a job when its Redis is killed
    server = valkey_factory()
    client = server.connect()

    def come_back() -> None:
        time.sleep(1)
        server.start()

    restart = threading.Thread(target=come_back)

    def then(call: int, stop: Stop) -> None:
        if call == 2:
            server.kill()
            restart.start()
        elif call == 3:
            stop.ask()

    wakeups.wake(client, QUEUE)
    watch = Stopwatch()
    serve_queue(server.url, Jobs(then))
    restart.join()
    # Then the same process works again soon after its return
    watch.at_most(15)


def test_work_is_done_while_redis_is_full(
    valkey_factory: Callable[..., ValkeyProcess], caplog: pytest.LogCaptureFixture
) -> None:
    server = valkey_factory()
    client = server.connect()
    client.config_set("maxmemory", "1kb")

    def then(call: int, stop: Stop) -> None:
        if call == 3:
            client.config_set("maxmemory", "0")
            stop.ask()

    serve_queue(server.url, Jobs(then))
    assert caplog.text.count("Redis can't be used now (OutOfMemoryError)") == 1


def test_work_is_done_while_a_key_of_rq_has_another_type(redis_url: str, client: redis.Redis) -> None:
    client.set(f"rq:queue:{QUEUE}", "not a list")
    serve_queue(redis_url, Jobs(lambda call, stop: stop.ask() if call == 2 else None))
