"""Receiver, worker and clock under a soak, with their servers and sinks, and every figure of them that may grow."""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

import redis
import sqlalchemy as sa

from bench.pipeline import ROOT, child
from bench.soak_load import SECRET
from receiver.inbox.stream import STREAM
from receiver.ledger import Ledger, LedgerUnavailable
from receiver.ledger.schema import attempts, deliveries, events
from tests.servers.postgres import PostgresProcess
from tests.servers.valkey import ValkeyProcess, free_port
from tests.support.processes import descendants
from tests.support.waiting import eventually

CONSUMER_SECRET: Final = "whsec_" + "c2VjcmV0IG9mIHRoZSBiaWxsaW5nIHNlcnZpY2U="


class Soak:
    """All processes and servers of one soak."""

    def __init__(self, folder: Path, ledger: str, stack: ExitStack) -> None:
        self.folder = folder
        self.valkey = ValkeyProcess(folder / "valkey").start()
        stack.callback(self.valkey.kill)
        self.postgres = PostgresProcess(folder / "postgres", autovacuum="on", shared_buffers="128MB").start()
        stack.callback(self.postgres.kill)
        results = self.postgres.url(self.postgres.create_database())
        self.results = sa.create_engine(results)
        stack.callback(self.results.dispose)
        postgresql = ledger == "postgresql"
        url = self.postgres.url(self.postgres.create_database()) if postgresql else f"sqlite:///{folder / 'ledger.db'}"
        self.ledger = Ledger(url)
        stack.callback(self.ledger.close)
        self.port, hook = free_port(), free_port()
        self.consumed = folder / "consumed.db"
        line = [sys.executable, "-m", "tests.chaos.consumer", str(self.consumed), CONSUMER_SECRET, "1", f"hook={hook}"]
        self._consumer = subprocess.Popen(line, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        stack.callback(self._consumer.kill)
        assert self._consumer.stdin is not None
        assert self._consumer.stdout is not None
        self._consumer.stdout.readline()
        self._consumer.stdin.write(b"hook flaky\n")
        self._consumer.stdin.flush()
        config = {
            "sources": {"skyvern": {"secrets": [SECRET]}},
            "sinks": {
                "results": {"type": "database", "url": results, "table": "results"},
                "hook": {
                    "type": "http", "url": f"http://127.0.0.1:{hook}/", "secret": CONSUMER_SECRET, "concurrency": 32,
                    "retry": {"first": "200ms"},
                },
                "archive": {"type": "files", "path": str(folder / "archive"), "concurrency": 8},
            },
            "routes": [
                {"name": "everything", "to": ["results"]},
                {"name": "failed", "when": {"status": ["failed"]}, "to": ["hook"]},
                {"name": "terminated", "when": {"status": ["terminated"]}, "to": ["archive"]},
            ],
            "allowed_addresses": ["127.0.0.1"],
        }  # fmt: skip
        (folder / "runhook.yaml").write_text(json.dumps(config))
        self.data = folder / "data"
        environ = {
            "REDIS_URL": self.valkey.url,
            "DATABASE_URL": url,
            "RUNHOOK_CONFIG": str(folder / "runhook.yaml"),
            "RUNHOOK_DATA": str(self.data),
        }
        program = [sys.executable, "-m", "receiver.cli"]
        self.parts = {
            part: child([*program, part, *options], environ, folder / f"{part}.log")
            for part, options in {"serve": ["--port", str(self.port)], "worker": [], "clock": []}.items()
        }
        stack.callback(self._end)
        eventually(self._answers, what=self.log)

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        return False

    def _end(self) -> None:
        for part in self.parts.values():
            part.send_signal(signal.SIGTERM)
        for part in self.parts.values():
            with suppress(subprocess.TimeoutExpired):
                part.wait(60)
            part.kill()

    def log(self) -> str:
        """The last lines of each part's log."""
        return "\n".join((self.folder / f"{part}.log").read_text()[-1500:] for part in self.parts)

    def worker_child(self, name: str) -> int:
        """The process of the worker in whose name a word is, once there is one."""

        def found() -> int | None:
            below = descendants(self.parts["worker"].pid)
            return next((pid for pid in below if name in self._unit(pid)), None)

        pid = eventually(found, what=self.log)
        assert pid is not None
        return pid

    def _unit(self, pid: int) -> str:
        """What a child of the worker does, by the lock files that it holds."""
        targets = []
        with suppress(OSError):
            for path in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):
                    targets.append(str(path.readlink()))
        folder = str(self.data / "workers")
        names = {Path(each).name.partition("@")[0].removeprefix("deliver:") for each in targets if folder in each}
        return "+".join(sorted(names)) or "child"

    # What it looks at

    def processes(self) -> Iterator[tuple[str, int]]:
        """All our processes, and those of the servers together, with their names."""
        for part, process in self.parts.items():
            yield part, process.pid
        for pid in sorted(descendants(self.parts["worker"].pid)):
            yield self._unit(pid), pid
        for pid in sorted(descendants(self.postgres.pid)):
            yield "PostgreSQL", pid

    def look(self) -> dict[str, float]:
        """All figures, by name."""
        found: dict[str, float] = {}
        sessions: list[float] = []
        for name, pid in self.processes():
            with suppress(OSError):
                of_process = _process(pid)
                # Of PostgreSQL, private is also what its processes share and only one of them has touched.
                anonymous = of_process.pop("anonymous MB")
                if name == "PostgreSQL":
                    sessions.append(anonymous)
                else:
                    found |= {f"{name}: {what}": value for what, value in of_process.items()}
        found |= {"PostgreSQL: sessions": len(sessions), "PostgreSQL: private MB": sum(sessions)}
        with suppress(redis.RedisError):
            found |= {f"Redis: {what}": value for what, value in self._redis().items()}
        with suppress(LedgerUnavailable):
            found |= {f"ledger: {what}": value for what, value in self.ledger.read(_ledger).items()}
        for name in ("data", "data/workers", "data/spool"):
            files = [path for path in (self.folder / name).rglob("*") if path.is_file()]
            found[f"{name}: files"] = len(files)
            found[f"{name}: kB"] = sum(_size(path) for path in files) / 1e3
        for path in self.folder.glob("*.log"):
            found[f"{path.name}: kB"] = _size(path) / 1e3
        for path in self.folder.glob("ledger.db*"):
            found[f"{path.name}: MB"] = _size(path) / 1e6
        wal = self.folder / "postgres" / "data" / "pg_wal"
        found["PostgreSQL: WAL MB"] = sum(_size(path) for path in wal.iterdir()) / 1e6
        return found

    def _redis(self) -> dict[str, float]:
        with self.valkey.connect() as client:
            info: Any = client.info()
            groups: Any = client.xinfo_groups(STREAM) if client.exists(STREAM) else []
            consumers: Any = [one for each in groups for one in client.xinfo_consumers(STREAM, each["name"])]
            return {
                "MB": info["used_memory"] / 1e6,
                "RSS MB": info["used_memory_rss"] / 1e6,
                "clients": info["connected_clients"],
                "AOF MB": info["aof_current_size"] / 1e6,
                "keys": client.dbsize(),
                "stream": client.xlen(STREAM),
                "pending": sum(each["pending"] for each in groups),
                "consumers": len(consumers),
            }

    def keys(self) -> Counter[str]:
        """How many keys of each kind are in Redis, ids left out, and whether they expire."""
        with self.valkey.connect() as client:
            found: Counter[str] = Counter()
            for key in client.scan_iter(count=1000):
                kind = re.sub(r"@.*|[0-9a-f-]{16,}", "…", key.decode(errors="replace"))
                found[f"{kind}{'' if client.ttl(key) < 0 else ' (expires)'}"] += 1
            return found

    def recorded(self) -> dict[str, int]:
        """How many events the ledger has, by disposition."""
        return self._counted(events.c.disposition)

    def states(self) -> dict[str, int]:
        """How many deliveries are in each state."""
        return self._counted(deliveries.c.state)

    def attempts(self) -> dict[str, int]:
        """How many attempts have ended in each way."""
        return self._counted(attempts.c.outcome)

    def _counted(self, column: sa.Column[Any]) -> dict[str, int]:
        query = sa.select(column, sa.func.count()).group_by(column)
        return {str(value): count for value, count in self.ledger.read(lambda at: at.execute(query).all())}


