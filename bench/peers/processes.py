"""Start a peer: one web process and two worker processes, as many as Runhook has (`serve`, `worker`, `clock`)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, Self

import psycopg

from bench.load import SECRET
from bench.system import ROOT, Servers, child, end, get, wait_until
from tests.servers.valkey import free_port

HERE: Final = Path(__file__).resolve().parent
ENVIRONMENTS: Final = ROOT / ".venv-peers"
# Packages of each peer, and of all. Runhook's locks do not include them.
SHARED: Final = ["starlette", "uvicorn", "uvloop", "httptools", "psycopg[binary,pool]", "hiredis"]
PACKAGES: Final[Mapping[str, list[str]]] = {
    "dramatiq": ["dramatiq[redis]>=2.2"],
    "taskiq": ["taskiq>=0.13", "taskiq-redis>=1.2"],
    "arq": ["arq>=0.28"],
    "celery": ["celery[redis]>=5.7", "packaging"],
    "rq": ["rq>=3"],
}
TABLE: Final = "CREATE TABLE results (run_id text PRIMARY KEY, status text, output jsonb)"
QUIET_CELERY: Final = "--loglevel ERROR --without-gossip --without-mingle --without-heartbeat"
# The commands of two worker processes. Each app says which page of the documentation recommends its options.
WORKERS: Final[Mapping[str, list[str]]] = {
    "dramatiq": ["dramatiq dramatiq_app --processes 2 --threads 16"],
    "taskiq": ["taskiq worker taskiq_app:broker --workers 2 --log-level ERROR"],
    "arq": ["arq arq_app.WorkerSettings"] * 2,
    "celery": [f"celery -A celery_app:celery worker -P threads -c 16 -n {n} {QUIET_CELERY}" for n in ("one", "two")],
    "rq": ["rq worker-pool -q -n 2 -w rq.SimpleWorker -u {redis} results"],
}


def programs(name: str) -> Path:
    """Return the folder of a peer's commands. Each has a separate environment: their requirements conflict."""
    return ENVIRONMENTS / name / "bin"


def install(names: Iterable[str]) -> str:
    """Create missing environments with the newest releases. Returns the versions of the peers."""
    found = []
    for name in names:
        folder, done = ENVIRONMENTS / name, ENVIRONMENTS / name / "installed"
        if not done.exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
            pip = [str(programs(name) / "python"), "-m", "pip"]
            subprocess.run([*pip, "install", "-q", *SHARED, *PACKAGES[name]], check=True)
            listed = subprocess.run([*pip, "list", "--format", "freeze"], check=True, stdout=subprocess.PIPE, text=True)
            done.write_text(next(line for line in listed.stdout.split() if line.startswith(f"{name}==")))
        found.append(done.read_text().replace("==", " "))
    return ", ".join(found)


class Peer:
    """The app `name` of `apps/`. `folder`: of its commands."""

    def __init__(self, name: str, servers: Servers, folder: Path | None = None) -> None:
        self.database = servers.database()
        self.port = free_port()
        folder = folder or programs(name)
        self._servers, self._log = servers, servers.folder / f"{name}.log"
        with psycopg.connect(self.database.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute(TABLE)
        self._environ = {
            "PEER_REDIS": servers.valkey.url,
            "PEER_DATABASE": self.database.replace("+psycopg", ""),
            "PEER_SECRET": SECRET,
            "PYTHONPATH": str(HERE / "apps"),
            "PATH": f"{folder}:{os.environ['PATH']}",
        }
        # uvicorn as in Runhook: uvloop and httptools.
        web = ["uvicorn", f"{name}_app:app", "--port", str(self.port), "--no-access-log", "--log-level", "error"]
        web += ["--lifespan", "on", "--loop", "uvloop", "--http", "httptools", "--timeout-keep-alive", "300"]
        workers = [line.format(redis=servers.valkey.url).split() for line in WORKERS[name]]
        self._lines = [[str(folder / line[0]), *line[1:]] for line in (web, *workers)]
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        self._processes = [child(line, self._log, self._environ) for line in self._lines]
        try:
            wait_until(lambda: get(self.port, "/")[0] == 404, self.log)
        except BaseException:
            end(self._processes)
            raise
        return self

    def __exit__(self, *error: object) -> None:
        end(self._processes)

    def pids(self) -> list[int]:
        """Return its processes and its servers."""
        return [*self._servers.pids(), *(each.pid for each in self._processes)]

    def workers(self) -> list[int]:
        """Return the worker processes."""
        return [each.pid for each in self._processes[1:]]

    def log(self) -> str:
        """Return the end of its log."""
        return self._log.read_text()[-1500:]
