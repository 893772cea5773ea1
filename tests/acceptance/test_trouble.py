"""The ledger killed, hung, locked and out of disk, and an embedded Valkey out of disk: work pauses and goes on by
itself, and the receiver acks all the while.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from tests.servers.deployment import Deployment
from tests.servers.dev import CONFIG, Dev, a_run
from tests.servers.postgres import PostgresProcess
from tests.servers.receiver import Load, body
from tests.support.waiting import Stopwatch, eventually

pytestmark = pytest.mark.long

SINKS = {"results": {"type": "database", "url": "sqlite:///${RUNHOOK_DATA}/results.db", "table": "runs"}}
ROUTES = [{"name": "everything", "to": ["results"]}]

HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
connection.execute("ROLLBACK")
"""

Deployments = Callable[..., Deployment]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """`small_disk("4m")`: a disk of that size; again with another size: the same one, larger or smaller."""
    place = tmp_path / "disk"

    def mount(size: str) -> Path:
        options = f"remount,size={size}" if place.is_mount() else f"size={size}"
        place.mkdir(exist_ok=True)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True)
        if done.returncode:
            pytest.skip("only root can make a small disk here")
        return place

    yield mount
    subprocess.run(["umount", "--lazy", str(place)], capture_output=True)


def paused_lines(it: Deployment) -> list[str]:
    return [line for line in it.log_of("worker").splitlines() if ".paused " in line]


def test_killed_or_hanging_postgresql_pauses_work_only(
    deployment: Deployments, redis_url: str, postgres_factory: Callable[..., PostgresProcess]
) -> None:
    # Given receiver, worker and clock under load
    server = postgres_factory()
    it = deployment(redis_url, server.url(), sinks=SINKS, routes=ROUTES)
    it.run("worker")
    it.run("clock")
    it.start()
    with Load(it, threads=2) as load:
        load.more(50)
        eventually(lambda: it.states().get("delivered", 0) > 20)
        calm, load.slowest = load.slowest, 0.0
        # When its ledger hangs for a while
        server.hang()
        load.more(50)
        server.resume()
        # And when it is killed and away for a while
        delivered = it.states().get("delivered", 0)
        eventually(lambda: it.states().get("delivered", 0) > delivered)
        delivered = it.states()["delivered"]
        before = len(paused_lines(it))
        server.kill()
        eventually(lambda: len(paused_lines(it)) > before)
        load.more(100)
        time.sleep(1.5)  # it stays away for longer than any pause between two tries
        while_away = paused_lines(it)[before:]
        server.start()
        watch = Stopwatch()
        eventually(lambda: it.states().get("delivered", 0) > delivered)
        print(f"{watch.seconds:.2f} seconds from the return of PostgreSQL to the next delivery")
        watch.at_most(20)
    # Then every sender got its 202 at once, each process logged the trouble once, and nothing is lost
    assert (load.statuses, load.lost) == ([], 0)
    assert load.slowest < 10 + 10 * calm
    assert 1 <= len(while_away) <= 2, paused_lines(it)
    count = len(set(load.acked))
    it.all_delivered(count)
    with contextlib.closing(sqlite3.connect(it.data / "results.db")) as connection:
        assert connection.execute("SELECT count(*), count(DISTINCT run_id) FROM runs").fetchone() == (count, count)


def test_locked_ledger_and_full_disk_pause_work_until_they_end(
    deployment: Deployments, redis_url: str, small_disk: Callable[[str], Path]
) -> None:
    disk = small_disk("2m")
    it = deployment(redis_url, f"sqlite:///{disk / 'ledger.db'}", sinks=SINKS, routes=ROUTES)
    it.run("worker")
    it.run("clock")
    it.start()
    it.acked(body(0))
    it.all_delivered(1)
    # When another process holds the ledger for longer than anything waits for it
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(disk / "ledger.db")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        it.acked(*(body(number) for number in range(1, 20)))
        eventually(lambda: re.search(r'dispatch\.paused ledger="[^"]* locked', it.log_of("worker")))
        holder.communicate()
    # Then it goes on within seconds
    watch = Stopwatch()
    it.all_delivered(20)
    watch.at_most(10)
    # And when its disk is full, the receiver goes on acking, and the work goes on when there is room
    it.acked(*(body(number, filler="x" * 100_000) for number in range(20, 50)))
    eventually(lambda: "disk is full" in it.log_of("worker"))
    it.acked(*(body(number) for number in range(50, 60)))
    small_disk("64m")
    it.all_delivered(60)
    assert len(paused_lines(it)) <= 5, paused_lines(it)


def test_full_disk_of_the_embedded_valkey_is_logged_and_survived(
    tmp_path: Path, small_disk: Callable[[str], Path]
) -> None:
    # Given everything on one small disk but the log, for which a full one has no room
    disk = small_disk("24m")
    config = CONFIG.replace("type: files,", "type: files, reserve: 1MiB,")
    dev = Dev(disk, config=config + "spool: {reserve_bytes: 1MiB}\n", logs=tmp_path)
    try:
        dev.ready()
        dev.post(a_run(1))
        eventually(lambda: any("tsk_1" in str(path) for path in disk.rglob("run.json")))
        # When the disk is full, and Valkey has to write all the same
        filler = disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        # More than the last block of its file has room for, which a quiet deployment would take minutes to fill
        with (
            redis.Redis(unix_socket_path=str(dev.data / "redis" / "valkey.sock")) as client,
            contextlib.suppress(redis.RedisError),
        ):
            client.set("large", bytes(1 << 16), ex=1)
        eventually(lambda: len(valkey_lines(dev)) > 0)
        with pytest.raises(OSError, match="503"):
            dev.post(a_run(2))
        time.sleep(2)
        assert len(valkey_lines(dev)) <= 2, dev.log
        assert "the disk is full" in valkey_lines(dev)[0]
        # Then it is back when there is room
        filler.unlink()
        began = time.monotonic()
        eventually(lambda: accepted(dev, a_run(2)))
        eventually(lambda: any("tsk_2" in str(path) for path in disk.rglob("run.json")))
        print(f"{time.monotonic() - began:.2f} seconds from the first free byte to an event delivered")
    finally:
        dev.end()


def valkey_lines(dev: Dev) -> list[str]:
    return [line for line in dev.log.splitlines() if line.startswith("valkey ")]


def accepted(dev: Dev, content: bytes) -> bool:
    try:
        return bool(dev.post(content))
    except OSError:
        return False


def test_a_clock_that_starts_before_its_postgresql_waits_for_it(
    deployment: Deployments, redis_url: str, postgres_factory: Callable[..., PostgresProcess]
) -> None:
    server = postgres_factory()
    server.kill()
    it = deployment(redis_url, server.url(), sinks=SINKS, routes=ROUTES)
    # When it starts while its ledger is away, as after the boot of a host, then it says so and stays
    clock = it.run("clock")
    eventually(lambda: clock.poll() is not None or "waiting for it" in it.log_of("clock"))
    assert clock.poll() is None, it.log_of("clock")
    # And begins when the ledger is there
    server.start()
    eventually(lambda: clock.poll() is not None or "part.started part=clock" in it.log_of("clock"))
    assert clock.poll() is None, it.log_of("clock")
    assert it.log_of("clock").count("waiting for it") == 1
