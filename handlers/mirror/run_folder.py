"""The layout of a run in a store, and its stored files.

    <prefix><event id>/        the event's body and manifest
    <prefix>files/             the run's files, each named by what identifies its bytes

All events give the same file the same name. The store is listed first, so that stored files are not fetched again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property

from handlers.contract import Artifact, Delivery
from handlers.mirror.artifacts import url_identity
from handlers.mirror.manifest import StoredFile, iso_utc, manifest_path, stored_files
from handlers.mirror.names import DEFAULT, JSON, content_type, key_part, safe_file_name, with_suffix
from handlers.mirror.store import ObjectTarget, Store
from handlers.support.deadline import Deadline
from handlers.support.url import without_query

# Immutable artifacts: a screenshot's id or URL identifies its bytes.
_NEVER_CHANGED = "screenshot"
# Kinds named by position in the event, so that another event may reuse a name for another file.
_NUMBERED = frozenset({"screenshot", "recording"})
_DIGITS = 12


class RunFolder:
    """The folder of a delivery's run. `directory`: of the event, relative to `prefix`; `path`: with the prefix."""

    def __init__(self, store: Store, delivery: Delivery, prefix: str, deadline: Deadline) -> None:
        self.delivery = delivery
        self.deadline = deadline
        self.prefix = prefix
        self.directory = ("test-" if delivery.test else "") + safe_file_name(delivery.event_id) + "/"
        self.path = prefix + self.directory
        self._files = self.path if delivery.test else prefix + _files_directory(prefix, delivery.run_id)
        self._store = store
        self._sizes: dict[str, int] = {}  # of stored objects, by key
        self._manifest = b""
        self._listed: dict[str, StoredFile] = {}  # in this event's manifest, by name

    def write_body(self) -> StoredFile:
        """List the stored files of the run, and write the event's body."""
        body, target = self.delivery.payload, self.target("run.json", DEFAULT if self.delivery.problem else JSON)
        entry = _entry(
            Artifact("event", "run.json", ""), len(body), hashlib.sha256(body).hexdigest(), target.content_type
        )
        self._list(self.path)
        if self.path + "manifest.json" in self._sizes:
            manifest = self._store.read(self.path + "manifest.json", self.deadline)
            self._manifest = manifest.body if manifest else b""
            self._listed = stored_files(self._manifest)
        if not self.delivery.test:
            self._list(self._files)
        same = self._at(target.key, Artifact("event", "run.json", "", sha256=entry.sha256, size=len(body)))
        if same is None:
            self._store.put(target, body)
        return entry if same is None else replace(entry, stored_at=same.stored_at)

    def target(self, name: str, content_type: str) -> ObjectTarget:
        """Return where a document of this event is written."""
        return ObjectTarget(self.path + name, content_type, self.delivery, self.deadline)

    def target_of(self, artifact: Artifact, size: int | None, *, incomplete: bool = False) -> ObjectTarget:
        """Return where a file is written. `size`: in bytes, if known. `incomplete`: it may be partial."""
        key = self._key(artifact, size, incomplete=incomplete)
        return ObjectTarget(key, content_type(artifact.name), self.delivery, self.deadline)

    def find(self, artifact: Artifact, size: int | None) -> StoredFile | None:
        """Return the stored file if it is complete and the same, so that it need not be fetched. `size`: if known."""
        keys = [self._key(artifact, size)]
        before = self._listed.get(artifact.name)
        if before is not None and _may_be(artifact, before):
            keys.insert(0, self._key_of(before))
        entries = (self._at(key, artifact) for key in keys)
        return next((entry for entry in entries if entry is not None and size in (None, entry.size)), None)

    def stored(
        self, artifact: Artifact, target: ObjectTarget, size: int, sha256: str, *, encoding: str = "", why: str = ""
    ) -> StoredFile:
        """Return the manifest entry of a file written at `target`. `why`: reason if it may be partial."""
        entry = _entry(artifact, size, sha256, target.content_type)
        return replace(entry, path=self._relative(target.key, artifact.name), content_encoding=encoding, incomplete=why)

    def write_manifest(self, document: bytes) -> None:
        """Write the manifest, unless the stored one is the same."""
        if document != self._manifest:
            self._store.put(self.target("manifest.json", JSON), document)

    def keys(self, entries: Sequence[StoredFile]) -> dict[str, str]:
        """Return the entries' keys by name, the manifest's last."""
        return {**{entry.name: self._key_of(entry) for entry in entries}, "manifest.json": self.path + "manifest.json"}

    def _list(self, directory: str) -> None:
        for name, size in self._store.list_directory(directory, self.deadline).items():
            self._sizes[directory + name] = size

    def _at(self, key: str, artifact: Artifact) -> StoredFile | None:
        """Return an entry for the object at `key` if it is provably `artifact`."""
        size = self._sizes.get(key)
        if size is None or artifact.size not in (None, size):
            return None
        before = next((each for each in self._listed.values() if self._key_of(each) == key and each.size == size), None)
        entry = before or self._identified(key, artifact, size)
        if entry is None:
            return None
        if artifact.sha256 not in (None, entry.sha256):
            return None
        return replace(
            entry,
            name=artifact.name,
            path=self._relative(key, artifact.name),
            checked=entry.checked or artifact.sha256 is not None,
            size_checked=entry.size_checked or artifact.size is not None,
        )

    def _identified(self, key: str, artifact: Artifact, size: int) -> StoredFile | None:
        """Return an entry for the object at `key`, by its digest in the store or in the newest event's manifest."""
        identity = self._store.identify(key, size, self.deadline)
        if identity is None:
            return next((each for each in self._newest if self._key_of(each) == key and each.size == size), None)
        return replace(_entry(artifact, size, identity[0], content_type(artifact.name)), content_encoding=identity[1])

    @cached_property
    def _newest(self) -> Sequence[StoredFile]:
        """Return the shared files of the event that `latest.json` names."""
        latest = self._store.read(self.prefix + "latest.json", self.deadline)
        path = manifest_path(latest.body) if latest else ""
        manifest = self._store.read(self.prefix + path, self.deadline) if path else None
        files = stored_files(manifest.body).values() if manifest else ()
        return [each for each in files if each.path.startswith("../")]

    def _key(self, artifact: Artifact, size: int | None, *, incomplete: bool = False) -> str:
        identity = _identity(artifact, size)
        if not identity or self._files == self.path:
            return self.path + (with_suffix(artifact.name, "-incomplete") if incomplete else artifact.name)
        name = artifact.name
        if artifact.kind in _NUMBERED:
            name = artifact.kind + name[name.rfind(".") :]
        digest = hashlib.sha256("\0".join((self.delivery.source, *identity)).encode(errors="replace")).hexdigest()
        return self._files + with_suffix(name, ("-incomplete-" if incomplete else "-") + digest[:_DIGITS])

    def _key_of(self, entry: StoredFile) -> str:
        if entry.path.startswith("../"):
            return self.prefix + entry.path.removeprefix("../")
        return self.path + (entry.path or entry.name)

    def _relative(self, key: str, name: str) -> str:
        """Return a key relative to this event; "" for a file in its directory under its name."""
        if key.startswith(self.path):
            own = key.removeprefix(self.path)
            return "" if own == name else own
        return "../" + key.removeprefix(self.prefix)


