"""A real receiver: `runhook serve` in a process of its own.

receiver_factory   receivers of a test's own, each with its data directory: post to them, stop, kill and restart them
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import httpx2
import pytest

from receiver.domain.signature import HEADER, sign
from tests.servers import warm_python
from tests.servers.process import ServerProcess
from tests.servers.valkey import free_port
from tests.servers.warm_python import Process
from tests.support.command import call_command
from tests.support.paths import ROOT
from tests.support.waiting import PATIENCE, eventually

SECRET = "a-signing-secret"
OLD_SECRET = "the-one-before"
CONFIG: dict[str, Any] = {"sources": {"skyvern": {"secrets": [OLD_SECRET, SECRET]}, "other": {"secrets": ["else"]}}}


def body(number: int = 0, **more: Any) -> bytes:
    """A small run's body; each number is another run."""
    run = {"run_id": f"tsk_{number:06d}", "run_type": "task_v2", "status": "completed", "output": {"n": number}}
    return json.dumps(run | more).encode()


class ReceiverProcess(ServerProcess):
    """One receiver: its port, config and data directory stay the same over restarts."""

    def __init__(self, directory: Path, redis_url: str, config: Mapping[str, Any], port: int | None = None) -> None:
        super().__init__(directory)
        self.data = directory / "data"
        self.port = port or free_port()
        self.admin_port: int | None = None
        """Of 127.0.0.1, for operators; None: it has no such port."""
        self.first = ""
        """Python that the program runs first."""
        self.redis_url = redis_url
        directory.mkdir(parents=True, exist_ok=True)
        self.config = directory / "runhook.yaml"
        self.configure(config)

    def configure(self, config: Mapping[str, Any]) -> None:
        """Write the config file (JSON is YAML)."""
        self.config.write_text(json.dumps({**CONFIG, **config}))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin_url(self) -> str:
        assert self.admin_port is not None, "it has no admin port"
        return f"http://127.0.0.1:{self.admin_port}"

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        ours = {"REDIS_URL": self.redis_url, "RUNHOOK_CONFIG": str(self.config), "RUNHOOK_DATA": str(self.data)}
        return {**kept, **ours, "PYTHONPATH": str(ROOT)}

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`runhook …` with this receiver's settings, to its end, as a process of its own."""
        return warm_python.run(["-m", "receiver.cli", *arguments], env=self.environment)

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The same in this process."""
        return call_command(*arguments, environ=self.environment, directory=ROOT)

    def launch(self) -> Process:
        ports = ["--port", str(self.port), *(["--admin-port", str(self.admin_port)] if self.admin_port else [])]
        program = f"{self.first}\nfrom receiver.cli import main\nmain()"
        return warm_python.start(
            ["-c", program, "serve", *ports], self.directory / "log", env=self.environment, start_new_session=True
        )

    def answers(self) -> bool:
        with contextlib.suppress(httpx2.HTTPError):
            return httpx2.get(f"{self.url}/healthz", timeout=10).status_code == 200
        return False

    def stop(self) -> int:
        """SIGTERM; the exit code. Raises subprocess.TimeoutExpired when it does not end."""
        assert self.process is not None, "the receiver was not started"
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def post(
        self, content: bytes, secret: str = SECRET, path: str = "/webhooks/skyvern", **options: Any
    ) -> httpx2.Response:
        """A webhook, signed with `secret`."""
        headers = {HEADER: sign(content, secret), **options.pop("headers", {})}
        return httpx2.post(self.url + path, content=content, headers=headers, timeout=60, **options)

    def acked(self, *bodies: bytes) -> list[str]:
        """The event ids of webhooks that must all be acked."""
        answers = [self.post(each) for each in bodies]
        assert [answer.status_code for answer in answers] == [202] * len(bodies), answers[-1].text
        return [answer.json()["event_id"] for answer in answers]


@pytest.fixture
def receiver_factory() -> Iterator[Callable[..., ReceiverProcess]]:
    """`receiver_factory(redis_url, start=True, admin=False, **config)`: a receiver, its config with other top-level
    keys. `admin`: with a port for operators."""
    made: list[ReceiverProcess] = []
    folder = Path(tempfile.mkdtemp(prefix="rh-"))  # short: an embedded Valkey's socket lies in it

    def make(redis_url: str, *, start: bool = True, admin: bool = False, **config: Any) -> ReceiverProcess:
        receiver = ReceiverProcess(folder / f"r{len(made)}", redis_url, config)
        receiver.admin_port = free_port() if admin else None
        made.append(receiver)
        return receiver.start() if start else receiver

    yield make
    for receiver in made:
        receiver.kill()
        assert "Traceback" not in receiver.log, receiver.log[-3000:]
    shutil.rmtree(folder, ignore_errors=True)


class Load:
    """Webhooks to a receiver from several threads, each its own body, until the block ends; what each was answered.

    `acked`: the event ids. `statuses`: every other answer. `lost`: requests without an answer. `slowest`: seconds.
    `pause`: seconds that a thread rests after each answer. `more`: members of each body.
    """

    def __init__(
        self,
        receiver: ReceiverProcess,
        threads: int = 4,
        start: int = 0,
        most: int = 100_000,
        pause: float = 0.0,
        **more: Any,
    ) -> None:
        self._pause = pause
        self._more = more
        self.acked: list[str] = []
        self.statuses: list[int] = []
        self.lost = 0
        self.slowest = 0.0
        self._receiver = receiver
        self._numbers = iter(range(start, start + most))
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._post) for _ in range(threads)]

    def _post(self) -> None:
        with httpx2.Client(base_url=self._receiver.url, timeout=60) as client:
            while not self._stop.is_set() and (number := next(self._numbers, None)) is not None:
                content = body(number, **self._more)
                started = time.monotonic()
                try:
                    answer = client.post("/webhooks/skyvern", content=content, headers={HEADER: sign(content, SECRET)})
                except httpx2.HTTPError:
                    self.lost += 1
                    time.sleep(0.02)
                    continue
                self.slowest = max(self.slowest, time.monotonic() - started)
                if answer.status_code == 202:
                    self.acked.append(answer.json()["event_id"])
                else:
                    self.statuses.append(answer.status_code)
                if self._pause:
                    time.sleep(self._pause)

    def more(self, count: int) -> None:
        """Wait until so many more are acked."""
        wanted = len(self.acked) + count
        eventually(lambda: len(self.acked) >= wanted, every=0.01)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
