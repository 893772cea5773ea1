"""SIGHUP and `runhook reload`: all processes follow a changed config file; nothing is lost or doubled."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers.deployment import Deployment
from tests.servers.http import Reply, ScriptedServer
from tests.servers.receiver import Load, body
from tests.support.waiting import PATIENCE, eventually

pytestmark = pytest.mark.long


def heed_hangups() -> None:
    """Handle SIGHUP although the tests may run under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


class Processes:
    """The processes of a deployment, started as a shell does: a reload runs their commands again."""

    def __init__(self, it: Deployment) -> None:
        self.it = it
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *options: str) -> None:
        """Start `serve`, `worker` or `clock` without a terminal."""
        log = (self.it.directory / f"{name}.log").open("ab")
        command = [sys.executable, "-m", "receiver.cli", name, *options]
        self.running[name] = subprocess.Popen(
            command,
            env=self.it.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=heed_hangups,
        )
        log.close()

    def start_all(self, *worker_options: str) -> None:
        """Start all three, and wait until they work."""
        self.start("serve", "--port", str(self.it.port))
        self.start("worker", *worker_options)
        self.start("clock")
        eventually(lambda: self.ready(), what=lambda: "".join(map(self.it.log_of, self.running)))

    def ready(self) -> bool:
        started = {"worker": "part=deliver:s0", "clock": "part=clock", "serve": "part=receiver"}
        return all(f"part.started {what}" in self.it.log_of(name) for name, what in started.items())

    def end(self) -> None:
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def consumer() -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        yield server


@pytest.fixture
def make(
    deployment: Callable[..., Deployment], redis_url: str, tmp_path: Path
) -> Iterator[Callable[..., tuple[Deployment, Processes]]]:
    """Return a deployment whose sinks are HTTP servers, and its processes, not started."""
    made: list[Processes] = []

    def one(*sinks: str) -> tuple[Deployment, Processes]:
        it = deployment(redis_url, f"sqlite:///{tmp_path}/ledger.db", **config(*sinks))
        made.append(Processes(it))
        return it, made[-1]

    yield one
    for each in made:
        each.end()


def config(*urls: str) -> dict[str, Any]:
    """A config with a sink for each URL, and a route to all of them."""
    sinks = {f"s{number}": {"type": "http", "url": url} for number, url in enumerate(urls)}
    return {
        "sinks": sinks,
        "routes": [{"name": "everything", "to": list(sinks)}],
        "allowed_addresses": ["127.0.0.1"],
        "spool": {"reserve_bytes": 0},
    }


def runs_of(server: ScriptedServer) -> Counter[str]:
    """How often each delivery arrived."""
    return Counter(each.headers["webhook-id"] for each in server.requests)


def reload_during_a_send(it: Deployment, processes: Processes, consumer: ScriptedServer) -> threading.Event:
    """Have the worker reload while a send waits for its answer. Returns what lets the consumer answer."""
    answer = threading.Event()
    consumer.script.append(Reply(until=answer))
    processes.start_all("--stop-timeout", "0.5")
    it.acked(body(1))
    eventually(lambda: consumer.requests)
    processes.running["worker"].send_signal(signal.SIGHUP)
    eventually(lambda: "worker.stopping" in it.log_of("worker"))
    return answer


def test_processes_follow_a_new_config_under_load(
    make: Callable[..., tuple[Deployment, Processes]], consumer: ScriptedServer
) -> None:
    # Given all processes, and webhooks that do not stop
    it, processes = make(f"{consumer.url}/old")
    processes.start_all()
    pids = {name: each.pid for name, each in processes.running.items()}
    with ScriptedServer() as other, Load(it, threads=2, pause=0.02) as load:
        eventually(lambda: consumer.requests)
        # When the config gets another sink, and is reloaded
        it.configure(config(f"{consumer.url}/old", f"{other.url}/new"))
        done = it.command("reload")
        # Then the command names the processes that use it, and they are the same processes
        assert done.returncode == 0, done.stdout + done.stderr + it.log_of("serve")
        assert {line.split(":")[0] for line in done.stdout.splitlines()} == {"receiver", "dispatch", "deliver", "clock"}
        assert {name: each.pid for name, each in processes.running.items()} == pids
        assert [each.poll() for each in processes.running.values()] == [None, None, None]
        # And the new sink gets what comes
        eventually(lambda: len(other.requests) > 3)
    # And no webhook was refused, and each delivery came once
    assert (load.statuses, load.lost) == ([], 0)
    eventually(lambda: not [state for sink in ("s0", "s1") for state in it.states(sink) if state != "delivered"])
    for server in (consumer, other):
        assert set(runs_of(server).values()) == {1}
    assert len(consumer.requests) == len(load.acked)


