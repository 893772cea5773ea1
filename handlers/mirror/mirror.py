"""Mirror one delivery into a store: the body first, then the files, then the manifest, then `latest.json`.

    <prefix><event id>/run.json, the files, manifest.json       of this event alone, never another's
    <prefix>latest.json                                         moves to newer events only

The body goes first, so a file that can't be had never holds back the result. The manifest goes last, so a crash in the
middle leaves a directory without one; the next attempt writes the same names and fetches only what is missing. A new
event costs one write for each object and no reads: its body and `latest.json` are written with put-if-absent, and only
when that fails the store is read. This file knows neither S3 nor disks: a `Store` does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from urllib.parse import quote

from handlers.contract import Artifact, Delivery, Receipt, Refused, Services, Unavailable
from handlers.mirror.artifacts import artifacts_of, with_listed
from handlers.mirror.content_types import DEFAULT, JSON, content_type
from handlers.mirror.download import ArtifactFetcher, ArtifactListing, SkipArtifact, as_dependency_failure
from handlers.mirror.fan_out import FanOut, run_within
from handlers.mirror.manifest import (
    Manifest,
    SkippedFile,
    StoredFile,
    event_fields,
    event_order,
    iso_utc,
    latest_document,
    order_in_latest,
    stored_files,
)
from handlers.mirror.names import safe_file_name
from handlers.mirror.options import MAX_PREFIX, MirrorOptions, compile_prefix
from handlers.mirror.store import FETCHING_THREADS, ObjectTarget, Store
from handlers.support import templating
from handlers.support.daemon_pool import DaemonPool
from handlers.support.guarded_client import Deadline, GuardedClient
from handlers.support.url import without_query

# Largest body, in bytes, that is written without first reading whether it is stored: more would be sent in vain.
MAX_OPTIMISTIC_WRITE = 1024 * 1024
# Attempts to replace `latest.json` before the delivery is put off because other writers are faster.
MAX_SWAPS = 8


class Mirror:
    """Writes deliveries into a store. Opens nothing before the first one."""

    def __init__(self, options: MirrorOptions, services: Services, store: Store) -> None:
        self._options = options
        self._services = services
        self._store = store
        self._prefix = compile_prefix(options.prefix)
        self._pool = DaemonPool(FETCHING_THREADS, "fetch")
        self._client = GuardedClient(services.allowed_addresses(), max_connections=FETCHING_THREADS + 64)

    def send(self, delivery: Delivery) -> Receipt:
        """Store the event and its files. Raises Refused, and Unavailable, also when the options' timeout is over."""
        deadline = Deadline(self._options.timeout)
        return run_within(deadline, lambda: self._send(delivery, deadline))

    def close(self) -> None:
        """Close connections and let idle threads end."""
        self._pool.close()
        self._client.close()

    def _send(self, delivery: Delivery, deadline: Deadline) -> Receipt:
        prefix = self._prefix_of(delivery)
        folder = ("test-" if delivery.test else "") + safe_file_name(delivery.event_id) + "/"
        directory = _EventDirectory(self._store, delivery, prefix + folder, deadline)
        body = directory.write_body()
        listing = ArtifactListing(self._services, delivery)
        wanted, skipped = self._wanted(delivery, listing)
        cap = self._options.max_artifact_bytes
        fetcher = ArtifactFetcher(self._client, self._services, delivery, listing, cap, deadline)
        fan_out = FanOut(wanted, lambda artifact: self._store_artifact(directory, fetcher, artifact))
        results = fan_out.run(self._pool, self._options.parallel - 1, deadline)
        _raise_most_severe([result for result in results if isinstance(result, Exception)])
        stored = [body, *(result for result in results if isinstance(result, StoredFile))]
        skipped = [*(result for result in results if isinstance(result, SkippedFile)), *skipped]
        directory.write_manifest(Manifest(event_fields(delivery), stored, skipped))
        if not delivery.test:
            self._update_latest(prefix, folder, directory)
        return self._receipt(directory.path, stored, skipped)

    def _prefix_of(self, delivery: Delivery) -> str:
        rendered = self._prefix.render(templating.context_of(delivery))
        parts = [part.strip() for part in rendered.split("/") if part.strip()]
        if any(part in (".", "..") or "\\" in part or min(part) < " " for part in parts):
            raise Refused("the prefix template gives a part that is no name")
        prefix = "".join(part + "/" for part in parts)
        if len(prefix.encode()) > MAX_PREFIX:
            raise Refused(f"the prefix template gives more than {MAX_PREFIX} bytes")
        return prefix

    def _wanted(self, delivery: Delivery, listing: ArtifactListing) -> tuple[list[Artifact], list[SkippedFile]]:
        if delivery.test:  # Skyvern's test webhooks name files on example.com
            return [], []
        artifacts = artifacts_of(delivery.run)
        if self._options.artifacts:
            artifacts = with_listed(artifacts, listing.get(), self._options.artifacts)
        most = self._options.max_artifacts
        return artifacts[:most], [_skipped(artifact, f"more than {most} files") for artifact in artifacts[most:]]

    def _store_artifact(
        self, directory: _EventDirectory, fetcher: ArtifactFetcher, artifact: Artifact
    ) -> StoredFile | SkippedFile:
        with as_dependency_failure():  # not started: the files that took the time decide whose fault it is
            directory.deadline.remaining()
        if (stored := directory.find_stored(artifact)) is not None:
            return stored
        target = directory.target(artifact.name, content_type(artifact.name))
        try:
            incoming = fetcher.fetch(artifact, lambda incoming: self._store.put_stream(target, incoming))
        except SkipArtifact as reason:
            if self._options.on_missing == "fail" and not str(reason).startswith("larger"):
                raise Unavailable(f"a {artifact.kind} is missing: {reason}", dependency=True) from None
            return _skipped(artifact, str(reason))
        return _stored(artifact, incoming.size, incoming.sha256, target.content_type, incoming.content_encoding)

    def _update_latest(self, prefix: str, folder: str, directory: _EventDirectory) -> None:
        delivery, deadline = directory.delivery, directory.deadline
        target = ObjectTarget(prefix + "latest.json", JSON, delivery, deadline, mutable=True)
        mine, document = event_order(delivery), latest_document(delivery, folder)
        if directory.is_new and self._store.put_if_absent(target, document):
            return
        for _ in range(MAX_SWAPS):
            current = self._store.read(target.key, deadline)
            theirs = order_in_latest(current.body) if current else None
            if theirs is not None and theirs >= mine:
                return
            if self._store.compare_and_swap(target, document, current.version if current else None):
                return
            deadline.remaining()
        raise Unavailable("latest.json is being changed by others all the time")

    def _receipt(self, directory: str, stored: list[StoredFile], skipped: list[SkippedFile]) -> Receipt:
        names = [*(entry.name for entry in stored), "manifest.json"]
        base = self._options.public_url
        urls = {name: base + quote(directory + name) if base else self._store.url(directory + name) for name in names}
        note = ""
        if skipped:
            reasons = "; ".join(dict.fromkeys(entry.reason for entry in skipped))
            total = len(stored) - 1 + len(skipped)
            note = f"{len(skipped)} of {total} files are not kept ({reasons[:300]}); see manifest.json"
        return Receipt(
            id=self._store.location(directory),
            keys=tuple(self._store.location(directory + name) for name in names),
            urls={name: url for name, url in urls.items() if url},
            note=note,
        )


