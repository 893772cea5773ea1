"""Fetch one artifact into a store, streamed and verified. A wrong or short file is never stored as complete.

    returns        the store has it; its size and SHA-256 are known
    SkipArtifact   it can't be had or must not be: gone for good, over the cap, a forbidden address
    Unavailable    it may be had later: the network, a failing server, bytes that don't match

When a URL has expired, the API is asked for fresh ones, once for the whole delivery. A file that may come, since its
run has only just ended, is looked for again, for a bounded time. A timeout counts against whichever took more of the
time, the artifact's host or the store. This file knows no particular store.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from handlers.contract import Artifact, Delivery, Refused, Services, Unavailable
from handlers.mirror.artifacts import is_content_path, renewed
from handlers.support.deadline import Deadline, DeadlineExceeded
from handlers.support.guarded_client import Download, GuardedClient
from handlers.support.retry_after import retry_after

_RETRYABLE = frozenset({408, 425, 429})

# Age of an event up to which Skyvern may still be storing the run's files: it converts a recording for up to 300 s
# (VIDEO_COMPRESSION_TIMEOUT_SECONDS) and waits 30 s for its uploads.
LOOK_FOR = timedelta(seconds=360)
LOOK_AGAIN = 20.0  # minimum seconds until such a file is looked for again


# Minimum bytes a second that a host must send, over each stretch of LEAST_RATE_OVER seconds.
LEAST_RATE = 4096
LEAST_RATE_OVER = 20.0


class SkipArtifact(Exception):
    """This artifact is not stored; the message is the reason that the manifest gives."""


class _UrlFailed(SkipArtifact):
    """The URL does not give the file (any more); a fresh one may."""


class NotAsAnnounced(Unavailable):
    """The bytes are not those that the sender's checksum or size is of. They may be, later."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message, retry_after=retry_after, dependency=True)


class ByteAllowance:
    """How many bytes the files of one event may have together. Threads may share it."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._left = most
        self._lock = threading.Lock()

    def check(self, size: int) -> None:
        """Raise SkipArtifact when no `size` bytes are left."""
        if size > self._left:
            raise SkipArtifact(f"larger than what is left of the {self._most:,} bytes that an event's files may have")

    def take(self, size: int) -> None:
        """Take `size` bytes. Raises SkipArtifact."""
        with self._lock:
            self.check(size)
            self._left -= size

    def give_back(self, size: int) -> None:
        """Return `size` bytes of a file that is not kept."""
        with self._lock:
            self._left += size


class IncomingFile:
    """The byte stream of one artifact, counted, hashed and, at the end, compared with what was announced.

    Iterating raises SkipArtifact when they are more than `cap` or `allowance`, and Unavailable when they come too
    slowly or, at the end, are not as announced; so a store that commits only at the end stores nothing wrong. `size`
    and `sha256` are valid afterwards. `started`: when the host was called (time.monotonic(), seconds).
    """

    def __init__(
        self,
        download: Download,
        artifact: Artifact,
        cap: int,
        deadline: Deadline,
        started: float,
        allowance: ByteAllowance,
    ) -> None:
        self.artifact = artifact
        self.announced = download.length
        self.content_encoding = download.headers.get("content-encoding", "")[:40]
        self.size = 0
        self._taken = 0
        self._download = download
        self._cap = cap
        self._deadline = deadline
        self._started = started
        self._host_seconds = time.monotonic() - started
        self._allowance = allowance
        self._hash = hashlib.sha256()
        if self.content_encoding in ("", "identity"):
            self.content_encoding = ""
        if self.announced is not None and self.announced > cap:
            raise SkipArtifact(_over_cap(cap))
        allowance.check(self.announced or 0)
        self._compare_size(self.announced)  # before anything is transferred

    @property
    def sha256(self) -> str:
        """The digest (hex) of the bytes iterated so far."""
        return self._hash.hexdigest()

    @contextmanager
    def timeout_attributed(self) -> Iterator[None]:
        """Wrap what a store does with this file: a timeout that it raises is a dependency's if the host took longer."""
        try:
            yield
        except DeadlineExceeded as error:
            if self._host_seconds * 2 < time.monotonic() - self._started:
                raise
            raise Unavailable(str(error), dependency=True) from None

    @property
    def expected(self) -> int:
        """How many bytes are announced, by the host or the sender; 0 when neither says."""
        return self.announced or self.artifact.size or 0

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._checked()
        except BaseException:
            self._allowance.give_back(self._taken)
            self._taken = 0
            raise

    def _checked(self) -> Iterator[bytes]:
        chunks = self._download.chunks()
        begun, size_then = self._host_seconds, 0  # of the stretch over which the rate is measured
        while True:
            self._deadline.remaining()
            asked = time.monotonic()
            with as_dependency_failure():  # not around the yield: what happens to a chunk there is the store's
                chunk = next(chunks, None)
            self._host_seconds += time.monotonic() - asked
            if chunk is None:
                break
            self.size += len(chunk)
            if self.size > self._cap:
                raise SkipArtifact(_over_cap(self._cap))
            self._allowance.take(len(chunk))
            self._taken += len(chunk)
            if (took := self._host_seconds - begun) >= LEAST_RATE_OVER:
                if self.size - size_then < LEAST_RATE * took:
                    raise Unavailable(f"{self._what} comes at less than {LEAST_RATE:,} bytes a second", dependency=True)
                begun, size_then = self._host_seconds, self.size
            self._hash.update(chunk)
            yield chunk
        if self.announced is not None and self.size != self.announced:
            raise Unavailable(
                f"{self._what} has {self.size:,} bytes, and {self.announced:,} were announced", dependency=True
            )
        self._compare_size(self.size)
        if self.artifact.sha256 is not None and self.sha256 != self.artifact.sha256:
            raise NotAsAnnounced(f"{self._what} is not what the sender's SHA-256 says")

    def _compare_size(self, size: int | None) -> None:
        wanted = self.artifact.size
        if None not in (size, wanted) and size != wanted:
            raise NotAsAnnounced(f"{self._what} has {size:,} bytes, and {wanted:,} were announced")

    @property
    def _what(self) -> str:
        return f"a {self.artifact.kind} from {self._download.url.host}"


