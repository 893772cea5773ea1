"""Fetches one artifact, streamed and checked. What is wrong or short never ends as if it were whole.

    kept          the store has it; its size and SHA-256 are known
    skipped       it can't be had or must not be: gone for good, over the cap, a forbidden address
    Unavailable   it may be had later: the network, a server in trouble, bytes that don't match

An address that has lapsed is asked for anew, once for the whole delivery. When the time is over, it is the trouble of
whoever had more of it, the host or the place that files are kept in. This file does not know that place.
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
from handlers.mirror.artifacts import is_content_path, renewed
from handlers.support.guarded_client import Deadline, Download, GuardedClient, TimeIsUp
from handlers.support.retry_after import retry_after

_LATER = frozenset({408, 425, 429})

_STILL_COMING = timedelta(seconds=60)
"""How old an event is in whose run a file may still be on its way to where it will be. Seen: a second, at a cancel."""
_NOT_YET = 20.0  # seconds until it is looked for again, once


class Skip(Exception):
    """This artifact is left out; the message is the reason that the manifest gives."""


class _Gone(Skip):
    """The address does not give the file (any more); a fresh one may."""


class Incoming:
    """The bytes of one artifact on their way, counted, hashed and, at the end, compared with what was promised.

    Iterating raises Unavailable instead of ending when they are not what was promised, Skip when there are too many; so
    a store that keeps nothing before the end keeps nothing wrong. `size` and `sha256` are valid after the end.
    `begun`: when the host was called, on the clock of time.monotonic.
    """

    def __init__(self, download: Download, artifact: Artifact, cap: int, deadline: Deadline, begun: float) -> None:
        self.artifact = artifact
        self.announced = download.length
        self.content_encoding = download.headers.get("content-encoding", "")[:40]
        self.size = 0
        self._download = download
        self._cap = cap
        self._deadline = deadline
        self._begun = begun
        self._host_took = time.monotonic() - begun
        self._hash = hashlib.sha256()
        if self.content_encoding in ("", "identity"):
            self.content_encoding = ""
        if self.announced is not None and self.announced > cap:
            raise Skip(_over(cap))

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    @contextmanager
    def received(self) -> Iterator[None]:
        """Around all that a store does with this. Time that runs out between two pieces is noticed by the store, and
        says nothing against it unless it had most of that time."""
        try:
            yield
        except TimeIsUp as error:
            if self._host_took * 2 < time.monotonic() - self._begun:
                raise
            raise Unavailable(str(error), dependency=True) from None

    def __iter__(self) -> Iterator[bytes]:
        chunks = self._download.chunks()
        while True:
            self._deadline.left()
            asked = time.monotonic()
            with as_dependency_failure():  # around the taking only: what is done with a chunk is the store's affair
                chunk = next(chunks, None)
            self._host_took += time.monotonic() - asked
            if chunk is None:
                break
            self.size += len(chunk)
            if self.size > self._cap:
                raise Skip(_over(self._cap))
            self._hash.update(chunk)
            yield chunk
        what = f"a {self.artifact.kind} from {self._download.url.host}"
        for promised in (self.artifact.size, self.announced):
            if promised is not None and self.size != promised:
                raise Unavailable(f"{what} has {self.size:,} bytes, and {promised:,} were announced", dependency=True)
        if self.artifact.sha256 is not None and self.sha256 != self.artifact.sha256:
            raise Unavailable(f"{what} is not what the sender's SHA-256 says", dependency=True)


class Listing:
    """What the API lists for a delivery's run: asked for once, and only when somebody needs it."""

    def __init__(self, services: Services, delivery: Delivery) -> None:
        self._services = services
        self._delivery = delivery
        self._lock = threading.Lock()
        self._found: Sequence[Artifact] | None = None

    def get(self) -> Sequence[Artifact]:
        """The artifacts; () when the source has no key or the API refuses. Raises Unavailable when it can't answer."""
        with self._lock:
            if self._found is None:
                try:
                    with as_dependency_failure():
                        self._found = tuple(self._services.fresh_artifacts(self._delivery))
                except Refused:
                    self._found = ()
            return self._found


class Fetcher:
    """Fetches the artifacts of one delivery. `cap`: bytes that one may have."""

    def __init__(
        self,
        client: GuardedClient,
        services: Services,
        delivery: Delivery,
        listing: Listing,
        cap: int,
        deadline: Deadline,
    ) -> None:
        self._client = client
        self._services = services
        self._delivery = delivery
        self._listing = listing
        self._cap = cap
        self._deadline = deadline

    def fetch(self, artifact: Artifact, receive: Callable[[Incoming], None]) -> Incoming:
        """Have `receive` take the artifact's bytes. Raises Skip, Unavailable, and whatever `receive` raises."""
        if artifact.size is not None and artifact.size > self._cap:
            raise Skip(_over(self._cap))
        try:
            return self._from(artifact, receive)
        except _Gone as gone:
            fresh = renewed(artifact, self._listing.get()) or self._by_id(artifact)
            if fresh is None:
                raise Skip(f"{gone}, and no fresh address for it was given") from None
            try:
                return self._from(fresh, receive, trusted=True)
            except _Gone as again:
                self._perhaps_not_yet(str(again))
                raise Skip(f"{again}, also at a fresh address") from None

    def _by_id(self, artifact: Artifact) -> Artifact | None:
        """The artifact where the API serves it: the API lists none of a task_v2's, and yet has them."""
        url = self._services.artifact_url(self._delivery, artifact.artifact_id) if artifact.artifact_id else ""
        return replace(artifact, url=url) if is_content_path(url) else None  # an id may be anything

    def _perhaps_not_yet(self, reason: str) -> None:
        """Ask for one more try where the run has just ended: a recording is made ready while its webhook is sent."""
        age = datetime.now(UTC) - self._delivery.received_at
        if self._delivery.attempt == 1 and age < _STILL_COMING:
            raise Unavailable(f"{reason}, and it may not be ready yet", retry_after=_NOT_YET, dependency=True)

    def _from(self, artifact: Artifact, receive: Callable[[Incoming], None], *, trusted: bool = False) -> Incoming:
        if not artifact.url.lower().startswith(("http://", "https://")):
            raise _Gone("the sender gave a local path" if artifact.url else "the sender gave no address")
        # The key goes out only where the API keeps files: a payload must not have us call other parts of it.
        asks_key = trusted or is_content_path(artifact.url)
        headers = self._services.artifact_headers(self._delivery, artifact.url) if asks_key else {}
        begun = time.monotonic()
        with ExitStack() as stack:
            try:
                stream = self._client.get_stream(artifact.url, headers=headers, deadline=self._deadline)
                with as_dependency_failure():
                    download = stack.enter_context(stream)
            except Refused as error:
                raise Skip(str(error)) from None
            _judge(download)
            incoming = Incoming(download, artifact, self._cap, self._deadline, begun)
            with incoming.received():
                receive(incoming)
            return incoming


def _judge(download: Download) -> None:
    status = download.status
    if status == 200:
        return
    if status in _LATER or status >= 500:
        raise Unavailable(
            f"{download.url.host} answered {status}",
            retry_after=retry_after(download.headers, time.time()),
            dependency=True,
        )
    raise _Gone(f"{download.url.host} answered {status}")


@contextmanager
def as_dependency_failure() -> Iterator[None]:
    """Mark every Unavailable raised inside as a dependency's: the artifact's host failed, not the store."""
    try:
        yield
    except Unavailable as error:
        raise Unavailable(str(error), retry_after=error.retry_after, dependency=True) from None


def _over(cap: int) -> str:
    return f"larger than the cap of {cap:,} bytes"
