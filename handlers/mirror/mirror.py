"""Mirror one delivery into a store: the body first, then the files, then the manifest, then `latest.json`.

    <prefix><event id>/run.json, manifest.json      of this event alone, never another's
    <prefix>files/                                  the run's files, each once, however many events name it
    <prefix>latest.json                             moves to newer events only

The body goes first, so a file that can't be had never holds back the result. The manifest goes last, so a crash in
the middle leaves a directory without one; the next attempt writes the same names and fetches only what is missing.
A recording is kept as complete only if Skyvern's record of it agrees. This file knows neither S3 nor disks: a `Store`
does.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from handlers.contract import Artifact, Delivery, ReadableFile, Receipt, Refused, Services, Unavailable
from handlers.mirror.artifacts import RECORDING, artifacts_of, expected, named_as, record_of, unfinished, with_listed
from handlers.mirror.download import (
    LOOK_AGAIN,
    ArtifactFetcher,
    IncomingFile,
    NotAsAnnounced,
    SkipArtifact,
    as_dependency_failure,
    may_look_again,
)
from handlers.mirror.manifest import (
    SkippedFile,
    StoredFile,
    latest_document,
    manifest_document,
    manifest_path,
    replaces_latest,
)
from handlers.mirror.names import JSON, safe_file_name
from handlers.mirror.options import MAX_PREFIX, MirrorOptions, compile_prefix
from handlers.mirror.run_folder import RunFolder
from handlers.mirror.store import ObjectTarget, Store
from handlers.support import templating
from handlers.support.daemon_pool import run_all
from handlers.support.deadline import Deadline
from handlers.support.guarded_client import GuardedClient
from handlers.support.url import without_query

# Ends the folder of a source: no value of a template has it, so no run of another source can name that folder.
SOURCE_MARK = "~"
# Attempts to replace `latest.json` before the delivery is put off because other writers are faster.
MAX_SWAPS = 8


class Mirror:
    """Writes deliveries into a store. Opens nothing before the first one."""

    def __init__(self, options: MirrorOptions, services: Services, store: Store) -> None:
        self._options = options
        self._services = services
        self._store = store
        # Folders that the template itself names first: all is below them, for a key may be allowed to write only there.
        self._fixed_parts = re.split(r"\{[{%#]", options.prefix)[0].count("/")
        # Of a single source, or the first one, folders have no mark: they had none when there was no other.
        self._unmarked = frozenset(services.sources()[:1])
        self._client = GuardedClient(services.allowed_addresses())
        self._prefix = compile_prefix(options.prefix)

    def send(self, delivery: Delivery) -> Receipt:
        """Store the event and its files. Raises Refused, and Unavailable, also when the options' timeout is over."""
        deadline = Deadline(self._options.timeout)
        folder = RunFolder(self._store, delivery, self._prefix_of(delivery), deadline)
        body = folder.write_body()
        cap, total = self._options.max_artifact_bytes, self._options.max_event_bytes
        fetcher = ArtifactFetcher(self._client, self._services, delivery, deadline, cap=cap, total=total)
        wanted, skipped = self._wanted(delivery, fetcher)
        names = frozenset(artifact.name for artifact in wanted)
        transfer = _Transfer(self._store, folder, fetcher, names, self._options.on_missing)
        results = run_all(wanted, transfer.store, self._options.parallel, deadline)
        _raise_most_severe([result for result in results if isinstance(result, Exception)])
        stored = [body, *(result for result in results if isinstance(result, StoredFile))]
        skipped = [*(result for result in results if isinstance(result, SkippedFile)), *skipped]
        folder.write_manifest(manifest_document(delivery, stored, skipped))
        if not delivery.test:
            self._update_latest(folder)
        return self._receipt(folder, stored, skipped)

    def find_file(self, location: str) -> ReadableFile | None:
        """Return a file by its key of a receipt; None for what is not there, or not below this store's root."""
        key = self._key_at(location)
        return self._store.find_file(key, Deadline(self._options.timeout)) if key else None

    def _key_at(self, location: str) -> str:
        """Return the key at a location of a receipt; "" for one that is not below this store's root."""
        root = self._store.location("").rstrip("/") + "/"
        key = location.removeprefix(root)
        outside = not location.startswith(root) or any(part in ("", ".", "..") for part in key.split("/"))
        return "" if outside else key

    def erase(self, receipt: Mapping[str, Any]) -> None:
        """Delete the files of a receipt, and `latest.json` if it names their event.

        Raises Refused, before anything is deleted, for a file that is not below the folders that the prefix begins
        with, and Unavailable.
        """
        deadline = Deadline(self._options.timeout)
        fixed = [part.strip() for part in self._options.prefix.split("/")[: self._fixed_parts]]
        below = "".join(f"{part}/" for part in fixed if part)
        keys = {each: self._key_at(each) for each in receipt.get("keys", ())}
        if wrong := [each for each, key in keys.items() if not key or not key.startswith(below)]:
            raise Refused(f"{wrong[0]} is not below {self._store.location(below)}. Delete it there by hand")
        self._store.delete(list(keys.values()), deadline)
        directory = self._key_at(str(receipt.get("id", "")).rstrip("/"))
        prefix = directory[: directory.rfind("/") + 1]
        latest = self._store.read(prefix + "latest.json", deadline) if directory else None
        if latest is not None and prefix + manifest_path(latest.body) == f"{directory}/manifest.json":
            self._store.delete([prefix + "latest.json"], deadline)

    def close(self) -> None:
        """Close connections and let idle threads end."""
        self._store.close()
        self._client.close()

    def _prefix_of(self, delivery: Delivery) -> str:
        rendered = self._prefix.render(templating.context_of(delivery))
        parts = [part.strip() for part in rendered.split("/") if part.strip()]
        if any(part in (".", "..") or "\\" in part or min(part) < " " for part in parts):
            raise Refused("the prefix template gives a part that is not a valid name")
        if self._unmarked and delivery.source not in self._unmarked and "source" not in self._prefix.used:
            parts.insert(self._fixed_parts, safe_file_name(delivery.source) + SOURCE_MARK)
        prefix = "".join(part + "/" for part in parts)
        if len(prefix.encode()) > MAX_PREFIX:
            raise Refused(f"the prefix template gives more than {MAX_PREFIX} bytes")
        return prefix

    def _wanted(self, delivery: Delivery, fetcher: ArtifactFetcher) -> tuple[list[Artifact], list[SkippedFile]]:
        if delivery.test:  # Skyvern's test webhooks name files on example.com
            return [], []
        artifacts = artifacts_of(delivery.run)
        if self._options.artifacts:
            artifacts = with_listed(artifacts, fetcher.listed(), self._options.artifacts)
        most = self._options.max_artifacts
        return artifacts[:most], [_skipped(artifact, f"more than {most} files") for artifact in artifacts[most:]]

    def _update_latest(self, folder: RunFolder) -> None:
        delivery, deadline = folder.delivery, folder.deadline
        target = ObjectTarget(folder.prefix + "latest.json", JSON, delivery, deadline, mutable=True)
        document = latest_document(delivery, folder.directory)
        for _ in range(MAX_SWAPS):
            current = self._store.read(target.key, deadline)
            if current is not None and not replaces_latest(delivery, current.body):
                return
            if self._store.compare_and_swap(target, document, current.version if current else None):
                return
            deadline.remaining()
        raise Unavailable("latest.json is being changed by others all the time")

    def _receipt(self, folder: RunFolder, stored: list[StoredFile], skipped: list[SkippedFile]) -> Receipt:
        keys, base = folder.keys(stored), self._options.public_url
        urls = {name: base + quote(key) if base else self._store.url(key) for name, key in keys.items()}
        places = {name: self._store.location(key) for name, key in keys.items()}
        return Receipt(
            id=self._store.location(folder.path),
            keys=tuple(places.values()),
            urls={name: url for name, url in urls.items() if url},
            files={name: place for name, place in places.items() if not place.endswith("/" + name)},
            sizes={each.name: each.size for each in stored},
            note=_note(stored, skipped),
        )