class _EventDirectory:
    """The directory of one delivery's event in the store: what earlier attempts wrote, and what this one adds."""

    def __init__(self, store: Store, delivery: Delivery, path: str, deadline: Deadline) -> None:
        self.delivery = delivery
        self.path = path
        self.deadline = deadline
        # The store reported at the first write that it had nothing of this event.
        self.is_new = False
        self._store = store
        self._sizes: Mapping[str, int] = {}
        self._manifest = b""
        self._listed: Mapping[str, StoredFile] = {}

    def write_body(self) -> StoredFile:
        """Write the event's body; where it is stored already, read what else is."""
        body, target = self.delivery.body, self.target("run.json", DEFAULT if self.delivery.problem else JSON)
        if self.delivery.attempt == 1 and len(body) <= MAX_OPTIMISTIC_WRITE and self._store.put_if_absent(target, body):
            self.is_new = True
            return _event_file(body, target.content_type)
        self._sizes = self._store.list_directory(self.path, self.deadline)
        manifest = self.path + "manifest.json"
        if "manifest.json" in self._sizes and (document := self._store.read(manifest, self.deadline)):
            self._manifest = document.body
        self._listed = stored_files(self._manifest)
        same = self.find_stored(
            Artifact("event", "run.json", "", sha256=hashlib.sha256(body).hexdigest(), size=len(body))
        )
        if same is not None:
            return replace(same, content_type=target.content_type)
        self._store.put(target, body)
        return _event_file(body, target.content_type)

    def target(self, name: str, content_type: str) -> ObjectTarget:
        """Return where a file of this event is written."""
        return ObjectTarget(self.path + name, content_type, self.delivery, self.deadline)

    def find_stored(self, artifact: Artifact) -> StoredFile | None:
        """Return the stored file if it is whole and the same, and so needs no download; else None."""
        name = artifact.name
        size = self._sizes.get(name)
        if size is None or (artifact.size is not None and artifact.size != size):
            return None
        before = self._listed.get(name)
        if before is not None and before.size == size:
            sha256: str | None = before.sha256
        else:
            before, sha256 = None, self._store.digest(self.path + name, size, self.deadline)
        if sha256 is None or artifact.sha256 not in (None, sha256):
            return None
        return before or _stored(artifact, size, sha256, content_type(name), "")

    def write_manifest(self, manifest: Manifest) -> None:
        """Write the manifest, unless the stored one is the same."""
        document = manifest.dump()
        if document != self._manifest:
            self._store.put(self.target("manifest.json", JSON), document)


