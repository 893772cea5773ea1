"""Fetch one artifact into a store, streamed and verified. A wrong or short file is never stored as complete.

    returns        the file is stored; its size and SHA-256 are known
    SkipArtifact   the file is gone, over the cap, or at a forbidden address
    Unavailable    a retry may succeed: the network, a failing server, bytes that don't match

When a URL has expired, the API is asked for fresh ones, once per delivery. Files of a run that has just ended are
retried for a bounded time. A send that times out during a transfer fails alone: the sink's breaker does not open. This
module works with any store.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from handlers.contract import Artifact, Delivery, Refused, Services, Unavailable
from handlers.mirror.artifacts import is_content_path, with_fresh_url
from handlers.support.deadline import Deadline, DeadlineExceeded
from handlers.support.guarded_client import Download, GuardedClient
from handlers.support.retry_after import RETRYABLE, retry_after

# Age of an event in seconds while Skyvern may still be storing files: it converts a recording for up to 300 s
# (VIDEO_COMPRESSION_TIMEOUT_SECONDS) and waits 30 s for its uploads.
LOOK_FOR = timedelta(seconds=360)
# Minimum average bytes per second from a host, and the seconds before it applies.
LEAST_RATE, LEAST_RATE_AFTER = 4096, 20.0
LOOK_AGAIN = 20.0  # minimum seconds before the file is requested again


class SkipArtifact(Exception):
    """This artifact is not stored. The message is the reason in the manifest."""


class OverCap(SkipArtifact):
    """The artifact is larger than the `cap` of its fetcher, in bytes."""

    def __init__(self, cap: int) -> None:
        super().__init__(f"larger than the cap of {cap:,} bytes")


class _UrlFailed(SkipArtifact):
    """The URL does not return the file; a new one may."""


class NotAsAnnounced(Unavailable):
    """The bytes do not match the sender's checksum or size. They may later."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message, retry_after=retry_after, dependency=True)


class IncomingFile:
    """The byte stream of one artifact: counted, hashed, and finally compared with the announced size and checksum.

    Iterating raises SkipArtifact beyond `cap`. At the end it raises Unavailable on a mismatch, and what `take` raises
    for the size; so a store that commits at the end stores nothing wrong. `size` and `sha256` are valid afterwards.
    """

    def __init__(
        self, download: Download, artifact: Artifact, cap: int, deadline: Deadline, take: Callable[[int], None]
    ) -> None:
        self.artifact = artifact
        self.announced = download.length
        self.content_encoding = download.headers.get("content-encoding", "")[:40]
        self.size = 0
        self._download = download
        self._cap = cap
        self._deadline = deadline
        self._take = take
        self._hash = hashlib.sha256()
        if self.content_encoding in ("", "identity"):
            self.content_encoding = ""
        if self.announced is not None and self.announced > cap:
            raise OverCap(cap)
        self._compare_size(self.announced)  # before anything is transferred

    @property
    def sha256(self) -> str:
        """The digest (hex) of the bytes iterated so far."""
        return self._hash.hexdigest()

    @property
    def expected(self) -> int:
        """The announced number of bytes, by the host or the sender; 0 if unknown."""
        return self.announced or self.artifact.size or 0

    def __iter__(self) -> Iterator[bytes]:
        chunks, waited = self._download.chunks(), 0.0
        while True:
            self._deadline.remaining()
            began = time.monotonic()
            with as_dependency_failure():  # not around the yield, where the store's own errors would be caught
                chunk = next(chunks, None)
            if chunk is None:
                break
            waited += time.monotonic() - began
            self.size += len(chunk)
            if waited > min(LEAST_RATE_AFTER, self._deadline.seconds / 2) and self.size < LEAST_RATE * waited:
                raise Unavailable(f"{self._what} arrives at less than {LEAST_RATE:,} bytes a second", dependency=True)
            if self.size > self._cap:
                raise OverCap(self._cap)
            self._hash.update(chunk)
            yield chunk
        if self.announced is not None and self.size != self.announced:
            raise Unavailable(
                f"{self._what} has {self.size:,} bytes, and {self.announced:,} were announced", dependency=True
            )
        self._compare_size(self.size)
        if self.artifact.sha256 is not None and self.sha256 != self.artifact.sha256:
            raise NotAsAnnounced(f"{self._what} does not match the sender's SHA-256")
        self._take(self.size)

    def _compare_size(self, size: int | None) -> None:
        announced = self.artifact.size
        if None not in (size, announced) and size != announced:
            raise NotAsAnnounced(f"{self._what} has {size:,} bytes, and {announced:,} were announced")

    @property
    def _what(self) -> str:
        return f"a {self.artifact.kind} from {self._download.url.host}"