def test_wrong_config_is_refused_and_the_old_one_stays(
    make: Callable[..., tuple[Deployment, Processes]], consumer: ScriptedServer
) -> None:
    it, processes = make(consumer.url)
    processes.start_all()
    # When the file becomes wrong, and each process is to read it
    it.configure({**config(consumer.url), "routes": [{"name": "everything", "to": ["nowhere"]}]})
    for process in processes.running.values():
        process.send_signal(signal.SIGHUP)
    # Then each says why it refuses, and the old config is in use
    for name in processes.running:
        eventually(lambda name=name: "reload.refused" in it.log_of(name) and "nowhere" in it.log_of(name))
    it.acked(body(1))
    eventually(lambda: consumer.requests)
    assert [each.poll() for each in processes.running.values()] == [None, None, None]
    # And the command refuses it as well
    done = it.command("reload")
    assert done.returncode == 2
    assert "nowhere" in done.stderr


def test_reload_repeats_no_send_under_way(
    make: Callable[..., tuple[Deployment, Processes]], consumer: ScriptedServer
) -> None:
    # Given a worker that reloads, and a send that takes longer than a stop would wait
    it, processes = make(consumer.url)
    answer = reload_during_a_send(it, processes, consumer)
    with pytest.raises(subprocess.TimeoutExpired):
        processes.running["worker"].wait(1.5)
    assert it.log_of("worker").count("worker.started") == 1
    answer.set()
    # Then the send ends first, and is recorded
    eventually(lambda: it.log_of("worker").count("worker.started") == 2)
    eventually(lambda: it.states() == {"delivered": 1})
    it.acked(body(2))
    eventually(lambda: it.states() == {"delivered": 2})
    assert set(runs_of(consumer).values()) == {1}


def test_stop_during_a_reload_ends_the_worker(
    make: Callable[..., tuple[Deployment, Processes]], consumer: ScriptedServer
) -> None:
    # Given a reload that waits for a send
    it, processes = make(consumer.url)
    answer = reload_during_a_send(it, processes, consumer)
    worker = processes.running["worker"]
    # When it is to stop
    worker.terminate()
    # Then it ends as at any stop
    assert worker.wait(PATIENCE) == 1
    assert it.log_of("worker").count("worker.started") == 1
    answer.set()


def test_process_in_a_terminal_stops_when_that_closes(make: Callable[..., tuple[Deployment, Processes]]) -> None:
    # Given a receiver in a terminal
    it, _ = make("http://127.0.0.1:9")
    pid, terminal = pty.fork()
    if not pid:
        heed_hangups()
        os.execve(
            sys.executable,
            [sys.executable, "-m", "receiver.cli", "serve", "--port", str(it.port)],
            it.environment,
        )
    try:
        eventually(lambda: b"listening on" in os.read(terminal, 65536))
        # Then `runhook reload` leaves it alone
        eventually(lambda: "in a terminal" in it.command("reload").stderr)
    finally:
        # When the terminal closes
        os.close(terminal)
        os.waitpid(pid, 0)
    # Then it ends in order
    assert not list((it.data / "parts").glob("receiver*.json"))


def test_reload_without_processes_names_the_data_directory(make: Callable[..., tuple[Deployment, Processes]]) -> None:
    it, _ = make("http://127.0.0.1:9")
    done = it.command("reload")
    assert done.returncode == 3
    assert str(it.data) in done.stderr