Receive = Callable[[IncomingFile], None]


class ArtifactListing:
    """The artifacts that the API lists for a delivery's run. Asked for at first use, and once."""

    def __init__(self, services: Services, delivery: Delivery) -> None:
        self._services = services
        self._delivery = delivery
        self._lock = threading.Lock()
        self._found: dict[tuple[str, ...], Sequence[Artifact]] = {}

    def get(self, *types: str) -> Sequence[Artifact]:
        """Return the artifacts; () when the source has no key or the API refuses. Raises Unavailable.

        `types`: Skyvern's types that are needed, for a shorter answer; others may be among it.
        """
        with self._lock:
            known = self._found.get((), self._found.get(types))
            if known is None:
                try:
                    with as_dependency_failure():
                        known = tuple(self._services.fresh_artifacts(self._delivery, types))
                except Refused:
                    known = ()
                self._found[types] = known
            return known


@dataclass(frozen=True)
class ArtifactFetcher:
    """Fetches the artifacts of one delivery, each of at most `cap` bytes, and all together of at most `allowance`."""

    client: GuardedClient
    services: Services
    delivery: Delivery
    listing: ArtifactListing
    cap: int
    allowance: ByteAllowance
    deadline: Deadline

    def fetch(self, artifact: Artifact, receive: Receive, *, trusted: bool = False) -> IncomingFile:
        """Pass the artifact's bytes to `receive`. Raises SkipArtifact, Unavailable, and whatever `receive` raises.

        `trusted`: the URL is the API's own, and no payload's.
        """
        if artifact.size is not None and artifact.size > self.cap:
            raise SkipArtifact(_over_cap(self.cap))
        try:
            return self._from(artifact, receive, trusted=trusted)
        except _UrlFailed as error:
            listed = self.listing.get(*(["recording"] if artifact.kind == "recording" else []))
            fresh = renewed(artifact, listed) or self._by_id(artifact)
            if fresh is None:
                raise SkipArtifact(f"{error}, and no fresh address for it was given") from None
            try:
                return self._from(fresh, receive, trusted=True)
            except _UrlFailed as again:
                self._retry_if_pending(str(again))
                raise SkipArtifact(f"{again}, also at a fresh address") from None

    def _by_id(self, artifact: Artifact) -> Artifact | None:
        """Return the artifact at the API's own URL: the API does not list a task_v2's artifacts, yet serves them."""
        url = self.services.artifact_url(self.delivery, artifact.artifact_id) if artifact.artifact_id else ""
        return replace(artifact, url=url) if is_content_path(url) else None  # an id may be anything

    def _retry_if_pending(self, reason: str) -> None:
        """Raise Unavailable if the run has just ended: Skyvern may send the webhook before the recording is stored."""
        if may_look_again(self.delivery):
            raise Unavailable(f"{reason}, and it may not be ready yet", retry_after=LOOK_AGAIN, dependency=True)

    def _from(self, artifact: Artifact, receive: Receive, *, trusted: bool = False) -> IncomingFile:
        if not artifact.url.lower().startswith(("http://", "https://")):
            raise _UrlFailed("the sender gave a local path" if artifact.url else "the sender gave no address")
        # Only artifact URLs are sent the key: a payload must not have us call other parts of the API.
        needs_key = trusted or is_content_path(artifact.url)
        headers = self.services.artifact_headers(self.delivery, artifact.url) if needs_key else {}
        started = time.monotonic()
        with ExitStack() as stack:
            try:
                stream = self.client.get_stream(artifact.url, headers=headers, deadline=self.deadline)
                with as_dependency_failure():
                    download = stack.enter_context(stream)
            except Refused as error:
                raise SkipArtifact(str(error)) from None
            _raise_for_status(download)
            incoming = IncomingFile(download, artifact, self.cap, self.deadline, started, self.allowance)
            with incoming.timeout_attributed():
                receive(incoming)
            return incoming


def may_look_again(delivery: Delivery) -> bool:
    """Whether a missing or incomplete file may still come, and an attempt is left to look for it."""
    return not delivery.last_attempt and datetime.now(UTC) - delivery.received_at < LOOK_FOR


def _raise_for_status(download: Download) -> None:
    status = download.status
    if status == 200:
        return
    if status in _RETRYABLE or status >= 500:
        raise Unavailable(
            f"{download.url.host} answered {status}",
            retry_after=retry_after(download.headers, time.time()),
            dependency=True,
        )
    raise _UrlFailed(f"{download.url.host} answered {status}")


@contextmanager
def as_dependency_failure() -> Iterator[None]:
    """Mark every Unavailable raised inside as a dependency's: the artifact's host failed, not the store."""
    try:
        yield
    except Unavailable as error:
        if error.dependency:
            raise
        raise Unavailable(str(error), retry_after=error.retry_after, dependency=True) from None


def _over_cap(cap: int) -> str:
    return f"larger than the cap of {cap:,} bytes"