def _process(pid: int) -> dict[str, float]:
    """What the system says of a process. Raises OSError when it has ended."""
    proc = Path(f"/proc/{pid}")
    memory = dict(re.findall(r"^(\w+):\s+(\d+) kB", (proc / "smaps_rollup").read_text(), re.MULTILINE))
    kinds: Counter[str] = Counter()
    for path in (proc / "fd").iterdir():
        with suppress(OSError):
            target = str(path.readlink())
            kinds["memfd" if "memfd" in target else target.partition(":")[0] if ":[" in target else "file"] += 1
    return {
        "PSS MB": int(memory["Pss"]) / 1024,
        "private MB": (int(memory["Private_Dirty"]) + int(memory["Private_Clean"])) / 1024,
        "anonymous MB": int(memory["Anonymous"]) / 1024,
        "threads": len(list((proc / "task").iterdir())),
        **{f"open {kind}s": count for kind, count in kinds.items()},
    }


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0


def _ledger(connection: Any) -> dict[str, float]:
    """How many rows the ledger has, and how many deliveries are open."""
    open_ones = sa.select(deliveries.c.state, sa.func.count()).where(deliveries.c.state.not_in(["delivered", "dead"]))
    counted = {f"deliveries {state}": count for state, count in connection.execute(open_ones.group_by("state"))}
    texts = connection.exec_driver_sql("SELECT count(*) FROM run_texts").scalar_one()
    return {"deliveries sending": 0, "deliveries waiting": 0, "deliveries queued": 0, **counted, "run_texts": texts}
