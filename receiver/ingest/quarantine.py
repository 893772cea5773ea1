"""The quarantine: requests that failed the signature check, to be verified again when the secret was wrong.

A table on the receiver's own disk (disk_file.py), bounded in number and bytes. Strangers write here, so what a wrong
secret put there must outlast their noise:

- a request without a signature of the right form is not kept, since no secret could ever fit it;
- a request whose body names no run has the smaller share of the room, and gives way to runs;
- each kind has a rate;
- when there are too many runs, the older half stays for some days. Of the others, the oldest give way first.

The response never waits for any of it, and what is over the limits is dropped and counted. Never in the ledger.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from handlers.support.private_file import make_private_folder
from receiver.domain.event import Event, event_id
from receiver.domain.run import scan_run_id
from receiver.domain.signature import verify
from receiver.ingest.disk_file import DiskFile
from receiver.runtime.throttle import TokenBucket

if TYPE_CHECKING:
    from receiver.telemetry.receiver import ReceiverMetrics

# Requests a second of one kind that are kept, after a burst of ten times as many.
RATE: Final = 20.0
# Bytes a second that are kept, after a burst of ten times as many (or one body of the largest size).
BYTES_RATE: Final = 4 << 20
_WAITING: Final = 64  # requests that wait to be written; twice as many before one with a run is dropped
# Requests without a run get at most 1/OTHERS_PART of the room.
OTHERS_PART: Final = 4
# Seconds for which the older half of the runs gives way to nothing.
STAYS_FOR: Final = 3 * 86400.0
_BEGINNING: Final = 4096  # bytes in which a run's id is looked for
_SIGNATURE: Final = re.compile(r"[0-9a-fA-F]{64}")
CLOSE_TIMEOUT: Final = 2.0  # seconds that `close` waits for what is to be written
_COLUMNS: Final = (
    "source TEXT NOT NULL",
    "signature TEXT NOT NULL",
    "submission_id TEXT NOT NULL",
    "at REAL NOT NULL",
    "size INTEGER NOT NULL",
    "is_run INTEGER NOT NULL",
    "file TEXT NOT NULL UNIQUE",
    "written REAL NOT NULL",
    "body BLOB NOT NULL",
)
_INSERT: Final = """
INSERT INTO refused (source, signature, submission_id, at, size, is_run, file, written, body)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_TOTALS: Final = "SELECT count(*), total(size), total(NOT is_run), total(size * NOT is_run) FROM refused"
# What may give way to a new request, the first one first. Runs give way to runs only.
_CANDIDATES: Final = """
SELECT id, size, is_run FROM (
  SELECT id, size, is_run, written, row_number() OVER kind AS place, sum(size) OVER kind AS bytes
  FROM refused WINDOW kind AS (PARTITION BY is_run ORDER BY id)
) WHERE NOT is_run OR :is_run AND (place > :count OR bytes > :bytes OR written < :old)
ORDER BY is_run, id
"""

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

    def add(self, refused: QuarantinedRequest, body: bytes) -> int:
        """Keep a request, and drop others if need be. Returns how many were dropped, itself too. Raises OSError."""
        make_private_folder(self._directory)
        if shutil.disk_usage(self._directory).free - refused.size < self._reserve_bytes:
            return 1
        values = (*refused[1:], time.time(), body)
        with self._released(), self._file.write() as connection:
            if connection.execute("SELECT 1 FROM refused WHERE file = ?", (refused.file,)).fetchone():
                return 0  # the sender has tried again
            dropped = self._giving_way(connection, refused)
            if dropped is None:
                return 1
            connection.executemany("DELETE FROM refused WHERE id = ?", [(each,) for each in dropped])
            connection.execute(_INSERT, values)
            return len(dropped)

    def _giving_way(self, connection: sqlite3.Connection, new: QuarantinedRequest) -> Sequence[int] | None:
        """Return the ids of the rows that give way to `new`; None when there would still be too little room."""
        count, size, others, others_size = connection.execute(_TOTALS).fetchone()

        def has_room() -> bool:
            most, most_bytes = self._max_count, self._max_bytes
            fits = count < most and size + new.size <= most_bytes
            fits_others = others < most // OTHERS_PART and others_size + new.size <= most_bytes // OTHERS_PART
            return fits and (new.is_run or fits_others)

        limits = {"count": self._max_count // 2, "bytes": self._max_bytes // 2, "old": time.time() - STAYS_FOR}
        dropped: list[int] = []
        for row, freed, is_run in connection.execute(_CANDIDATES, {"is_run": new.is_run, **limits}):
            if has_room():
                break
            dropped.append(row)
            count, size = count - 1, size - freed
            if not is_run:
                others, others_size = others - 1, others_size - freed
        return dropped if has_room() else None

    def usage(self) -> tuple[int, int]:
        """Return (requests, bytes) kept. Raises OSError."""
        with self._file.look() as connection:
            if connection is None:
                return 0, 0
            count, size = connection.execute("SELECT count(*), coalesce(sum(size), 0) FROM refused").fetchone()
            return count, size

    def list(self, text: bytes = b"") -> list[QuarantinedRequest]:
        """Return the kept requests whose body contains `text`, the oldest first. Raises OSError."""
        with self._file.look() as connection:
            if connection is None:
                return []
            rows = connection.execute(
                "SELECT source, signature, submission_id, at, size, is_run, file FROM refused"
                " WHERE :text = x'' OR instr(body, :text) ORDER BY at, id",
                {"text": text},
            )
            return [
                QuarantinedRequest(file.partition("-")[0], source, signature, sub, at, size, bool(is_run), file)
                for source, signature, sub, at, size, is_run, file in rows
            ]

    def body(self, refused: QuarantinedRequest, most: int = 1 << 30) -> bytes:
        """Return the body of a kept request, up to `most` bytes. Raises FileNotFoundError when it was dropped
        meanwhile, OSError."""
        query = "SELECT substr(body, 1, ?) FROM refused WHERE file = ?"
        with self._file.look() as connection:
            found = connection and connection.execute(query, (most, refused.file)).fetchone()
            if not found:
                raise FileNotFoundError(refused.file)
            return bytes(found[0])

    def run_named(self, refused: QuarantinedRequest) -> str:
        """Return the id of the run that a kept request claims to be about, or "". Raises OSError."""
        with suppress(FileNotFoundError):
            return scan_run_id(self.body(refused, _BEGINNING))
        return ""

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
        self._requests = {is_run: TokenBucket(RATE, RATE * 10) for is_run in (True, False)}
        most = max(BYTES_RATE * 10, largest)
        self._bytes = {is_run: TokenBucket(BYTES_RATE, most) for is_run in (True, False)}
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="quarantine")
        self.waiting: set[asyncio.Future[Any]] = set()  # requests that are to be written

    def offer(self, source: str, signature: str, body: bytes, submission_id: str, at: float) -> None:
        """Keep a request that failed the check, if the rate allows it and its signature has the right form."""
        if not _SIGNATURE.fullmatch(signature):
            return
        is_run, now = names_run(body), time.monotonic()
        allowed = self._requests[is_run].take(1, now) and self._bytes[is_run].take(len(body), now)
        if not allowed or len(self.waiting) >= _WAITING * (1 + is_run):
            self._metrics.quarantine_dropped += 1
            return
        loop = asyncio.get_running_loop()
        task = loop.run_in_executor(self._disk, self._keep, source, signature, body, submission_id, at)
        self.waiting.add(task)
        task.add_done_callback(self.waiting.discard)

    def _keep(self, source: str, signature: str, body: bytes, submission_id: str, at: float) -> None:
        request = QuarantinedRequest.of(source, signature, body, submission_id, at)
        try:
            self._metrics.quarantine_dropped += self._store.add(request, body)
            self._metrics.quarantine_count, self._metrics.quarantine_bytes = self._store.usage()
        except OSError as error:
            log.error("quarantine.not_kept reason=%s", error.strerror)
            self._metrics.quarantine_dropped += 1

    async def close(self) -> None:
        """Write what was offered, unless the disk hangs, and close."""
        closing = asyncio.get_running_loop().run_in_executor(self._disk, self._store.close)
        _, left = await asyncio.wait([*self.waiting, closing], timeout=CLOSE_TIMEOUT)
        if left:
            log.error("quarantine.disk_hangs requests=%d: the receiver stops without them", len(left) - 1)
        self._disk.shutdown(wait=False, cancel_futures=True)


def names_run(body: bytes) -> bool:
    """Whether a run's id stands where Skyvern writes it. A body of any size takes the same time."""
    return bool(scan_run_id(body[:_BEGINNING]))
