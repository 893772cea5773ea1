"""The quarantine: requests that failed the signature check, to be replayed when the secret was wrong.

Files in one directory, bounded in number and bytes. Strangers write here, so what a wrong secret put there must outlast
their noise: a request without a signature of the right form is not kept, one whose body names no run has the smaller
part of the room and gives way to runs, and each kind has a rate of its own. When runs are too many, the newer half of
them gives way, the oldest first: the older half stays for some days. The answer never waits for any of it, and what is
over the limits is dropped and counted. Never in the ledger.

    quarantine/<event id>-<hash of the signature>.req            a line of JSON about the request, then its body
    quarantine/<event id>-<hash of the signature>.other.req      the same, where the body names no run
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from handlers.support.private_file import make_private_folder
from receiver.domain.event import Event, event_id
from receiver.domain.run import scan_run_id
from receiver.domain.signature import verify
from receiver.ingest.spool import free_bytes
from receiver.runtime.throttle import TokenBucket
from receiver.telemetry.receiver import ReceiverMetrics

# Requests a second of one kind that are kept, after a burst of ten times as many.
RATE: Final = 20.0
# Bytes a second that are kept, after a burst of ten times as many (or one body of the largest size).
BYTES_RATE: Final = 4 << 20
_WAITING: Final = 64  # requests of one kind that wait to be written
# The part of the room that requests without a run have at most: one in so many.
OTHERS_PART: Final = 4
# Seconds for which the older half of the runs gives way to nothing.
STAYS_FOR: Final = 3 * 86400.0
_BEGINNING: Final = 4096  # bytes in which a run's id is looked for
_SIGNATURE: Final = re.compile(r"[0-9a-fA-F]{64}")
_OTHER: Final = ".other.req"
_RELOAD_EVERY: Final = 10.0  # seconds after which the directory is read again, for other processes' files
CLOSE_TIMEOUT: Final = 2.0  # seconds that `close` waits for what is to be written

log = logging.getLogger("runhook.ingest")


class QuarantinedRequest(NamedTuple):
    """One request in quarantine. `id`: what its event id would be. `size`: bytes of the body. `at`: epoch seconds.

    `is_run`: whether its body names a run. `file`: its name in the directory: of body and signature, so that the same
    body with another signature takes nothing's place.
    """

    id: str
    source: str
    signature: str
    submission_id: str
    at: float
    size: int
    is_run: bool
    file: str

    @classmethod
    def of(cls, source: str, signature: str, body: bytes, submission_id: str, at: float) -> QuarantinedRequest:
        """Return the request with `body`. A signature is cut to the length of a true one."""
        name, is_run = event_id(source, body), names_run(body)
        digest = hashlib.sha256(signature.encode(errors="replace")).hexdigest()[:16]
        file = f"{name}-{digest}" + (".req" if is_run else _OTHER)
        return cls(name, source, signature[:64], submission_id, at, len(body), is_run, file)

    def verdict(self, body: bytes, secrets: Sequence[str] | None) -> str:
        """Check with the present `secrets`: "authentic", "bad_signature", or "unknown_source" for None."""
        if secrets is None:
            return "unknown_source"
        return "authentic" if verify(body, self.signature, secrets) else "bad_signature"

    def event(self, body: bytes) -> Event:
        """Return the request's event, once it has been found authentic."""
        return Event(self.id, self.source, body, self.at, "webhook", self.submission_id)


class Kept(NamedTuple):
    """What is known of a file: bytes, when it was written (epoch seconds), and whether its body names a run."""

    size: int
    at: float
    is_run: bool


