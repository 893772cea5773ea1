"""Mirrors one delivery into a store: the body first, then the files, then the manifest, then `latest.json`.

    <prefix><event id>/run.json, the files, manifest.json       of this event alone, never another's
    <prefix>latest.json                                         moves forward only

The body goes first so that a file that can't be had never keeps the result away. The manifest goes last, so a crash
in the middle leaves a directory without one; the same delivery again writes the same names and fetches only what is
not there. An event that was never here costs one call for each thing that is kept, and no look beforehand: its body and
`latest.json` are written where nothing may be, and only when something is there it is looked at.
This file knows neither S3 nor disks: a `Store` does.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from urllib.parse import quote

from handlers.contract import Artifact, Delivery, Receipt, Refused, Services, Unavailable
from handlers.mirror.artifacts import artifacts_of, with_listed
from handlers.mirror.content_types import DEFAULT, JSON, content_type
from handlers.mirror.download import Fetcher, Listing, Skip, as_dependency_failure
from handlers.mirror.fan_out import Crew, within
from handlers.mirror.manifest import Kept, Manifest, Skipped, about, iso, kept_in, latest, order_of, points_to
from handlers.mirror.names import safe_name
from handlers.mirror.options import MAX_PREFIX, MirrorOptions, compile_prefix
from handlers.mirror.store import FETCHING_THREADS, ObjectTarget, Store
from handlers.support import templating
from handlers.support.daemon_pool import DaemonPool
from handlers.support.guarded_client import Deadline, GuardedClient, without_query

MAX_OFFERED = 1024 * 1024
"""Bytes of a body that is offered without a look whether it is there: more would be sent for nothing."""
SWAPS = 8
"""How often `latest.json` is compared and set before somebody else is let go first."""


class Mirror:
    """Sends deliveries into a store. Opens nothing before the first one."""

    def __init__(self, options: MirrorOptions, services: Services, store: Store) -> None:
        self._options = options
        self._services = services
        self._store = store
        self._prefix = compile_prefix(options.prefix)
        self._pool = DaemonPool(FETCHING_THREADS, "fetch")
        self._lock = threading.Lock()
        self._client: GuardedClient | None = None

    def send(self, delivery: Delivery) -> Receipt:
        """Keep the delivery's event. Raises Refused and Unavailable, the latter when the options' timeout is over."""
        deadline = Deadline(self._options.timeout)
        return within(deadline, lambda: self._send(delivery, deadline))

    def close(self) -> None:
        """Let go of threads and connections."""
        self._pool.close()
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None

    def _send(self, delivery: Delivery, deadline: Deadline) -> Receipt:
        prefix = self._prefix_of(delivery)
        folder = ("test-" if delivery.test else "") + safe_name(delivery.event_id) + "/"
        visit = _Visit(self._store, delivery, prefix + folder, deadline)
        body = visit.begin()
        listing = Listing(self._services, delivery)
        wanted, skipped = self._wanted(delivery, listing)
        cap = self._options.max_artifact_bytes
        fetcher = Fetcher(self._http(), self._services, delivery, listing, cap, deadline)
        crew: Crew[Artifact, Kept | Skipped] = Crew(wanted, lambda artifact: self._keep(visit, fetcher, artifact))
        results = crew.run(self._pool, self._options.parallel - 1, deadline)
        _raise_worst(result for result in results if isinstance(result, Exception))
        kept = [body, *(result for result in results if isinstance(result, Kept))]
        skipped = [*(result for result in results if isinstance(result, Skipped)), *skipped]
        visit.finish(Manifest(about(delivery), kept, skipped))
        if not delivery.test:
            self._point_latest(prefix, folder, visit)
        return self._receipt(visit.directory, kept, skipped)

    def _prefix_of(self, delivery: Delivery) -> str:
        rendered = self._prefix.render(templating.context_of(delivery))
        parts = [part.strip() for part in rendered.split("/") if part.strip()]
        if any(part in (".", "..") or "\\" in part or min(part) < " " for part in parts):
            raise Refused("the prefix template gives a part that is no name")
        prefix = "".join(part + "/" for part in parts)
        if len(prefix.encode()) > MAX_PREFIX:
            raise Refused(f"the prefix template gives more than {MAX_PREFIX} bytes")
        return prefix

    def _wanted(self, delivery: Delivery, listing: Listing) -> tuple[list[Artifact], list[Skipped]]:
        artifacts = artifacts_of(delivery.run)
        if self._options.artifacts:
            artifacts = with_listed(artifacts, listing.get(), self._options.artifacts)
        most = self._options.max_artifacts
        return artifacts[:most], [_skipped(artifact, f"more than {most} files") for artifact in artifacts[most:]]

    def _keep(self, visit: _Visit, fetcher: Fetcher, artifact: Artifact) -> Kept | Skipped:
        with as_dependency_failure():  # nothing was begun: those who took all the time say whose trouble it is
            visit.deadline.left()
        if (there := visit.already(artifact)) is not None:
            return there
        target = visit.target(artifact.name, content_type(artifact.name))
        try:
            incoming = fetcher.fetch(artifact, lambda incoming: self._store.receive(target, incoming))
        except Skip as reason:
            if self._options.on_missing == "fail" and not str(reason).startswith("larger"):
                raise Unavailable(f"a {artifact.kind} is missing: {reason}", dependency=True) from None
            return _skipped(artifact, str(reason))
        return _kept(artifact, incoming.size, incoming.sha256, target.content, incoming.content_encoding)

    def _point_latest(self, prefix: str, folder: str, visit: _Visit) -> None:
        delivery, deadline = visit.delivery, visit.deadline
        target = ObjectTarget(prefix + "latest.json", JSON, delivery, deadline, moves=True)
        mine, document = order_of(delivery), latest(delivery, folder)
        if visit.is_first and self._store.create(target, document):
            return
        for _ in range(SWAPS):
            there = self._store.read(target.key, deadline)
            theirs = points_to(there.body) if there else None
            if theirs is not None and theirs >= mine:
                return
            if self._store.swap(target, document, there.version if there else None):
                return
            deadline.left()
        raise Unavailable("latest.json is being changed by others all the time")

    def _receipt(self, directory: str, kept: list[Kept], skipped: list[Skipped]) -> Receipt:
        names = [*(entry.name for entry in kept), "manifest.json"]
        base = self._options.public_url
        urls = {name: base + quote(directory + name) if base else self._store.url(directory + name) for name in names}
        note = ""
        if skipped:
            reasons = "; ".join(dict.fromkeys(entry.reason for entry in skipped))
            total = len(kept) - 1 + len(skipped)
            note = f"{len(skipped)} of {total} files are not kept ({reasons[:300]}); see manifest.json"
        return Receipt(
            id=self._store.place(directory),
            keys=tuple(self._store.place(directory + name) for name in names),
            urls={name: url for name, url in urls.items() if url},
            note=note,
        )

    def _http(self) -> GuardedClient:
        with self._lock:
            if self._client is None:
                threads = FETCHING_THREADS + 64
                self._client = GuardedClient(self._services.allowed_addresses(), max_connections=threads)
            return self._client


class _Visit:
    """One delivery at the store: what was there before, and what comes to it."""

    def __init__(self, store: Store, delivery: Delivery, directory: str, deadline: Deadline) -> None:
        self.delivery = delivery
        self.directory = directory
        self.deadline = deadline
        self.is_first = False
        """The store has just told that the event was not there before."""
        self._store = store
        self._there: Mapping[str, int] = {}
        self._manifest = b""
        self._kept: Mapping[str, Kept] = {}

    def begin(self) -> Kept:
        """Write the event's body; where that is there already, look what else is."""
        body, target = self.delivery.body, self.target("run.json", DEFAULT if self.delivery.problem else JSON)
        if self.delivery.attempt == 1 and len(body) <= MAX_OFFERED and self._store.create(target, body):
            self.is_first = True
            return _event_file(body, target.content)
        self._there = self._store.survey(self.directory, self.deadline)
        manifest = self.directory + "manifest.json"
        if "manifest.json" in self._there and (stored := self._store.read(manifest, self.deadline)):
            self._manifest = stored.body
        self._kept = kept_in(self._manifest)
        same = self.already(Artifact("event", "run.json", "", sha256=hashlib.sha256(body).hexdigest(), size=len(body)))
        if same is not None:
            return replace(same, content_type=target.content)
        self._store.put(target, body)
        return _event_file(body, target.content)

    def target(self, name: str, content: str) -> ObjectTarget:
        """Where a file of this event goes."""
        return ObjectTarget(self.directory + name, content, self.delivery, self.deadline)

    def already(self, artifact: Artifact) -> Kept | None:
        """What is known of the artifact if it is there, whole and the same; then it needs no download."""
        name = artifact.name
        size = self._there.get(name)
        if size is None or (artifact.size is not None and artifact.size != size):
            return None
        before = self._kept.get(name)
        if before is not None and before.size == size:
            sha256: str | None = before.sha256
        else:
            before, sha256 = None, self._store.digest(self.directory + name, size, self.deadline)
        if sha256 is None or artifact.sha256 not in (None, sha256):
            return None
        return before or _kept(artifact, size, sha256, content_type(name), "")

    def finish(self, manifest: Manifest) -> None:
        """Write the manifest, unless that is what is there."""
        document = manifest.dump()
        if document != self._manifest:
            self._store.put(self.target("manifest.json", JSON), document)


