"""The quarantine: requests that failed the signature check, to be verified again when the secret was wrong.

A table on the receiver's own disk (disk_file.py), bounded in number and bytes. Strangers write here, so what a wrong
secret put there must outlast their noise:

- a request without a signature of the right form is not kept, since no secret could ever fit it;
- a request whose body names no run has the smaller part of the room, and gives way to runs;
- each kind has a rate, of which one network has a part;
- when there are too many runs, the older half stays for some days. Of the others, the network with the most gives way
  first, its oldest ones before.

The response never waits for any of it, and what is over the limits is dropped and counted. Never in the ledger.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import time
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from handlers.support.private_file import make_private_folder
from receiver.domain.event import Event, event_id
from receiver.domain.run import scan_run_id
from receiver.domain.signature import verify
from receiver.ingest.disk_file import DiskFile, free_bytes
from receiver.runtime.throttle import TokenBucket
from receiver.telemetry.receiver import ReceiverMetrics

# Requests a second of one kind that are kept, after a burst of ten times as many; and the part of one network.
RATE: Final = 20.0
NETWORK_PART: Final = 0.25
# Networks whose rate is known at a time.
_NETWORKS: Final = 1024
# Bytes a second that are kept, after a burst of ten times as many (or one body of the largest size).
BYTES_RATE: Final = 4 << 20
_WAITING: Final = 64  # requests of one kind that wait to be written
# Requests without a run get at most 1/OTHERS_PART of the room.
OTHERS_PART: Final = 4
# Seconds for which the older half of the runs gives way to nothing.
STAYS_FOR: Final = 3 * 86400.0
_BEGINNING: Final = 4096  # bytes in which a run's id is looked for
_SIGNATURE: Final = re.compile(r"[0-9a-fA-F]{64}")
CLOSE_TIMEOUT: Final = 2.0  # seconds that `close` waits for what is to be written
_COLUMNS: Final = (
    "file TEXT NOT NULL UNIQUE",
    "source TEXT NOT NULL",
    "signature TEXT NOT NULL",
    "submission_id TEXT NOT NULL",
    "at REAL NOT NULL",
    "size INTEGER NOT NULL",
    "is_run INTEGER NOT NULL",
    "written REAL NOT NULL",
    "network TEXT NOT NULL",
    "body BLOB NOT NULL",
)

log = logging.getLogger("runhook.ingest")


class QuarantinedRequest(NamedTuple):
    """One request in quarantine. `id`: what its event id would be. `size`: bytes of the body. `at`: epoch seconds.

    `is_run`: whether its body names a run. `file`: its name in the store: of body and signature, so that the same body
    with another signature takes nothing's place.
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
        return cls(name, source, signature[:64], submission_id, at, len(body), is_run, f"{name}-{digest}")

    def verdict(self, body: bytes, secrets: Sequence[str] | None) -> str:
        """Check with the present `secrets`: "authentic", "bad_signature", or "unknown_source" for None."""
        if secrets is None:
            return "unknown_source"
        return "authentic" if verify(body, self.signature, secrets) else "bad_signature"

    def event(self, body: bytes) -> Event:
        """Return the request's event, once it has been found authentic."""
        return Event(self.id, self.source, body, self.at, "webhook", self.submission_id)


class Kept(NamedTuple):
    """What is known of a row: bytes, when it was written (epoch seconds), whether its body names a run, its network."""

    size: int
    at: float
    is_run: bool
    network: str = ""