class Quarantine:
    """The store. Used by one thread at a time; several processes may share the directory.

    `reserve_bytes`: free disk space that is left alone.
    """

    def __init__(self, directory: Path, max_count: int, max_bytes: int, reserve_bytes: int = 0) -> None:
        self._directory = directory
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._reserve_bytes = reserve_bytes
        self._kept: dict[str, Kept] = {}  # by file name, the oldest first
        self._loaded_at = float("-inf")

    def add(self, refused: QuarantinedRequest, body: bytes) -> int:
        """Keep a request, and drop others if need be. Returns how many were dropped, itself too. Raises OSError."""
        about = {"source": refused.source, "signature": refused.signature, "at": refused.at}
        line = json.dumps({**about, "sub": refused.submission_id, "size": refused.size}).encode() + b"\n"
        new = Kept(len(line) + len(body), time.time(), refused.is_run)
        make_private_folder(self._directory)
        self._load()
        if refused.file in self._kept and (self._directory / refused.file).exists():
            return 0  # the sender has tried again
        dropped = giving_way(self._kept, new, self._max_count, self._max_bytes)
        if dropped is None or free_bytes(self._directory) - new.size < self._reserve_bytes:
            return 1
        for name in dropped:
            self._drop(name)
        fresh = self._directory / f"{refused.file}.{os.getpid()}.new"
        fresh.unlink(missing_ok=True)
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(line)
            file.write(body)
            file.flush()
            os.fdatasync(handle)
        fresh.replace(self._directory / refused.file)
        self._kept[refused.file] = new
        return len(dropped)

    def _drop(self, name: str) -> None:
        self._kept.pop(name, None)
        (self._directory / name).unlink(missing_ok=True)

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
                        kept = Kept(stat.st_size, stat.st_mtime, not entry.name.endswith(_OTHER))
                        found.append((stat.st_mtime_ns, entry.name, kept))
                    elif entry.name.endswith(".new") and time.time() - stat.st_mtime > 60:
                        (self._directory / entry.name).unlink()  # its writer was killed
        self._kept = {name: kept for _, name, kept in sorted(found, key=lambda each: each[:2])}

    def usage(self) -> tuple[int, int]:
        """Return (requests, bytes) kept, when the directory was last read."""
        return len(self._kept), sum(kept.size for kept in self._kept.values())

    def list(self) -> list[QuarantinedRequest]:
        """Return the kept requests, the oldest first. Other files are skipped; without a directory there are none."""
        found = []
        for path in self._directory.glob("evt_*.req"):
            with suppress(OSError, ValueError, KeyError, TypeError), path.open("rb") as file:
                about = json.loads(file.readline(4096))
                texts = about["source"], about["signature"], about["sub"]
                name = path.name.partition(".")[0].partition("-")[0]
                is_run = not path.name.endswith(_OTHER)
                found.append(QuarantinedRequest(name, *texts, about["at"], int(about["size"]), is_run, path.name))
        return sorted(found, key=lambda refused: refused.at)

    def body(self, refused: QuarantinedRequest) -> bytes:
        """Return the body of a kept request. Raises FileNotFoundError when it was dropped meanwhile."""
        with (self._directory / refused.file).open("rb") as file:
            file.readline()
            return file.read()

    def remove(self, refused: Iterable[QuarantinedRequest]) -> None:
        """Drop requests. Raises OSError."""
        for each in refused:
            self._drop(each.file)


