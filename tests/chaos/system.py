"""The system under test, each part a process of its own, and whoever restarts what has ended. Loopback only.

Everything started here is ended by its own id, and by the kernel should this process die.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, Final

import psycopg
import redis

from receiver.runtime import redis_client
from receiver.runtime.process import die_with_parent
from tests.chaos.bodies import CONCURRENCY, HTTP_SINKS, SHARES
from tests.servers.postgres import PostgresProcess
from tests.servers.valkey import ValkeyProcess, free_port
from tests.support.paths import ROOT
from tests.support.waiting import seconds_until

SECRET: Final = "chaos-skyvern-key"
CONSUMER_SECRET: Final = "whsec_Y2hhb3MtY29uc3VtZXItc2VjcmV0"
RESTART_AFTER: Final = 0.5
"""Seconds after which a part that ended by itself is started again, as a process manager would."""

_FLUSH_IF_EMPTY = """
if redis.call('XLEN', 'runhook:inbox') > 0 then return 0 end
redis.call('FLUSHALL')
return 1
"""


class Program:
    """One process with a log. It stays the same over restarts."""

    def __init__(
        self, name: str, folder: Path, command: Sequence[str], environment: dict[str, str], *, piped: bool = False
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._command = [sys.executable, *command]
        kept = {each: os.environ[each] for each in ("PATH", "HOME", "LANG", "TMPDIR") if each in os.environ}
        self._environment = {**kept, "PYTHONPATH": str(ROOT), **environment}
        self._piped = piped
        self.process: subprocess.Popen[bytes] | None = None
        self.wanted = False
        self.due = 0.0
        self.starts = 0

    def start(self) -> None:
        """Start it without waiting for anything."""
        assert not self.running, f"{self.name} runs already"
        parent = os.getpid()
        self.wanted, self.due = True, 0.0
        self.starts += 1
        pipe = subprocess.PIPE if self._piped else None
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                env=self._environment,
                cwd=ROOT,
                stdin=pipe or subprocess.DEVNULL,
                stdout=pipe or log,
                stderr=log,
                start_new_session=True,
                preexec_fn=lambda: die_with_parent(parent),
            )

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        assert self.process is not None, f"{self.name} was not started"
        return self.process.pid

    def children(self) -> list[int]:
        """Process ids of its children, in the order in which they were started."""
        try:
            return [int(word) for word in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]
        except OSError:
            return []

    def kill(self) -> None:
        """kill -9; its children follow, as they asked the kernel for it. Returns when it is gone."""
        self.wanted = False
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self, seconds: float = 25) -> int:
        """SIGTERM; the exit code, or -9 when it had to be killed."""
        self.wanted = False
        if self.process is None:
            return 0
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(seconds)
        self.kill()
        return -9

    def tell(self, line: str) -> None:
        """A line on its stdin."""
        assert self.process is not None, f"{self.name} was not started"
        assert self.process.stdin is not None, f"{self.name} takes no commands"
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def supervise(self) -> None:
        """Start it again if it has ended by itself a moment ago."""
        if not self.wanted or self.running:
            return
        now = time.monotonic()
        if not self.due:
            self.due = now + RESTART_AFTER
        elif now >= self.due:
            self.start()


class System:
    """Receiver, worker, clock, Valkey, PostgreSQL and the consumers. `sabotage`: see sabotage.py."""

    def __init__(self, folder: Path, *, sabotage: str = "", seed: int = 0, sinks: dict[str, Any] | None = None) -> None:
        folder.chmod(0o755)  # PostgreSQL may run as somebody else
        self.folder = folder
        self.valkey = ValkeyProcess(folder / "valkey")
        self.postgres = PostgresProcess(folder / "postgres")
        self.ports = {name: free_port() for name in HTTP_SINKS}
        self.port = free_port()
        self.database = folder / "consumers.db"
        self.archive = folder / "archive"
        self._ledger, self._results = "ledger", "results"
        self._sinks = sinks or {}
        config = folder / "runhook.yaml"
        environment = {
            "REDIS_URL": self.valkey.url,
            "DATABASE_URL": self.postgres.url(self._ledger),
            "RUNHOOK_CONFIG": str(config),
            "RUNHOOK_DATA": str(folder / "data"),
        }
        config.write_text(json.dumps(self._config()))  # JSON is YAML

        def program(name: str, *arguments: str) -> Program:
            entry = ["-m", "tests.chaos.sabotage", sabotage] if sabotage else ["-m", "receiver.cli"]
            return Program(name, folder, [*entry, *arguments], environment)

        self.receiver = program("receiver", "serve", "--port", str(self.port))
        self.worker = program("worker", "worker")
        self.clock = program("clock", "clock")
        listeners = [f"{name}={port}" for name, port in self.ports.items()]
        consumer = ["-m", "tests.chaos.consumer", str(self.database), CONSUMER_SECRET, str(seed), *listeners]
        self.consumers = Program("consumers", folder, consumer, {}, piped=True)
        self.programs = {each.name: each for each in (self.receiver, self.worker, self.clock)}

    def _config(self) -> dict[str, Any]:
        patient = {"attempts": 200, "first": 1, "factor": 1.5, "max": 5}
        http = {"type": "http", "secret": CONSUMER_SECRET, "timeout": 5, "concurrency": CONCURRENCY, "retry": patient}
        sinks: dict[str, Any] = {
            "results": {
                "type": "database",
                "url": self.postgres.url(self._results),
                "table": "runs",
                "timeout": 10,
                "retry": patient,
            },
            "archive": {"type": "files", "path": str(self.archive), "retry": patient},
            **{name: {**http, "url": f"http://127.0.0.1:{port}/{name}"} for name, port in self.ports.items()},
        }
        for name, more in self._sinks.items():
            sinks[name] |= more

        routes = [
            {
                "name": name,
                "when": {"output.share": list(shares)},
                "to": [{"sink": "late", "after": "archive"}] if name == "late" else [name],
            }
            for name, shares in SHARES.items()
        ]
        return {"sources": {"skyvern": {"secrets": ["another key", SECRET]}}, "sinks": sinks, "routes": routes}

    def start(self) -> None:
        """Start everything. Returns when the receiver answers."""
        self.valkey.start()
        self.postgres.start()
        with contextlib.closing(self.postgres.connect()) as connection:
            for name in (self._ledger, self._results):
                connection.execute(f'CREATE DATABASE "{name}"'.encode())
        self.consumers.start()
        assert self.consumers.process is not None
        output: IO[bytes] | None = self.consumers.process.stdout
        assert output is not None
        assert output.readline() == b"ready\n", self.consumers.log.read_text()
        for program in self.programs.values():
            program.start()
        self.until(self.answers, 30, "the receiver to answer")

    def answers(self) -> bool:
        """Whether the receiver says that it could keep an event now."""
        return self.get("/readyz")[:12] == "HTTP/1.1 200"

    def get(self, path: str) -> str:
        """The receiver's whole answer, or "" when it gives none."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), 2) as connection:
                connection.settimeout(5)
                connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
                pieces = []
                while piece := connection.recv(1 << 16):
                    pieces.append(piece)
                return b"".join(pieces).decode()
        except OSError:
            return ""

    def until(self, condition: Callable[[], Any], seconds: float, what: str) -> float:
        """Wait for a condition, parts being restarted meanwhile; how long it took. Fails after `seconds`."""
        return seconds_until(lambda: (self.supervise(), condition())[1], seconds, what=lambda: f"{what}\n{self.tail()}")

    def supervise(self) -> None:
        """Be the process manager for a moment."""
        for program in self.programs.values():
            program.supervise()

    def serves(self, child: int) -> str:
        """The sink that this process of the worker serves, by its sign of life; "" when it has none yet."""
        for handle in Path(f"/proc/{child}/fd").iterdir():
            with contextlib.suppress(OSError):
                path = handle.readlink()
                if path.parent.name == "workers":
                    return path.name.partition("@")[0].removeprefix("deliver:")
        return ""

    def mode(self, consumer: str, mode: str) -> None:
        """Make a consumer behave; see consumer.py."""
        self.consumers.tell(f"{consumer} {mode}")

    def flush_if_empty(self) -> bool:
        """FLUSHALL, if the inbox is empty at that moment. Raises redis.RedisError."""
        client = redis_client.connect(self.valkey.url, timeout=0.5, connect_timeout=2.0, retries=0)
        try:
            return bool(client.eval(_FLUSH_IF_EMPTY, 0))
        finally:
            client.close()

    def ledger(self, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """Ask the ledger. Raises psycopg.Error."""
        return self._ask(self._ledger, query, arguments)

    def results(self, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """Ask the results' database. Raises psycopg.Error."""
        return self._ask(self._results, query, arguments)

    def _ask(self, database: str, query: str, arguments: Sequence[Any]) -> list[tuple[Any, ...]]:
        with contextlib.closing(self.postgres.connect(database)) as connection:
            cursor = connection.execute(query.encode(), arguments or None)
            return cursor.fetchall() if cursor.description else []

    def quiet(self) -> tuple[bool, int]:
        """(nothing is on its way any more, a number that changes as long as work goes on)."""
        try:
            (ended, open_), *_ = self.ledger(
                "SELECT count(*) FILTER (WHERE state IN ('delivered', 'dead', 'cancelled')),"
                " count(*) FILTER (WHERE state NOT IN ('delivered', 'dead', 'cancelled')) FROM deliveries"
            )
            with contextlib.closing(
                redis_client.connect(self.valkey.url, timeout=5.0, connect_timeout=2.0, retries=0)
            ) as client:
                inbox: Any = client.xlen("runhook:inbox")
        except (psycopg.Error, redis.RedisError, OSError):
            return False, 0
        spooled = "\nrunhook_spool_events 0" not in self.get("/metrics")
        return not (open_ or inbox or spooled), ended

    def tail(self) -> str:
        """The ends of all logs."""
        logs = [program.log for program in (*self.programs.values(), self.consumers)]
        return "\n".join(f"--- {log.name}\n{log.read_text()[-1500:]}" for log in logs if log.exists())

    def tracebacks(self) -> list[str]:
        """Logs with a traceback in them: none of this is a bug's excuse."""
        found = []
        for program in (*self.programs.values(), self.consumers):
            text = program.log.read_text(errors="replace") if program.log.exists() else ""
            at = text.find("Traceback (most recent call last)")
            if at >= 0:
                found.append(f"{program.name}: {text[max(0, at - 300) : at + 2500]}")
        return found

    def stop(self) -> dict[str, int]:
        """SIGTERM to each part, in order; their exit codes."""
        return {name: self.programs[name].stop() for name in ("receiver", "worker", "clock")}

    def end(self) -> None:
        """Leave nothing behind, whatever state it is in."""
        for program in (*self.programs.values(), self.consumers):
            program.kill()
        for server in (self.valkey, self.postgres):
            if server.process is not None and server.process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(server.process.pid, signal.SIGCONT)
            server.kill()