class Quarantine:
    """The store in `directory`. Used by one thread at a time; several processes may share it.

    `reserve_bytes`: free disk space that is kept. `stays_open`: until `close`, for a process that adds many.
    """

    def __init__(
        self, directory: Path, max_count: int, max_bytes: int, reserve_bytes: int = 0, *, stays_open: bool = False
    ) -> None:
        self._directory = directory
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._reserve_bytes = reserve_bytes
        self._stays_open = stays_open
        self._file = DiskFile(directory, "refused", _COLUMNS)

    def add(self, refused: QuarantinedRequest, body: bytes, network: str = "") -> int:
        """Keep a request, and drop others if need be. Returns how many were dropped, itself too. Raises OSError."""
        new = Kept(len(body), time.time(), refused.is_run, network)
        make_private_folder(self._directory)
        if free_bytes(self._directory) - new.size < self._reserve_bytes:
            return 1
        values = (refused.file, refused.source, refused.signature, refused.submission_id, refused.at, refused.size)
        with self._released(), self._file.write() as connection:
            rows = connection.execute("SELECT file, size, written, is_run, network FROM refused ORDER BY id").fetchall()
            kept = {file: Kept(size, at, bool(is_run), of) for file, size, at, is_run, of in rows}
            if refused.file in kept:
                return 0  # the sender has tried again
            dropped = giving_way(kept, new, self._max_count, self._max_bytes)
            if dropped is None:
                return 1
            connection.executemany("DELETE FROM refused WHERE file = ?", [(each,) for each in dropped])
            connection.execute(
                "INSERT INTO refused (file, source, signature, submission_id, at, size, is_run, written, network, body)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*values, new.is_run, new.at, network, body),
            )
            return len(dropped)

    def usage(self) -> tuple[int, int]:
        """Return (requests, bytes) kept. Raises OSError."""
        with self._file.look() as connection:
            if connection is None:
                return 0, 0
            count, size = connection.execute("SELECT count(*), coalesce(sum(size), 0) FROM refused").fetchone()
            return count, size

    def list(self) -> list[QuarantinedRequest]:
        """Return the kept requests, the oldest first. Raises OSError."""
        with self._file.look() as connection:
            if connection is None:
                return []
            rows = connection.execute(
                "SELECT source, signature, submission_id, at, size, is_run, file FROM refused ORDER BY at, id"
            )
            return [
                QuarantinedRequest(file.partition("-")[0], source, signature, sub, at, size, bool(is_run), file)
                for source, signature, sub, at, size, is_run, file in rows
            ]

    def body(self, refused: QuarantinedRequest) -> bytes:
        """Return the body of a kept request. Raises FileNotFoundError when it was dropped meanwhile, OSError."""
        with self._file.look() as connection:
            found = (
                connection and connection.execute("SELECT body FROM refused WHERE file = ?", (refused.file,)).fetchone()
            )
            if not found:
                raise FileNotFoundError(refused.file)
            return bytes(found[0])

    def remove(self, refused: Iterable[QuarantinedRequest]) -> None:
        """Drop requests. Raises OSError."""
        files = [(each.file,) for each in refused]
        if files and self._file.path.exists():
            with self._released():
                with self._file.write() as connection:
                    connection.executemany("DELETE FROM refused WHERE file = ?", files)
                with self._file.read() as connection:
                    self._file.shrink(connection)

    @contextmanager
    def _released(self) -> Iterator[None]:
        try:
            yield
        finally:
            if not self._stays_open:
                self._file.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class QuarantineWriter:
    """Keeps refused requests in the background of one event loop. `offer` returns at once and never fails."""

    def __init__(self, store: Quarantine, metrics: ReceiverMetrics, largest: int) -> None:
        self._store = store
        self._metrics = metrics
        self._allowances = {is_run: _Allowance(largest) for is_run in (True, False)}
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="quarantine")

    def offer(self, source: str, signature: str, body: bytes, submission_id: str, at: float, network: str) -> None:
        """Keep a request from `network` that failed the check, if the rate allows it and its signature has the right
        form."""
        if not _SIGNATURE.fullmatch(signature):
            return
        allowance = self._allowances[names_run(body)]
        if not allowance.take(len(body), network, time.monotonic()):
            self._metrics.quarantine_dropped += 1
            return
        loop = asyncio.get_running_loop()
        task = loop.run_in_executor(self._disk, self._keep, source, signature, body, submission_id, at, network)
        allowance.waiting.add(task)
        task.add_done_callback(allowance.waiting.discard)

    def _keep(self, source: str, signature: str, body: bytes, submission_id: str, at: float, network: str) -> None:
        request = QuarantinedRequest.of(source, signature, body, submission_id, at)
        try:
            self._metrics.quarantine_dropped += self._store.add(request, body, network)
            self._metrics.quarantine_count, self._metrics.quarantine_bytes = self._store.usage()
        except OSError as error:
            log.error("quarantine.not_kept reason=%s", error.strerror)
            self._metrics.quarantine_dropped += 1

    async def close(self) -> None:
        """Write what was offered, unless the disk hangs, and close."""
        loop = asyncio.get_running_loop()
        waiting: list[asyncio.Future[Any]] = [
            task for allowance in self._allowances.values() for task in allowance.waiting
        ]
        waiting.append(loop.run_in_executor(self._disk, self._store.close))
        _, left = await asyncio.wait(waiting, timeout=CLOSE_TIMEOUT)
        if left:
            log.error("quarantine.disk_hangs requests=%d: the receiver stops without them", len(left) - 1)
        self._disk.shutdown(wait=False, cancel_futures=True)


class _Allowance:
    """How many requests of one kind, and how many of their bytes, may be written; of all, and of each network.

    `waiting`: those that are to be written.
    """

    def __init__(self, largest: int) -> None:
        self._requests = TokenBucket(RATE, RATE * 10)
        self._bytes = TokenBucket(BYTES_RATE, max(BYTES_RATE * 10, largest))
        self._networks: OrderedDict[str, TokenBucket] = OrderedDict()
        self.waiting: set[asyncio.Future[Any]] = set()

    def take(self, size: int, network: str, now: float) -> bool:
        """Take one request of `size` bytes at `now` (monotonic seconds). False when there is no allowance left."""
        rate = RATE * NETWORK_PART
        own = self._networks.setdefault(network, TokenBucket(rate, rate * 10))
        self._networks.move_to_end(network)
        if len(self._networks) > _NETWORKS:
            self._networks.popitem(last=False)
        return (
            len(self.waiting) < _WAITING
            and own.take(1, now)
            and self._requests.take(1, now)
            and self._bytes.take(size, now)
        )


def names_run(body: bytes) -> bool:
    """Whether a run's id stands where Skyvern writes it. A body of any size takes the same time."""
    return bool(scan_run_id(body[:_BEGINNING]))


def giving_way(kept: Mapping[str, Kept], new: Kept, max_count: int, max_bytes: int) -> list[str] | None:
    """Return the requests that give way to `new`, by name; None when it must not be kept. `kept`: the oldest first.

    Takes time in proportion to how many are kept, however many of them must go.
    """
    everything = [*kept.values(), new]
    others = [each for each in everything if not each.is_run]
    over = [len(everything) - max_count, sum(each.size for each in everything) - max_bytes]
    over_others = [len(others) - max_count // OTHERS_PART, sum(each.size for each in others) - max_bytes // OTHERS_PART]
    candidates = [name for name, each in kept.items() if not each.is_run]
    if new.is_run:
        crowds = Counter(each.network for each in everything if each.is_run)
        loose = _loose_runs(kept, new.at, max_count, max_bytes)
        candidates += sorted(loose, key=lambda name: -crowds[kept[name].network])
    dropped: list[str] = []
    while max(over) > 0 or (not new.is_run and max(over_others) > 0):
        if len(dropped) == len(candidates):
            return None
        name = candidates[len(dropped)]
        dropped.append(name)
        for each in (over,) if kept[name].is_run else (over, over_others):
            each[0] -= 1
            each[1] -= kept[name].size
    return dropped


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
