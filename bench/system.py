"""Start Runhook as in production, with dedicated servers, and count the CPU that it uses."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from bench.load import PATIENCE, SECRET
from tests.servers.postgres import PostgresProcess
from tests.servers.valkey import ValkeyProcess, free_port
from tests.support.processes import descendants, launch

ROOT: Final = Path(__file__).resolve().parent.parent
RUNHOOK: Final = [sys.executable, "-m", "receiver.cli"]
# PostgreSQL's defaults, with fsync. The test helpers use weaker settings.
POSTGRES: Final[dict[str, Any]] = {"shared_buffers": "128MB", "autovacuum": "on", "max_connections": "100"}
KEY: Final = "bench-skyvern-key"


@dataclass(frozen=True, slots=True)
class Servers:
    """A Valkey that syncs each write to disk, and a PostgreSQL, in `folder`."""

    folder: Path
    valkey: ValkeyProcess
    postgres: PostgresProcess

    def database(self) -> str:
        """Return the URL of a new, empty database."""
        return self.postgres.url(self.postgres.create_database())

    def pids(self) -> list[int]:
        """Return their processes."""
        return [self.valkey.pid, self.postgres.pid]


@contextlib.contextmanager
def new_servers() -> Iterator[Servers]:
    """Run servers in a new folder, and remove both at the end."""
    with new_folder() as folder, contextlib.ExitStack() as stack:
        valkey = ValkeyProcess(folder / "valkey").start()
        stack.callback(valkey.kill)
        postgres = PostgresProcess(folder / "postgres", **POSTGRES).start()
        stack.callback(postgres.kill)
        yield Servers(folder, valkey, postgres)


@contextlib.contextmanager
def new_folder() -> Iterator[Path]:
    """Make a temporary folder that other users can enter: PostgreSQL may run as another user."""
    with tempfile.TemporaryDirectory(prefix="runhook-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def child(command: Sequence[str], log: Path, environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a process that ends with this one. Its compiled modules are kept."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return launch(command, log, env={**inherited, **environ}, cwd=ROOT)


def end(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    """Stop processes with SIGTERM; kill them after a timeout."""
    several = list(processes)
    for each in several:
        each.send_signal(signal.SIGTERM)
    for each in several:
        below = descendants(each.pid)
        try:
            each.wait(15)
        except subprocess.TimeoutExpired:
            each.kill()
            each.wait()
            for pid in below:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def wait_until(check: Callable[[], bool], what: Callable[[], str], every: float = 0.02) -> None:
    """Wait for a state. Raises SystemExit with `what` after PATIENCE seconds."""
    deadline = time.monotonic() + PATIENCE
    while not check():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {PATIENCE:.0f} s: {what()}")
        time.sleep(every)


def get(port: int, path: str, headers: Mapping[str, str] = {}) -> tuple[int, bytes]:
    """Return status and body of a GET; status 0 while no server listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    with contextlib.closing(connection):
        try:
            connection.request("GET", path, headers=dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.read()
        except OSError:
            return 0, b""


def cpu(roots: Iterable[int]) -> float:
    """Return the CPU seconds used by processes and their descendants."""
    pids = {pid for root in roots for pid in (root, *descendants(root))}
    used = 0
    for pid in pids:
        with contextlib.suppress(OSError):  # it has ended
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            used += int(fields[11]) + int(fields[12])
    return used / os.sysconf("SC_CLK_TCK")


class Runhook:
    """`runhook serve`, `worker` and `clock`. `sinks`, `config`: as in the config file; one route sends every event to
    every sink.

    `ledger`: an SQLAlchemy URL, a new SQLite file when empty. `parts`: which processes run.
    """

    def __init__(
        self,
        servers: Servers,
        sinks: Mapping[str, Any],
        *,
        ledger: str = "",
        parts: Sequence[str] = ("serve", "worker", "clock"),
        **config: Any,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="runhook-", dir=servers.folder))
        self.port = free_port()
        self._servers, self._parts = servers, parts
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        routes = [{"name": "everything", "to": list(sinks)}] if sinks else []
        source = {"secrets": [SECRET], **config.pop("source", {})}
        self._file = self.folder / "runhook.yaml"
        self._file.write_text(
            json.dumps(
                {
                    "sources": {"skyvern": source},
                    "sinks": dict(sinks),
                    "routes": routes,
                    "allowed_addresses": ["127.0.0.1"],
                    "inbox": {"max_events": 10_000_000, "max_bytes": "16GiB"},
                    **config,
                }
            )
        )
        self.environ = {
            "REDIS_URL": servers.valkey.url,
            "DATABASE_URL": ledger or f"sqlite:///{self.folder / 'ledger.db'}",
            "RUNHOOK_CONFIG": str(self._file),
            "RUNHOOK_DATA": str(self.folder / "data"),
            "RUNHOOK_SECRET": "bench-master-secret-of-32-characters",
            "PUBLIC_URL": f"http://127.0.0.1:{self.port}",
        }

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """Start the processes without waiting for them; stop them at the end of the block."""
        for part in self._parts:
            options = ["--port", str(self.port)] if part == "serve" else []
            log = self.folder / f"{part}.log"
            self._processes[part] = child([*RUNHOOK, part, *options], log, self.environ)
        try:
            yield
        finally:
            end(self._processes.values())

    def __enter__(self) -> Self:
        self._running = self.starting()
        self._running.__enter__()
        try:
            wait_until(self._is_ready, self.log)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._running.__exit__(None, None, None)

    def _is_ready(self) -> bool:
        if any(each.poll() is not None for each in self._processes.values()):
            raise SystemExit(f"a process ended:\n{self.log()}")
        return get(self.port, "/readyz")[0] == 200

    def pids(self) -> list[int]:
        """Return its processes and its servers."""
        return [*self._servers.pids(), *(each.pid for each in self._processes.values())]

    def workers(self) -> list[int]:
        """Return the process of the worker."""
        return [self.pid("worker")]

    def pid(self, part: str) -> int:
        """Return the process of `serve`, `worker` or `clock`."""
        return self._processes[part].pid

    def log(self) -> str:
        """Return the end of each log."""
        return "\n".join(path.read_text()[-1500:] for path in self.folder.glob("*.log"))

    def command(self, *arguments: str) -> Any:
        """Run `runhook … --json`, and return what it prints."""
        environ = {**os.environ, **self.environ}
        line = [*RUNHOOK, *arguments, "--json"]
        done = subprocess.run(line, env=environ, cwd=ROOT, capture_output=True, timeout=PATIENCE, check=True)
        return json.loads(done.stdout)