class ArtifactFetcher:
    """Fetches the artifacts of one delivery: at most `cap` bytes per file, `total` in all.

    Thread-safe.
    """

    def __init__(
        self,
        client: GuardedClient,
        services: Services,
        delivery: Delivery,
        deadline: Deadline,
        *,
        cap: int,
        total: int | None = None,
    ) -> None:
        self._client = client
        self._services = services
        self._delivery = delivery
        self._deadline = deadline
        self._cap = cap
        self._total = self._left = cap if total is None else total
        self._counting, self._listing = threading.Lock(), threading.Lock()
        self._listed: dict[tuple[str, ...], Sequence[Artifact]] = {}

    def listed(self, *types: str) -> Sequence[Artifact]:
        """Return the run's artifacts from the API, requested once; () without a key or when the API refuses.

        `types`: Skyvern's types to request; the result may contain others. Raises Unavailable.
        """
        with self._listing:
            known = self._listed.get((), self._listed.get(types))
            if known is None:
                try:
                    with as_dependency_failure():
                        known = tuple(self._services.fresh_artifacts(self._delivery, types))
                except Refused:
                    known = ()
                self._listed[types] = known
            return known

    def take(self, size: int, *, announced: bool = False) -> None:
        """Take `size` bytes from the total, or only check them. Raises SkipArtifact."""
        with self._counting:
            if size > self._left:
                raise SkipArtifact(
                    f"larger than the rest of the {self._total:,} bytes allowed for an event's files (max_event_bytes)"
                )
            self._left -= 0 if announced else size

    @contextmanager
    def open(self, artifact: Artifact, *, trusted: bool = False) -> Iterator[IncomingFile]:
        """Open an artifact; iterate its bytes inside the block. Raises SkipArtifact and Unavailable.

        `trusted`: the URL comes from the API, not from a payload.
        """
        if artifact.size is not None and artifact.size > self._cap:
            raise OverCap(self._cap)
        with ExitStack() as stack:
            try:
                incoming = stack.enter_context(self._request(artifact, trusted=trusted))
            except _UrlFailed as error:
                incoming = stack.enter_context(self._request_fresh(artifact, str(error)))
            try:
                yield incoming
            except DeadlineExceeded as error:
                raise Unavailable(str(error), dependency=True) from None

    @contextmanager
    def _request_fresh(self, artifact: Artifact, problem: str) -> Iterator[IncomingFile]:
        """Open an artifact at a new URL from the API. `problem`: why its own URL failed."""
        listed = self.listed(*(["recording"] if artifact.kind == "recording" else []))
        fresh = with_fresh_url(artifact, listed) or self._by_id(artifact)
        if fresh is None:
            raise SkipArtifact(f"{problem}, and the API returned no new URL")
        try:
            with self._request(fresh, trusted=True) as incoming:
                yield incoming
        except _UrlFailed as error:
            self._retry_if_pending(str(error))
            raise SkipArtifact(f"{error}, also at a new URL") from None

    def _by_id(self, artifact: Artifact) -> Artifact | None:
        """Return the artifact at its API URL: the API serves a task_v2's artifacts, but does not list them."""
        url = self._services.artifact_url(self._delivery, artifact.artifact_id) if artifact.artifact_id else ""
        return replace(artifact, url=url) if is_content_path(url) else None  # ids are untrusted

    def _retry_if_pending(self, reason: str) -> None:
        """Raise Unavailable if the run has just ended: Skyvern may send the webhook before the recording is stored."""
        if may_look_again(self._delivery):
            key = "the source's api_key may be refused"
            why = key if reason.endswith((" 401", " 403")) else "it may not be ready yet"
            raise Unavailable(f"{reason}, and {why}", retry_after=LOOK_AGAIN, dependency=True)

    @contextmanager
    def _request(self, artifact: Artifact, *, trusted: bool) -> Iterator[IncomingFile]:
        """Request an artifact at its URL. Raises _UrlFailed where a new URL may help."""
        if not artifact.url.lower().startswith(("http://", "https://")):
            raise _UrlFailed("the sender gave a local path" if artifact.url else "the sender gave no address")
        # Only artifact URLs get the key: a payload must not trigger other API calls.
        needs_key = trusted or is_content_path(artifact.url)
        headers = self._services.artifact_headers(self._delivery, artifact.url) if needs_key else {}
        with ExitStack() as stack:
            try:
                stream = self._client.get_stream(artifact.url, headers=headers, deadline=self._deadline)
                with as_dependency_failure():
                    download = stack.enter_context(stream)
            except Refused as error:
                raise SkipArtifact(str(error)) from None
            _raise_for_status(download)
            incoming = IncomingFile(download, artifact, self._cap, self._deadline, self.take)
            self.take(incoming.announced or 0, announced=True)
            yield incoming


def may_look_again(delivery: Delivery) -> bool:
    """Whether a missing or incomplete file may still arrive before the last attempt."""
    return not delivery.last_attempt and datetime.now(UTC) - delivery.received_at < LOOK_FOR


def _raise_for_status(download: Download) -> None:
    status = download.status
    if status == 200:
        return
    if status in RETRYABLE or status >= 500:
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
