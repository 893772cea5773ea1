"""`runhook dev` as a person runs it: one command, one Ctrl-C, nothing left."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from receiver.ledger import Ledger
from receiver.ledger.migrate import HEAD
from tests.servers.dev import CONFIG, Dev, a_run
from tests.servers.valkey import free_port
from tests.support.events import press
from tests.support.ledger import with_tables
from tests.support.paths import ROOT
from tests.support.processes import alive, descendants
from tests.support.waiting import eventually, seconds_until


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Dev]]:
    """One for several tests, the last of this list: a start takes seconds of a core."""
    devs: list[Dev] = []
    yield devs
    for dev in devs:
        dev.end()


@pytest.fixture
def running(shared: list[Dev], tmp_path_factory: pytest.TempPathFactory) -> Dev:
    """The one that several tests share, or another where one of them has killed it."""
    if not shared or shared[-1].process.poll() is not None:
        shared.append(Dev(tmp_path_factory.mktemp("running")))
    return shared[-1].ready()


def refused(dev: Dev, code: int) -> str:
    """The one line with which it ended."""
    assert dev.process.wait(60) == code, dev.log
    (line,) = dev.log.splitlines()
    assert line.startswith("runhook: ")
    return line


# --- From start to end


def test_a_webhook_becomes_a_file_and_ctrl_c_leaves_no_process(start_dev: Callable[..., Dev]) -> None:
    # Given runhook dev with nothing set but a port for operators
    admin = free_port()
    dev = start_dev(config=f"{CONFIG}\nserver: {{admin: {admin}}}\n").ready()
    assert f"admin port: http://127.0.0.1:{admin} " in dev.log
    assert urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics", timeout=60).status == 200
    assert f"http://127.0.0.1:{dev.port}/webhooks/skyvern" in dev.log
    assert "on disk before 202: yes" in dev.log
    assert (dev.data / "skyvern-api-key").stat().st_mode & 0o777 == 0o600
    # When a signed webhook comes
    dev.post(a_run(1))
    # Then the sink has it
    eventually(lambda: any("tsk_1" in str(path) for path in dev.data.glob("archive/**/*")), what=lambda: dev.log)
    # And a press of Skyvern's Test button, which often comes first, is told as what it is
    pressed = dev.post(press())
    said = f"test webhook arrived, signature right: source=skyvern event={pressed}"
    eventually(lambda: said in dev.log, what=lambda: dev.log)
    # And nobody else on the machine may read any of it
    ours = [path for path in (dev.data, *dev.data.rglob("*")) if "archive" not in path.parts and not path.is_socket()]
    assert {path.name for path in ours} >= {"ledger.db", "ledger.db-wal", "redis", "spool"}
    assert {path.name for path in ours if path.stat().st_mode & 0o077} == set()
    # And one Ctrl-C ends all, soon
    pids = descendants(dev.process.pid)
    assert len(pids) >= 5  # valkey, receiver, clock, worker and its children
    started = time.monotonic()
    dev.process.send_signal(signal.SIGINT)
    assert dev.process.wait(60) == 0
    print(f"{time.monotonic() - started:.2f} seconds from Ctrl-C to the end")
    assert not any(alive(pid) for pid in pids)
    assert "Traceback" not in dev.log


def test_killed_process_is_restarted_and_work_resumes(running: Dev) -> None:
    dev = running
    for number, words in enumerate(["valkey-server", "runhook worker", "runhook clock", "runhook serve"]):
        killed = dev.part(words)
        os.kill(killed, signal.SIGKILL)
        name = words.split()[-1].removesuffix("-server")
        eventually(
            lambda name=name: f"{name.ljust(7)} | killed by signal 9; starts again" in dev.log, what=lambda: dev.log
        )

        def posted(number: int = number) -> bool:
            try:
                return bool(dev.post(a_run(10 + number)))
            except (OSError, urllib.error.URLError):
                return False

        took = seconds_until(posted, what=lambda: dev.log)
        seen = f"tsk_{10 + number}"
        took += seconds_until(
            lambda seen=seen: any(seen in str(p) for p in dev.data.glob("archive/**/*")), what=lambda: dev.log
        )
        print(f"{took:.2f} seconds from kill -9 of {words} to a new event delivered")


def test_a_second_one_on_the_same_data_is_one_line(running: Dev, start_dev: Callable[..., Dev]) -> None:
    line = refused(start_dev(directory=running.data.parent), 3)
    assert f"in use by another Runhook (process {running.process.pid})" in line


def test_kill_9_leaves_no_process_and_loses_nothing(running: Dev, start_dev: Callable[..., Dev]) -> None:
    pids = descendants(running.process.pid)
    assert len(pids) >= 5  # Valkey, serve, clock, the worker and its process
    running.process.kill()
    eventually(lambda: not any(alive(pid) for pid in pids))
    again = start_dev(directory=running.data.parent).ready()
    again.post(a_run(2))
    eventually(lambda: any("tsk_2" in str(path) for path in again.data.glob("archive/**/*")), what=lambda: again.log)


# --- What it refuses


def test_a_wrong_config_is_one_line_for_each_problem(start_dev: Callable[..., Dev]) -> None:
    line = refused(start_dev(config=CONFIG.replace("type: files", "type: flies")), 2)
    assert "runhook.yaml:5: sinks.archive.type" in line


def test_a_redis_that_is_away_is_one_line(start_dev: Callable[..., Dev]) -> None:
    line = refused(start_dev(REDIS_URL="redis://:secret@127.0.0.1:1/0"), 3)
    assert "Redis can't be used (redis://:********@127.0.0.1:1/0): " in line
    assert "; start it, or unset REDIS_URL for the embedded Valkey" in line


def test_a_ledger_of_another_schema_starts_nothing(start_dev: Callable[..., Dev], tmp_path: Path) -> None:
    # Given a ledger that another version has made
    url = f"sqlite:///{tmp_path}/ledger.db"
    ledger = with_tables(Ledger(url))
    ledger.write(lambda it: it.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'"))
    ledger.close()
    # When dev is called, it ends with what is wrong, and has never said that it is ready
    dev = start_dev(DATABASE_URL=url)
    line = refused(dev, 3)
    assert line.startswith(
        f"runhook: the ledger's schema is 9999, and this version of Runhook needs {HEAD} (sqlite:///"
    )
    assert "): name a new or empty database with DATABASE_URL" in line
    assert not (dev.data / "redis").exists()


# --- When it is ready

SLOW_SINK = """
import os, time
from pathlib import Path
from handlers import Receipt, Sink, SinkOptions