def _event_file(body: bytes, content_type: str) -> StoredFile:
    return _stored(Artifact("event", "run.json", ""), len(body), hashlib.sha256(body).hexdigest(), content_type, "")


def _stored(artifact: Artifact, size: int, sha256: str, content_type: str, encoding: str) -> StoredFile:
    return StoredFile(
        name=artifact.name,
        kind=artifact.kind,
        size=size,
        sha256=sha256,
        content_type=content_type,
        source=without_query(artifact.url)[:2000],
        artifact_id=artifact.artifact_id,
        checked=artifact.sha256 is not None,
        content_encoding=encoding,
        stored_at=iso_utc(datetime.now(UTC)),
    )


def _skipped(artifact: Artifact, reason: str) -> SkippedFile:
    source = without_query(artifact.url)[:2000]
    return SkippedFile(artifact.name, artifact.kind, reason, source, artifact.artifact_id, artifact.size)


def _raise_most_severe(errors: Sequence[Exception]) -> None:
    """Raise for files that failed: a bug first, then a refusal, then Unavailable with the longest wait."""
    for error in errors:
        if not isinstance(error, (Unavailable, Refused)):
            raise error
    for error in errors:
        if isinstance(error, Refused):
            raise error
    away = [error for error in errors if isinstance(error, Unavailable)]
    if away:
        waits = [error.retry_after for error in away if error.retry_after is not None]
        first = next((error for error in away if not error.dependency), away[0])  # the store's own failure goes first
        more = f" (and {len(away) - 1} more files failed)" if len(away) > 1 else ""
        raise Unavailable(f"{first}{more}", retry_after=max(waits, default=None), dependency=first.dependency)