@dataclass(frozen=True)
class _Transfer:
    """Brings the files of one delivery into the store, each at most once.

    `names`: those of all of them. `on_missing`: see MirrorOptions.
    """

    backend: Store
    folder: RunFolder
    fetcher: ArtifactFetcher
    names: Collection[str]
    on_missing: str

    def store(self, artifact: Artifact) -> StoredFile | SkippedFile:
        """Store one file, or say why it is not. Raises Unavailable, and what a bug raises."""
        with as_dependency_failure():  # not started: the files that took the time decide whose fault it is
            self.folder.deadline.remaining()
        try:
            return self._recording(artifact) if artifact.kind == RECORDING else self._file(artifact)
        except SkipArtifact as reason:
            if self.on_missing == "fail" and not str(reason).startswith("larger"):
                raise Unavailable(f"a {artifact.kind} is missing: {reason}", dependency=True) from None
            return _skipped(artifact, str(reason))

    def _recording(self, artifact: Artifact) -> StoredFile:
        """Store a recording that is complete by Skyvern's record; else look again, and at the end store it as it is."""
        again = may_look_again(self.folder.delivery)
        record: Artifact | None = None
        try:
            record = record_of(artifact, self.fetcher.listed(RECORDING))
            why = unfinished(record, self.folder.delivery.run)
        except Unavailable as error:
            if again:
                raise
            why = str(error)
        trusted = record is not None and bool(record.url)
        artifact = named_as(expected(artifact, record), record, self.names)
        try:
            if why:
                raise NotAsAnnounced(why)
            return self._file(artifact, trusted=trusted)
        except NotAsAnnounced as error:
            if again:
                raise NotAsAnnounced(str(error), retry_after=LOOK_AGAIN) from None
            if self.on_missing == "fail":
                raise
            return self._file(replace(artifact, size=None, sha256=None), trusted=trusted, incomplete=str(error))

    def _file(self, artifact: Artifact, *, trusted: bool = False, incomplete: str = "") -> StoredFile:
        """Store one file. `trusted`: its URL is the API's. `incomplete`: why it may be a part, and is kept as one."""
        folder = self.folder
        if not incomplete and (found := folder.find(artifact, artifact.size)) is not None:
            return found
        written: list[ObjectTarget] = []

        def receive(incoming: IncomingFile) -> None:
            size = incoming.announced
            if not incomplete and size is not None and (same := folder.find(artifact, size)) is not None:
                raise _Found(same)
            target = folder.target_of(artifact, size, incomplete=bool(incomplete))
            self.backend.put_stream(target, incoming)
            written.append(target)

        try:
            incoming = self.fetcher.fetch(artifact, receive, trusted=trusted)
        except _Found as error:
            return error.entry
        encoding = incoming.content_encoding
        return folder.stored(
            artifact, written[-1], incoming.size, incoming.sha256, encoding=encoding, why=incomplete[:300]
        )


class _Found(Exception):
    """The file whose transfer has begun is stored already, as its size shows."""

    def __init__(self, entry: StoredFile) -> None:
        super().__init__(entry.name)
        self.entry = entry


def _note(stored: Sequence[StoredFile], skipped: Sequence[SkippedFile]) -> str:
    """Return what an operator should see: which files are not kept, or only in part, and why."""
    notes = []
    if skipped:
        reasons = "; ".join(dict.fromkeys(entry.reason for entry in skipped))
        notes.append(f"{len(skipped)} of {len(stored) - 1 + len(skipped)} files are not kept ({reasons[:300]})")
    notes += [f"{entry.name} may be only a part ({entry.incomplete})" for entry in stored if entry.incomplete]
    return "; ".join([*notes, "see manifest.json"]) if notes else ""


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
        more = f" (and of the others {len(away) - 1} failed)" if len(away) > 1 else ""
        raise Unavailable(f"{first}{more}", retry_after=max(waits, default=None), dependency=first.dependency)