def _files_directory(prefix: str, run_id: str) -> str:
    """Return the folder of a run's files below the prefix. Runs that share a prefix get separate folders."""
    run = key_part(run_id)
    return "files/" if not run or run in prefix.split("/") else f"files/{run}/"


def _identity(artifact: Artifact, size: int | None) -> tuple[str, ...]:
    """Return what identifies a file's bytes within its run; () when unknown.

    Without a checksum: id or URL, and size, since a recording or log grows under one id.
    """
    if artifact.sha256 is not None and artifact.kind == "download":
        return ("sha256", artifact.sha256)
    place = ("id", artifact.artifact_id) if artifact.artifact_id else ("url", url_identity(artifact.url))
    if artifact.kind.startswith(_NEVER_CHANGED):
        return (artifact.kind, *place)
    return (artifact.kind, *place, str(size)) if size is not None else ()


def _may_be(artifact: Artifact, entry: StoredFile) -> bool:
    """Whether a manifest entry of this event can describe `artifact`."""
    return entry.kind == artifact.kind and entry.artifact_id in (None, artifact.artifact_id) and not entry.incomplete


def _entry(artifact: Artifact, size: int, sha256: str, content_type: str) -> StoredFile:
    return StoredFile(
        name=artifact.name,
        kind=artifact.kind,
        size=size,
        sha256=sha256,
        content_type=content_type,
        source=without_query(artifact.url)[:2000],
        artifact_id=artifact.artifact_id,
        checked=artifact.sha256 is not None,
        size_checked=artifact.size is not None,
        stored_at=iso_utc(datetime.now(UTC)),
    )
