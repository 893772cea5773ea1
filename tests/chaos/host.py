"""One host: receiver, worker and clock with a data folder of their own, and a network to the servers that fails.

What two hosts share is Valkey and PostgreSQL. A host's clock may be wrong.
"""

from __future__ import annotations

import json
import math
import re
import socket
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from tests.chaos.program import Program
from tests.servers.network import Link
from tests.servers.postgres import PostgresProcess
from tests.servers.valkey import ValkeyProcess, free_port

PARTS: Final = ("receiver", "worker", "clock")
# Python that a process of a host runs first whose clock is wrong. Time-outs go by the monotonic clock, which is right.
# (libfaketime 0.9.10 does it for C as well, but with FAKETIME_DONT_FAKE_MONOTONIC its pthread_cond_timedwait returns at
# once: threads that wait for Python's GIL spin, and a receiver answers seconds late. With a wrong monotonic clock, too,
# it answers in time.)
_AHEAD: Final = """
import runpy, sys, time
true_time = time.time
time.time = lambda: true_time() + {seconds}
runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
"""

# A receiver's line about where events go: the time, and what became of it.
_SPOOL: Final = re.compile(r"^(\S+Z) \w+ \S+ ingest\.(redis_away|spool_drained)\b", re.MULTILINE)


def spans_without_redis(log: str) -> Iterator[tuple[float, float]]:
    """Yield from when until when a receiver kept events in its spool, as its log says (seconds since the epoch)."""
    since = math.inf
    for text, what in _SPOOL.findall(log):
        at = datetime.fromisoformat(text).timestamp()
        if what == "redis_away":
            since = min(since, at)
        elif since < math.inf:
            yield since, at
            since = math.inf
    if since < math.inf:
        yield since, math.inf


def command(seconds: float, module: str) -> list[str]:
    """Python's arguments by which `module` runs with the wall clock that much ahead."""
    return ["-c", _AHEAD.format(seconds=seconds, module=module)] if seconds else ["-m", module]


class Host:
    """`config`: makes the config, given a function from a database's name to its URL as this host sees it.

    `sabotage`: see sabotage.py. `ahead`: seconds by which its clock is wrong. `linked`: the servers that it
    reaches by a network which may fail; the others it reaches as they are.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        valkey: ValkeyProcess,
        postgres: PostgresProcess,
        config: Callable[[Callable[[str], str]], Mapping[str, Any]],
        *,
        ledger: str,
        sabotage: str = "",
        ahead: float = 0.0,
        linked: Collection[str] = (),
    ) -> None:
        self.name = name
        self._ahead = ahead
        self.port, self.admin_port = free_port(), free_port()
        ports = {"redis": valkey.port, "postgres": postgres.port}
        self.links = {server: Link(ports[server]) for server in linked}
        ports |= {server: link.port for server, link in self.links.items()}

        def database(of: str) -> str:
            return postgres.url(of).replace(f":{postgres.port}/", f":{ports['postgres']}/")

        entry = command(ahead, "tests.chaos.sabotage" if sabotage else "receiver.cli")
        entry += [sabotage] if sabotage else []
        self.data = folder / f"data.{name}"
        path = folder / f"runhook.{name}.yaml"
        path.write_text(json.dumps(config(database)))  # JSON is YAML
        environment = {
            "REDIS_URL": f"redis://127.0.0.1:{ports['redis']}/0",
            "DATABASE_URL": database(ledger),
            "RUNHOOK_CONFIG": str(path),
            "RUNHOOK_DATA": str(self.data),
        }
        options = {
            "receiver": ["serve", "--port", str(self.port), "--admin-port", str(self.admin_port)],
            "worker": ["worker"],
            "clock": ["clock"],
        }
        self.programs = {
            part: Program(f"{part}.{name}", folder, [*entry, *options[part]], environment) for part in PARTS
        }

    def without_redis(self) -> list[tuple[float, float]]:
        """From when until when the receiver kept events in its spool, by the right clock."""
        log = self.programs["receiver"].log.read_text()
        return [(since - self._ahead, until - self._ahead) for since, until in spans_without_redis(log)]

    def answers(self) -> bool:
        """Whether the receiver says that it could keep an event now."""
        return self.get("/readyz")[:12] == "HTTP/1.1 200"

    def get(self, path: str, port: int | None = None) -> str:
        """The receiver's whole answer, or "" when it gives none. `port`: another than that for webhooks."""
        try:
            with socket.create_connection(("127.0.0.1", port or self.port), 2) as connection:
                connection.settimeout(5)
                connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
                pieces = []
                while piece := connection.recv(1 << 16):
                    pieces.append(piece)
                return b"".join(pieces).decode()
        except OSError:
            return ""

    def end(self) -> None:
        """Leave nothing behind."""
        for program in self.programs.values():
            program.kill()
        for link in self.links.values():
            link.close()
