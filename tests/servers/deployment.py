"""Receiver, worker and clock as a Procfile has them, each a process of its own that can be killed by itself.

deployment   `deployment(redis_url, database_url, sinks={…}, routes=[…])`: one with a directory of its own, not started;
             `admin=True`: with a port for operators
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from receiver.ledger import Ledger, LedgerUnavailable
from receiver.ledger.schema import deliveries
from tests.servers import warm_python
from tests.servers.receiver import ReceiverProcess
from tests.servers.valkey import free_port
from tests.support import queries
from tests.support.waiting import eventually


class Deployment(ReceiverProcess):
    """A receiver, and on demand the other two parts with the same settings."""

    def __init__(self, directory: Path, redis_url: str, database_url: str, config: Mapping[str, Any]) -> None:
        super().__init__(directory, redis_url, config)
        self.database_url = database_url
        self.parts: dict[str, warm_python.Process] = {}
        self.more: dict[str, str] = {}
        """Further environment variables."""
        self.ledger = Ledger(database_url)
        """For queries, without the half second that a command takes."""

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "DATABASE_URL": self.database_url, **self.more}

    def run(self, part: str, *options: str, first: str = "") -> warm_python.Process:
        """Start `worker` or `clock` without waiting for anything. `first`: Python that the program runs first."""
        program = f"{first}\nfrom receiver.cli import main\nmain()"
        log = self.directory / f"{part}.log"
        self.parts[part] = warm_python.start(["-c", program, part, *options], log, env=self.environment)
        return self.parts[part]

    def log_of(self, part: str) -> str:
        path = self.directory / f"{part}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def kill_part(self, part: str) -> None:
        """kill -9, and wait until it is gone. A worker's children end with it."""
        process = self.parts.pop(part)
        process.kill()
        process.wait()

    def end(self) -> None:
        """SIGTERM to all, SIGKILL to those that do not care."""
        for process in self.parts.values():
            process.send_signal(signal.SIGTERM)
        for process in self.parts.values():
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.kill()
        self.ledger.close()

    def deliveries(self, **wanted: Any) -> list[dict[str, Any]]:
        """The deliveries that a filter finds."""
        chosen = queries.Filter(**wanted)
        return self.ledger.read(lambda connection: queries.list_deliveries(connection, chosen))

    def states(self, sink: str = "") -> dict[str, int]:
        """How many deliveries are in each state; {} while the ledger is away or has no tables yet."""
        counted = sa.select(deliveries.c.state, sa.func.count()).group_by(deliveries.c.state)
        if sink:
            counted = counted.where(deliveries.c.sink == sink)
        try:
            rows = self.ledger.read(lambda connection: connection.execute(counted).all())
        except LedgerUnavailable:
            return {}
        return {str(row[0]): int(row[1]) for row in rows}

    def all_delivered(self, count: int, sink: str = "") -> None:
        """Wait until there are `count` deliveries and all are delivered."""
        try:
            eventually(lambda: self.states(sink) == {"delivered": count})
        except AssertionError:
            raise AssertionError(f"{self.states(sink)}, not {count}\n{self.log_of('worker')[-3000:]}") from None

    def runhook(self, *arguments: str, code: int = 0) -> str:
        """`runhook …` as a user types it; its output. Fails when it ends otherwise than with `code`."""
        done = self.call(*arguments)
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def json(self, *arguments: str) -> Any:
        """What `runhook … --json` prints to its standard output."""
        done = self.call(*arguments, "--json")
        assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        return json.loads(done.stdout)


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Callable[..., Deployment]]:
    made: list[Deployment] = []

    def make(redis_url: str, database_url: str = "", *, admin: bool = False, **config: Any) -> Deployment:
        directory = tmp_path / f"deployment-{len(made)}"
        directory.mkdir()
        made.append(
            Deployment(directory, redis_url, database_url or f"sqlite:///{directory / 'data' / 'ledger.db'}", config)
        )
        made[-1].admin_port = free_port() if admin else None
        return made[-1]

    yield make
    for it in made:
        it.end()
        logs = it.log + it.log_of("worker") + it.log_of("clock")
        assert "Traceback" not in logs, logs[-3000:]