class SlowSink(Sink[SinkOptions]):
    Options = SinkOptions

    def __init__(self, name, options, services):
        super().__init__(name, options, services)
        # It is built to check the config, too; only the process that sends has its name.
        sends = Path("/proc/self/comm").read_text().startswith("runhook deliver")
        while sends and not os.path.exists(os.environ["GO"]):
            time.sleep(0.05)

    def send(self, delivery):
        return Receipt(id=delivery.key)
"""


def test_it_is_ready_when_the_last_sink_can_be_sent_to(start_dev: Callable[..., Dev], tmp_path: Path) -> None:
    # Given a sink that takes its time until it can take deliveries
    go, site = tmp_path / "go", tmp_path / "site"
    about = site / "slow_sink-1.dist-info"
    about.mkdir(parents=True)
    (site / "slow_sink.py").write_text(SLOW_SINK)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: slow-sink\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[runhook.sinks]\nslow = slow_sink:SlowSink\n")
    config = CONFIG.replace("routes:", "  slow: {type: slow}\nroutes:")
    # When everything else is up
    dev = start_dev(config=config, python=sys.executable, GO=str(go), PYTHONPATH=f"{site}{os.pathsep}{ROOT}")
    # Then that is said, and nothing is ready
    waits = "not ready: waiting for worker"
    eventually(lambda: waits in dev.log or "ready: http" in dev.log, what=lambda: dev.log)
    assert waits in dev.log
    assert "ready: http" not in dev.log
    # Until that sink is there
    go.touch()
    dev.ready()


def test_a_busy_port_is_one_line_and_nothing_was_started(start_dev: Callable[..., Dev], tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        dev = Dev.__new__(Dev)
        dev.port = taken.getsockname()[1]
        dev.data, dev.log_path = tmp_path / "d", tmp_path / "log"
        (tmp_path / "runhook.yaml").write_text(CONFIG)
        with dev.log_path.open("wb") as log:
            command = [sys.executable, "-m", "receiver.cli", "dev", "--port", str(dev.port), *dev.options(tmp_path)]
            dev.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)
        line = refused(dev, 3)
    assert f"can't listen on 127.0.0.1:{dev.port}" in line
    assert not (dev.data / "redis").exists()


def test_dev_reports_an_unavailable_ledger_first(start_dev: Callable[..., Dev]) -> None:
    dev = start_dev(DATABASE_URL=f"postgresql://u:sekret@127.0.0.1:{free_port()}/db")
    assert dev.process.wait(60) == 3, dev.log
    waiting, line = dev.log.splitlines()
    assert "waiting for it, at most 3 s" in waiting
    assert line.startswith("runhook: the ledger can't be used (postgresql+psycopg://u:********@127.0.0.1:")
    assert "sekret" not in dev.log
