"""The quarantine: the latest requests that failed the signature check, to be replayed when the secret was wrong.

Files in one directory, bounded in number and bytes: the oldest are dropped. Strangers write here: so the rate is
bounded as well, the answer never waits for it, and what is over the limits is dropped and counted. Never in the ledger.

    quarantine/<event id>.req    a line of JSON about the request, then its body
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from receiver.domain.event import Event, event_id
from receiver.domain.signature import verify
from receiver.ingest.spool import free_bytes
from receiver.runtime.throttle import TokenBucket
from receiver.telemetry.receiver import ReceiverMetrics

# Requests a second that are kept, after a burst of ten times as many.
RATE: Final = 20.0
# Bytes a second that are kept, after a burst of ten times as many (or one body of the largest size).
BYTES_RATE: Final = 4 << 20
_WAITING: Final = 64  # requests that wait to be written
_RELOAD_EVERY: Final = 10.0  # seconds after which the directory is read again, for other processes' files

log = logging.getLogger("runhook.ingest")


@dataclass(frozen=True, slots=True)
class QuarantinedRequest:
    """One request in quarantine. `id`: what its event id would be. `size`: bytes of the body. `at`: epoch seconds."""

    id: str
    source: str
    signature: str
    submission_id: str
    at: float
    size: int

    @classmethod
    def of(cls, source: str, signature: str, body: bytes, submission_id: str, at: float) -> QuarantinedRequest:
        """Return the request with `body`. A signature is cut to the length of a true one."""
        return cls(event_id(source, body), source, signature[:64], submission_id, at, len(body))

    def verdict(self, body: bytes, secrets: Sequence[str] | None) -> str:
        """Check with the present `secrets`: "authentic", "bad_signature", or "unknown_source" for None."""
        if secrets is None:
            return "unknown_source"
        return "authentic" if verify(body, self.signature, secrets) else "bad_signature"

    def event(self, body: bytes) -> Event:
        """Return the request's event, once it has been found authentic."""
        return Event(self.id, self.source, body, self.at, "webhook", self.submission_id)


class Quarantine:
    """The store. Used by one thread at a time; several processes may share the directory.

    `reserve_bytes`: free disk space that is left alone.
    """

    def __init__(self, directory: Path, max_count: int, max_bytes: int, reserve_bytes: int = 0) -> None:
        self._directory = directory
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._reserve_bytes = reserve_bytes
        self._sizes: dict[str, int] = {}  # by file name, the oldest first
        self._loaded_at = float("-inf")

    def add(self, refused: QuarantinedRequest, body: bytes) -> int:
        """Keep a request, and drop the oldest ones if need be. Returns how many were dropped. Raises OSError."""
        about = {"source": refused.source, "signature": refused.signature, "at": refused.at}
        line = json.dumps({**about, "sub": refused.submission_id, "size": refused.size}).encode() + b"\n"
        size = len(line) + len(body)
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._load()
        if not self._max_count or size > self._max_bytes or free_bytes(self._directory) - size < self._reserve_bytes:
            return 1
        name = f"{refused.id}.req"
        self._sizes.pop(name, None)
        dropped = self._make_room(size)
        fresh = self._directory / f"{refused.id}.{os.getpid()}.new"
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(line)
            file.write(body)
            file.flush()
            os.fdatasync(handle)
        fresh.replace(self._directory / name)
        self._sizes[name] = size
        return dropped

    def _make_room(self, size: int) -> int:
        dropped, total = 0, sum(self._sizes.values())
        while self._sizes and (len(self._sizes) >= self._max_count or total + size > self._max_bytes):
            name = next(iter(self._sizes))
            total -= self._sizes.pop(name)
            (self._directory / name).unlink(missing_ok=True)
            dropped += 1
        return dropped

    def _load(self) -> None:
        """Read the directory, which other processes change as well."""
        now = time.monotonic()
        if now - self._loaded_at < _RELOAD_EVERY:
            return
        self._loaded_at = now
        found = []
        with os.scandir(self._directory) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    stat = entry.stat()
                    if entry.name.endswith(".req"):
                        found.append((stat.st_mtime_ns, entry.name, stat.st_size))
                    elif entry.name.endswith(".new") and time.time() - stat.st_mtime > 60:
                        (self._directory / entry.name).unlink()  # its writer was killed
        self._sizes = {name: size for _, name, size in sorted(found)}

    def usage(self) -> tuple[int, int]:
        """Return (requests, bytes) kept, when the directory was last read."""
        return len(self._sizes), sum(self._sizes.values())

    def list(self) -> list[QuarantinedRequest]:
        """Return the kept requests, the oldest first. Other files are skipped; without a directory there are none."""
        found = []
        for path in self._directory.glob("evt_*.req"):
            with suppress(OSError, ValueError, KeyError, TypeError), path.open("rb") as file:
                about = json.loads(file.readline(4096))
                found.append(
                    QuarantinedRequest(
                        path.stem, about["source"], about["signature"], about["sub"], about["at"], int(about["size"])
                    )
                )
        return sorted(found, key=lambda refused: refused.at)

    def body(self, refused: QuarantinedRequest) -> bytes:
        """Return the body of a kept request. Raises FileNotFoundError when it was dropped meanwhile."""
        with (self._directory / f"{refused.id}.req").open("rb") as file:
            file.readline()
            return file.read()

    def remove(self, refused: Iterable[QuarantinedRequest]) -> None:
        """Drop requests. Raises OSError."""
        for each in refused:
            self._sizes.pop(f"{each.id}.req", None)
            (self._directory / f"{each.id}.req").unlink(missing_ok=True)


class QuarantineWriter:
    """Keeps refused requests in the background of one event loop. `offer` returns at once and never fails."""

    def __init__(self, store: Quarantine, metrics: ReceiverMetrics, largest: int) -> None:
        self._store = store
        self._metrics = metrics
        self._requests = TokenBucket(RATE, RATE * 10)
        self._bytes = TokenBucket(BYTES_RATE, max(BYTES_RATE * 10, largest))
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="quarantine")
        self._waiting: set[asyncio.Future[Any]] = set()

    def offer(self, source: str, signature: str, body: bytes, submission_id: str, at: float) -> None:
        """Keep a request that failed the check, if the rate allows it."""
        now = time.monotonic()
        allowed = len(self._waiting) < _WAITING and self._requests.take(1, now) and self._bytes.take(len(body), now)
        if not allowed:
            self._metrics.quarantine_dropped += 1
            return
        loop = asyncio.get_running_loop()
        task = loop.run_in_executor(self._disk, self._keep, source, signature, body, submission_id, at)
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    def _keep(self, source: str, signature: str, body: bytes, submission_id: str, at: float) -> None:
        try:
            dropped = self._store.add(QuarantinedRequest.of(source, signature, body, submission_id, at), body)
        except OSError as error:
            log.error("quarantine.not_kept reason=%s", error.strerror)
            dropped = 1
        self._metrics.quarantine_dropped += dropped
        self._metrics.quarantine_count, self._metrics.quarantine_bytes = self._store.usage()

    async def close(self) -> None:
        """Write what was offered, and close."""
        if self._waiting:
            await asyncio.wait(self._waiting)
        self._disk.shutdown()
