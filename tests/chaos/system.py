"""The system under test: hosts, servers and consumers, each part a process of its own. Loopback only.

Everything started here is ended by its own id, and by the kernel should this process die.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import IO, Any, Final

import psycopg
import redis

from receiver.checks import board
from receiver.runtime import redis_client
from tests.chaos.bodies import CONCURRENCY, HTTP_SINKS, SHARES
from tests.chaos.host import PARTS, Host
from tests.chaos.program import Program
from tests.servers.postgres import PostgresProcess
from tests.servers.valkey import ValkeyProcess, free_port
from tests.support.waiting import seconds_until

SECRET: Final = "chaos-skyvern-key"
CONSUMER_SECRET: Final = "whsec_Y2hhb3MtY29uc3VtZXItc2VjcmV0"
_FLUSH_IF_EMPTY = """
if redis.call('XLEN', 'runhook:inbox') > 0 then return 0 end
redis.call('FLUSHALL')
return 1
"""


class System:
    """Hosts, Valkey, PostgreSQL and the consumers. `sabotage`: see sabotage.py. `ahead`: by how many seconds the clock
    of each host is wrong. `linked`: see Host."""

    def __init__(
        self,
        folder: Path,
        *,
        sabotage: str = "",
        seed: int = 0,
        sinks: dict[str, Any] | None = None,
        ahead: Sequence[float] = (0.0,),
        linked: Collection[str] = (),
    ) -> None:
        folder.chmod(0o755)  # PostgreSQL may run as somebody else
        self.folder = folder
        self.valkey = ValkeyProcess(folder / "valkey")
        # The connections of a host that vanished stay with it: here a kernel lives on that answers its keepalives.
        self.postgres = PostgresProcess(folder / "postgres", max_connections="400")
        self.ports = {name: free_port() for name in HTTP_SINKS}
        self.database = folder / "consumers.db"
        self.archive = folder / "archive"
        self._ledger, self._results = "ledger", "results"
        self._sinks = sinks or {}
        self.hosts = {
            name: Host(
                name, folder, self.valkey, self.postgres, self._config,
                ledger=self._ledger, sabotage=sabotage, ahead=seconds, linked=linked,
            )
            for name, seconds in zip("abcdef", ahead, strict=False)
        }  # fmt: skip
        listeners = [f"{name}={port}" for name, port in self.ports.items()]
        consumer = ["-m", "tests.chaos.consumer", str(self.database), CONSUMER_SECRET, str(seed), *listeners]
        self.consumers = Program("consumers", folder, consumer, {}, piped=True)

    @property
    def programs(self) -> list[Program]:
        """All parts of all hosts."""
        return [program for host in self.hosts.values() for program in host.programs.values()]

    def _config(self, database: Callable[[str], str]) -> dict[str, Any]:
        patient = {"attempts": 200, "first": 1, "factor": 1.5, "max": 5}
        http = {"type": "http", "secret": CONSUMER_SECRET, "timeout": 5, "concurrency": CONCURRENCY, "retry": patient}
        sinks: dict[str, Any] = {
            "results": {
                "type": "database",
                "url": database(self._results),
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
        for program in self.programs:
            program.start()
        self.until(self.answer, 60, "the receivers to answer")

    def answer(self) -> bool:
        """Whether each receiver says that it could keep an event now."""
        return all(host.answers() for host in self.hosts.values())

    def until(self, condition: Callable[[], Any], seconds: float, what: str) -> float:
        """Wait for a condition, parts being restarted meanwhile; how long it took. Fails after `seconds`."""
        return seconds_until(lambda: (self.supervise(), condition())[1], seconds, what=lambda: f"{what}\n{self.tail()}")

    def supervise(self) -> None:
        """Be the process manager for a moment."""
        for program in self.programs:
            program.supervise()

    def serves(self, *children: int) -> set[str]:
        """Return what these processes of the worker serve, "dispatch" and sinks, by their heartbeats."""
        beats = [seen.beat for host in self.hosts.values() for seen in board.list_local_processes(host.data)]
        return {beat.role.removeprefix("deliver:") for beat in beats if beat.pid in children}

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

    def inbox(self) -> str:
        """What is in the inbox, in the spools and in the ledger, in words: is it stuck, or only slow?"""
        client = redis_client.connect(self.valkey.url, timeout=2.0, connect_timeout=2.0, retries=0)
        try:
            held: Any = client.xlen("runhook:inbox")
            pending: Any = client.xpending("runhook:inbox", "dispatch") if held else {}
            ((recorded,),) = self.ledger("SELECT count(*) FROM events")
        except (psycopg.Error, redis.RedisError, OSError) as error:
            return f"not known ({type(error).__name__})"
        finally:
            client.close()
        spooled = [
            line.split()[-1]
            for host in self.hosts.values()
            for line in host.get("/metrics", host.admin_port).splitlines()
            if line.startswith("runhook_spool_events ")
        ]
        waits = f"{held} entries, {pending.get('pending', 0)} of them at a dispatcher"
        return f"{waits}, {'+'.join(spooled) or 'unknown'} in spools, {recorded} events recorded"

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
        spooled = any(
            "\nrunhook_spool_events 0" not in host.get("/metrics", host.admin_port) for host in self.hosts.values()
        )
        return not (open_ or inbox or spooled), ended

    def tail(self) -> str:
        """The ends of all logs."""
        logs = [program.log for program in (*self.programs, self.consumers)]
        return "\n".join(f"--- {log.name}\n{log.read_text()[-1500:]}" for log in logs if log.exists())

    def tracebacks(self) -> list[str]:
        """Logs with a traceback in them: none of this is a bug's excuse."""
        found = []
        for program in (*self.programs, self.consumers):
            text = program.log.read_text(errors="replace") if program.log.exists() else ""
            at = text.find("Traceback (most recent call last)")
            if at >= 0:
                found.append(f"{program.name}: {text[max(0, at - 300) : at + 2500]}")
        return found

    def stop(self) -> dict[str, int]:
        """SIGTERM to each part, in order; their exit codes."""
        ordered = [host.programs[part] for part in PARTS for host in self.hosts.values()]
        return {program.name: program.stop() for program in ordered}

    def end(self) -> None:
        """Leave nothing behind, whatever state it is in."""
        for host in self.hosts.values():
            host.end()
        self.consumers.kill()
        for server in (self.valkey, self.postgres):
            if server.process is not None and server.process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(server.process.pid, signal.SIGCONT)
            server.kill()
