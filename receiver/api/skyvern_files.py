"""Files of runs that no sink has stored, fetched from Skyvern: whole, checked, and kept for a moment.

Each comes through the guarded client into a temporary file without a name, so that only what is whole and as announced
is given, and any part of it. What is kept, and what one file may have, is bounded.
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
from handlers.mirror.download import ArtifactFetcher, ArtifactListing, ByteAllowance, IncomingFile, SkipArtifact
from handlers.support.deadline import Deadline
from handlers.support.guarded_client import GuardedClient
from receiver.api.service import Service
from receiver.delivery.sink_services import SourceServices
from receiver.errors import Busy, NotFound
from receiver.ledger.lists.bodies import EventBody

# Bytes of one file at the most; bytes of all that are kept, and the seconds for which they are.
MOST_BYTES: Final = 512 << 20
KEPT_BYTES: Final = 1 << 30
KEPT_FOR: Final = 300.0
# Seconds that a fetch may take, and that a second caller of the same file waits for the first.
FETCH_WITHIN: Final = 300.0
PATIENCE: Final = 10.0
_READ: Final = 1 << 18  # bytes that are read at once

# An event and a file's name.
_Which = tuple[str, str]


class _Fetched:
    """A file that is fetched, without a name: its space is free when nobody reads it any more."""

    def __init__(self) -> None:
        self._fd, path = tempfile.mkstemp(prefix="runhook-")
        weakref.finalize(self, os.close, self._fd)
        os.unlink(path)  # noqa: PTH108 - of a path that is no Path
        self.size = 0
        self.until = 0.0
        self._version = ""
        self._encoding = ""

    def receive(self, incoming: IncomingFile) -> None:
        """Write what comes; again from its beginning when another address is tried."""
        os.ftruncate(self._fd, 0)
        with open(self._fd, "wb", closefd=False) as content:
            content.seek(0)
            content.writelines(incoming)
        self.size, self._version, self._encoding = incoming.size, incoming.sha256, incoming.content_encoding
        self.until = time.monotonic() + KEPT_FOR

    def readable(self) -> ReadableFile:
        """Return it for who reads it."""
        return ReadableFile(self.size, self._version, self._encoding, self._chunks)

    def _chunks(self, start: int, end: int) -> Iterator[bytes]:
        while start < end and (chunk := os.pread(self._fd, min(_READ, end - start), start)):
            start += len(chunk)
            yield chunk


class SkyvernFiles:
    """Fetches files for many callers; two who want the same at once get one fetch. Threads may share it."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._lock = threading.Lock()
        self._fetching: dict[_Which, threading.Lock] = {}
        self._kept: dict[_Which, _Fetched] = {}
        self._client: GuardedClient | None = None
        self._services: SourceServices | None = None

    def find(self, event: EventBody, name: str) -> ReadableFile:
        """Return the file that the event's body names so, fetched now or a moment ago.

        Raises NotFound when Skyvern does not give it, and Busy when it may later, or is being fetched.
        """
        which = event.id, name
        with self._lock:
            fetching = self._fetching.setdefault(which, threading.Lock())
        if not fetching.acquire(timeout=PATIENCE):
            raise Busy(f"{name} is being fetched from Skyvern", retry_after=5)
        try:
            known = self._known(which)
            return (known or self._keep(which, self._fetch(event, name))).readable()
        finally:
            with self._lock:
                self._fetching.pop(which, None)
            fetching.release()

    def kept(self, event_id: str, name: str) -> ReadableFile | None:
        """Return a file that was fetched a moment ago, without waiting for anything."""
        known = self._known((event_id, name))
        return None if known is None else known.readable()

    def _known(self, which: _Which) -> _Fetched | None:
        now = time.monotonic()
        with self._lock:
            self._kept = {each: file for each, file in self._kept.items() if file.until > now}
            return self._kept.get(which)

    def _keep(self, which: _Which, file: _Fetched) -> _Fetched:
        with self._lock:
            self._kept[which] = file
            while sum(each.size for each in self._kept.values()) > KEPT_BYTES and len(self._kept) > 1:
                del self._kept[next(iter(self._kept))]
        return file

    def _fetch(self, event: EventBody, name: str) -> _Fetched:
        wanted = next((each for each in artifacts_of(event.run) if each.name == name), None)
        if wanted is None:
            raise NotFound(f"run {event.run_id} has no file {name}")
        try:
            return self._received(event, wanted)
        except (SkipArtifact, Refused) as problem:
            raise NotFound(f"file {name} of run {event.run_id}: no sink has it, nor does Skyvern: {problem}") from None
        except Unavailable as problem:
            raise Busy(f"Skyvern: {problem}", retry_after=int(problem.retry_after or 5)) from None
        except OSError as problem:
            raise Busy(f"no file can be kept in {tempfile.gettempdir()}: {problem.strerror}", retry_after=5) from None

    def _received(self, event: EventBody, wanted: Artifact) -> _Fetched:
        client, services = self._opened()
        delivery = _delivery_of(event)
        fetcher = ArtifactFetcher(
            client,
            services,
            delivery,
            ArtifactListing(services, delivery),
            MOST_BYTES,
            ByteAllowance(MOST_BYTES),
            Deadline(FETCH_WITHIN),
        )
        file = _Fetched()
        fetcher.fetch(wanted, file.receive)
        return file

    def _opened(self) -> tuple[GuardedClient, SourceServices]:
        with self._lock:
            if self._client is None or self._services is None:
                self._services = SourceServices(self._service.config, self._service.settings.skyvern_base_url)
                self._client = GuardedClient(self._services.allowed_addresses())
            return self._client, self._services

    def close(self) -> None:
        """Close the connections, and forget what is kept."""
        with self._lock:
            self._kept.clear()
            for each in (self._client, self._services):
                if each is not None:
                    each.close()


def _delivery_of(event: EventBody) -> Delivery:
    """Return the event as what fetches files wants it: as the last attempt, which waits for nothing that may come."""
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