class QuarantineWriter:
    """Keeps refused requests in the background of one event loop. `offer` returns at once and never fails."""

    def __init__(self, store: Quarantine, metrics: ReceiverMetrics, largest: int) -> None:
        self._store = store
        self._metrics = metrics
        self._allowances = {is_run: _Allowance(largest) for is_run in (True, False)}
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="quarantine")

    def offer(self, source: str, signature: str, body: bytes, submission_id: str, at: float) -> None:
        """Keep a request that failed the check, if the rate allows it; nothing without a signature of the right form,
        which no secret could ever fit."""
        if not _SIGNATURE.fullmatch(signature):
            return
        allowance = self._allowances[names_run(body)]
        if not allowance.take(len(body), time.monotonic()):
            self._metrics.quarantine_dropped += 1
            return
        loop = asyncio.get_running_loop()
        task = loop.run_in_executor(self._disk, self._keep, source, signature, body, submission_id, at)
        allowance.waiting.add(task)
        task.add_done_callback(allowance.waiting.discard)

    def _keep(self, source: str, signature: str, body: bytes, submission_id: str, at: float) -> None:
        try:
            dropped = self._store.add(QuarantinedRequest.of(source, signature, body, submission_id, at), body)
        except OSError as error:
            log.error("quarantine.not_kept reason=%s", error.strerror)
            dropped = 1
        self._metrics.quarantine_dropped += dropped
        self._metrics.quarantine_count, self._metrics.quarantine_bytes = self._store.usage()

    async def close(self) -> None:
        """Write what was offered, unless the disk hangs, and close."""
        waiting = [task for allowance in self._allowances.values() for task in allowance.waiting]
        if waiting:
            _, left = await asyncio.wait(waiting, timeout=CLOSE_TIMEOUT)
            if left:
                log.error("quarantine.disk_hangs requests=%d: the receiver stops without them", len(left))
        self._disk.shutdown(wait=False, cancel_futures=True)


class _Allowance:
    """How many requests of one kind, and how many of their bytes, may be written. `waiting`: those that are to be."""

    def __init__(self, largest: int) -> None:
        self._requests = TokenBucket(RATE, RATE * 10)
        self._bytes = TokenBucket(BYTES_RATE, max(BYTES_RATE * 10, largest))
        self.waiting: set[asyncio.Future[Any]] = set()

    def take(self, size: int, now: float) -> bool:
        """Take one request of `size` bytes at `now` (monotonic seconds). False when there is no allowance left."""
        return len(self.waiting) < _WAITING and self._requests.take(1, now) and self._bytes.take(size, now)


def names_run(body: bytes) -> bool:
    """Whether a run's id stands where Skyvern writes it. A body of any size takes the same time."""
    return bool(scan_run_id(body[:_BEGINNING]))


def giving_way(kept: Mapping[str, Kept], new: Kept, max_count: int, max_bytes: int) -> list[str] | None:
    """Return the files that give way to `new`, by name; None when it must not be kept. `kept`: the oldest first.

    Takes time in proportion to how many are kept, however many of them must go.
    """
    everything, others = _Room(max_count, max_bytes), _Room(max_count // OTHERS_PART, max_bytes // OTHERS_PART)
    for each in (*kept.values(), new):
        everything.add(each)
        if not each.is_run:
            others.add(each)
    candidates = [name for name, each in kept.items() if not each.is_run]
    candidates += _loose_runs(kept, new.at, max_count, max_bytes) if new.is_run else []
    dropped: list[str] = []

    def fits() -> bool:
        return everything.is_enough() and (new.is_run or others.is_enough())

    for name in candidates:
        if fits():
            break
        dropped.append(name)
        everything.remove(kept[name])
        if not kept[name].is_run:
            others.remove(kept[name])
    return dropped if fits() else None


class _Room:
    """What is kept, against how much of it there may be."""

    def __init__(self, max_count: int, max_bytes: int) -> None:
        self._left = max_count
        self._bytes_left = max_bytes

    def add(self, each: Kept) -> None:
        self._left -= 1
        self._bytes_left -= each.size

    def remove(self, each: Kept) -> None:
        self._left += 1
        self._bytes_left += each.size

    def is_enough(self) -> bool:
        return self._left >= 0 and self._bytes_left >= 0


def _loose_runs(kept: Mapping[str, Kept], now: float, max_count: int, max_bytes: int) -> list[str]:
    """Return the runs that may give way, the oldest first: all but those in the older half of the room, which stay for
    some days."""
    loose: list[str] = []
    count = size = 0
    for name, each in kept.items():
        if each.is_run:
            count, size = count + 1, size + each.size
            if count > max_count // 2 or size > max_bytes // 2 or now - each.at > STAYS_FOR:
                loose.append(name)
    return loose