def _event_file(body: bytes, content: str) -> Kept:
    return _kept(Artifact("event", "run.json", ""), len(body), hashlib.sha256(body).hexdigest(), content, "")


def _kept(artifact: Artifact, size: int, sha256: str, content: str, encoding: str) -> Kept:
    return Kept(
        name=artifact.name,
        kind=artifact.kind,
        size=size,
        sha256=sha256,
        content_type=content,
        source=without_query(artifact.url)[:2000],
        artifact_id=artifact.artifact_id,
        checked=artifact.sha256 is not None,
        content_encoding=encoding,
        stored_at=iso(datetime.now(UTC)),
    )


def _skipped(artifact: Artifact, reason: str) -> Skipped:
    source = without_query(artifact.url)[:2000]
    return Skipped(artifact.name, artifact.kind, reason, source, artifact.artifact_id, artifact.size)


def _raise_worst(errors: Iterable[Exception]) -> None:
    """What the delivery ends with when some of its files failed: a bug first, then a refusal, then the longest wait."""
    found = list(errors)
    for error in found:
        if not isinstance(error, (Unavailable, Refused)):
            raise error
    for error in found:
        if isinstance(error, Refused):
            raise error
    away = [error for error in found if isinstance(error, Unavailable)]
    if away:
        waits = [error.retry_after for error in away if error.retry_after is not None]
        first = next((error for error in away if not error.dependency), away[0])  # the store's own trouble says most
        more = f" (and {len(away) - 1} more files failed)" if len(away) > 1 else ""
        raise Unavailable(f"{first}{more}", retry_after=max(waits, default=None), dependency=first.dependency)
