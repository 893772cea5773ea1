"""One host: receiver, worker and clock with a data folder of their own, and a network to the servers that fails.

What two hosts share is Valkey and PostgreSQL. A host's clock may be wrong, where libfaketime is installed.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from tests.chaos.program import Program
from tests.servers.network import Link
from tests.servers.postgres import PostgresProcess
from tests.servers.valkey import ValkeyProcess, free_port

PARTS: Final = ("receiver", "worker", "clock")
_FAKETIME: Final = (
    "lib/*/faketime/libfaketimeMT.so.1",
    "lib/*/faketime/libfaketime.so.1",
    "local/lib/faketime/libfaketimeMT.so.1",
)


def faketime() -> str:
    """The path of libfaketime, from LIBFAKETIME or where packages put it; "" when it is not installed."""
    if path := os.environ.get("LIBFAKETIME"):
        return path
    return next((str(found) for pattern in _FAKETIME for found in Path("/usr").glob(pattern)), "")


def skewed(seconds: float) -> dict[str, str]:
    """The environment in which the wall clock is that much ahead. Time-outs go by the monotonic one, which is right."""
    library = faketime()
    if not seconds or not library:
        return {}
    return {"LD_PRELOAD": library, "FAKETIME": f"{seconds:+g}s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


class Host:
    """`config`: makes the config, given a function from a database's name to its URL as this host sees it.

    `sabotage`: see sabotage.py. `ahead`: seconds by which its clock is wrong.
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
    ) -> None:
        self.name = name
        self.port = free_port()
        self.links = {"redis": Link(valkey.port), "postgres": Link(postgres.port)}

        def database(of: str) -> str:
            return postgres.url(of).replace(f":{postgres.port}/", f":{self.links['postgres'].port}/")

        path = folder / f"runhook.{name}.yaml"
        path.write_text(json.dumps(config(database)))  # JSON is YAML
        environment = {
            "REDIS_URL": f"redis://127.0.0.1:{self.links['redis'].port}/0",
            "DATABASE_URL": database(ledger),
            "RUNHOOK_CONFIG": str(path),
            "RUNHOOK_DATA": str(folder / f"data.{name}"),
            **skewed(ahead),
        }
        entry = ["-m", "tests.chaos.sabotage", sabotage] if sabotage else ["-m", "receiver.cli"]
        options = {"receiver": ["serve", "--port", str(self.port)], "worker": ["worker"], "clock": ["clock"]}
        self.programs = {
            part: Program(f"{part}.{name}", folder, [*entry, *options[part]], environment) for part in PARTS
        }

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

    def end(self) -> None:
        """Leave nothing behind."""
        for program in self.programs.values():
            program.kill()
        for link in self.links.values():
            link.close()
