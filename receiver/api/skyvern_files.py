"""Files of runs that no sink has stored, fetched from Skyvern, verified, and kept for five minutes.

A file is fetched through the guarded client into a temporary file without a name. A response never has a part of a
file that turns out to be incomplete, and a video player may seek in it. The bytes of one file and of all are limited.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

from handlers.contract import Artifact, Delivery, ReadableFile, Refused, Unavailable
from handlers.mirror.artifacts import artifacts_of
from handlers.mirror.download import ArtifactFetcher, IncomingFile, SkipArtifact
from handlers.support.deadline import Deadline
from handlers.support.guarded_client import GuardedClient
from receiver.api.service import Service
from receiver.delivery.sink_services import SourceServices
from receiver.errors import Busy, NotFound
from receiver.ledger.lists.bodies import EventBody

# Maximum bytes of one file, and of all that are kept; seconds for which they are kept, and that a fetch may take.
MOST_BYTES: Final = 512 << 20
KEPT_BYTES: Final = 1 << 30
KEPT_FOR: Final = 300.0
FETCH_WITHIN: Final = 300.0
_READ: Final = 1 << 18  # bytes of one read


class _Fetched:
    """A fetched file. The system frees its space when the last reader is done."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="runhook-")  # noqa: SIM115 - closed with this object
        weakref.finalize(self, self._file.close)
        self.size, self.until = 0, 0.0
        self._version = self._encoding = ""

    def receive(self, incoming: IncomingFile) -> None:
        """Write the file."""
        self._file.writelines(incoming)
        self._file.flush()
        self.size, self._version, self._encoding = incoming.size, incoming.sha256, incoming.content_encoding
        self.until = time.monotonic() + KEPT_FOR

    def readable(self) -> ReadableFile:
        """Return the file for a reader."""
        return ReadableFile(self.size, self._version, self._encoding, self._chunks)

    def _chunks(self, start: int, end: int) -> Iterator[bytes]:
        while start < end and (chunk := os.pread(self._file.fileno(), min(_READ, end - start), start)):
            start += len(chunk)
            yield chunk


class SkyvernFiles:
    """Fetches files. Threads may share it."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, str], _Fetched] = {}
        self._opened: tuple[GuardedClient, SourceServices] | None = None

    def kept(self, event_id: str, name: str) -> ReadableFile | None:
        """Return a file that was fetched in the last KEPT_FOR seconds."""
        now = time.monotonic()
        with self._lock:
            self._kept = {which: file for which, file in self._kept.items() if file.until > now}
            found = self._kept.get((event_id, name))
        return None if found is None else found.readable()

    def fetch(self, event: EventBody, name: str) -> ReadableFile:
        """Fetch the file that the event's body calls `name`. Raises NotFound, and Busy when a retry may succeed."""
        wanted = next((each for each in artifacts_of(event.run) if each.name == name), None)
        if wanted is None:
            raise NotFound(f"run {event.run_id} has no file {name}")
        try:
            file = self._fetched(event, wanted)
        except (SkipArtifact, Refused) as problem:
            raise NotFound(f"file {name} of run {event.run_id}: no sink has it, nor does Skyvern: {problem}") from None
        except Unavailable as problem:
            raise Busy(f"Skyvern: {problem}", retry_after=int(problem.retry_after or 5)) from None
        except OSError as problem:
            raise Busy(f"cannot write to {tempfile.gettempdir()}: {problem.strerror}", retry_after=5) from None
        with self._lock:
            self._kept[event.id, name] = file
            while sum(each.size for each in self._kept.values()) > KEPT_BYTES and len(self._kept) > 1:
                del self._kept[next(iter(self._kept))]
        return file.readable()

    def _fetched(self, event: EventBody, artifact: Artifact) -> _Fetched:
        with self._lock:
            if self._opened is None:
                services = SourceServices(self._service.config, self._service.settings.skyvern_base_url)
                self._opened = GuardedClient(services.allowed_addresses()), services
            client, services = self._opened
        file = _Fetched()
        fetcher = ArtifactFetcher(client, services, _delivery_of(event), Deadline(FETCH_WITHIN), cap=MOST_BYTES)
        with fetcher.open(artifact) as incoming:
            file.receive(incoming)
        return file

    def close(self) -> None:
        """Close the connections, and forget what is kept."""
        with self._lock:
            self._kept.clear()
            for each in self._opened or ():
                each.close()


def _delivery_of(event: EventBody) -> Delivery:
    """Return the event as the fetcher takes it: as the last attempt, which does not wait for later files."""
    facts: dict[str, Any] = {"key": "", "sink": "", "attempt": 1, "run_type": "", "status": "", "last_attempt": True}
    return Delivery(
        event_id=event.id,
        source=event.source,
        run_id=event.run_id,
        received_at=datetime.now(UTC),
        body=event.redacted,
        run=event.run,
        **facts,
    )
