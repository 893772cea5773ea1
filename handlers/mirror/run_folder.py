"""What a store has of a run, and where a delivery's event and files are written in it.

    <prefix><event id>/        the event's body and manifest
    <prefix>files/             the run's files, each under a name that is made of what identifies its bytes

Two events that name one file have one name for it, whether they know of each other or not, in whatever order or at
once they are sent: so it is stored once. That they need not fetch it twice is a matter of looking: at a later attempt,
or where the ledger knows other events of the run, the store is read first. The first event of a run reads nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from handlers.contract import Artifact, Delivery
from handlers.mirror.artifacts import url_identity
from handlers.mirror.content_types import DEFAULT, JSON, content_type
from handlers.mirror.manifest import Manifest, StoredFile, iso_utc, manifest_in_latest, stored_files
from handlers.mirror.names import key_part, safe_file_name, with_suffix
from handlers.mirror.store import ObjectTarget, Store
from handlers.support.deadline import Deadline
from handlers.support.url import without_query

# Largest body, in bytes, that is written without first reading whether it is stored: more would be sent in vain.
MAX_OPTIMISTIC_WRITE = 1024 * 1024

# Artifacts that are written once and never changed: a screenshot's id, or its URL, is enough to know its bytes.
_NEVER_CHANGED = "screenshot"
# The kinds whose names in an event are numbered by their place, which another event may give to another file.
_NUMBERED = frozenset({"screenshot", "recording"})
_DIGITS = 12


class RunFolder:
    """The folder of a delivery's run: what earlier attempts and other events have left, and what this one adds."""

    def __init__(self, store: Store, delivery: Delivery, prefix: str, deadline: Deadline) -> None:
        self.delivery = delivery
        self.deadline = deadline
        self.prefix = prefix
        # Of the event, relative to the prefix, and whole.
        self.directory = ("test-" if delivery.test else "") + safe_file_name(delivery.event_id) + "/"
        self.path = prefix + self.directory
        # The store reported at the first write that it had nothing of this event.
        self.is_new = False
        self._files = self.path if delivery.test else prefix + _files_directory(prefix, delivery.run_id)
        self._store = store
        self._sizes: dict[str, int] = {}
        self._manifest = b""
        # What manifests say: this event's by name, and all by key.
        self._own: dict[str, StoredFile] = {}
        self._listed: dict[str, StoredFile] = {}

    def write_body(self) -> StoredFile:
        """Write the event's body; then, unless all is new, read what is stored of the run."""
        body, target = self.delivery.payload, self.target("run.json", DEFAULT if self.delivery.problem else JSON)
        optimistic = self.delivery.attempt == 1 and len(body) <= MAX_OPTIMISTIC_WRITE
        self.is_new = optimistic and self._store.put_if_absent(target, body)
        if not self.is_new or self.delivery.other_events:
            self._read()
        if not self.is_new:
            event = Artifact("event", "run.json", "", sha256=hashlib.sha256(body).hexdigest(), size=len(body))
            if (same := self._at(self.path + event.name, event)) is not None:
                return replace(_event_file(body, target.content_type), stored_at=same.stored_at)
            self._store.put(target, body)
        return _event_file(body, target.content_type)

    def target(self, name: str, content_type: str) -> ObjectTarget:
        """Return where a document of this event is written."""
        return ObjectTarget(self.path + name, content_type, self.delivery, self.deadline)

    def target_of(self, artifact: Artifact, size: int | None, *, incomplete: bool = False) -> ObjectTarget:
        """Return where a file is written. `size`: in bytes, if known. `incomplete`: it may be only a part."""
        return ObjectTarget(
            self._key(artifact, size, incomplete=incomplete), content_type(artifact.name), self.delivery, self.deadline
        )

    def find(self, artifact: Artifact, size: int | None) -> StoredFile | None:
        """Return the stored file if it is whole and the same, and so needs no download; else None.

        `size`: its bytes, if known.
        """
        before = self._own.get(artifact.name)
        if before is not None and _may_be(artifact, before):
            found = self._at(self._key_of(before), artifact)
            if found is not None and size in (None, found.size):
                return found
        key = self._key(artifact, size)
        found = self._at(key, artifact)
        return found if found is not None and size in (None, found.size) else None

    def stored(
        self, artifact: Artifact, target: ObjectTarget, size: int, sha256: str, *, encoding: str = "", why: str = ""
    ) -> StoredFile:
        """Return the manifest's entry of a file that was written at `target`. `why`: it may be only a part."""
        entry = _entry(artifact, size, sha256, target.content_type)
        return replace(entry, path=self._relative(target.key, artifact.name), content_encoding=encoding, incomplete=why)

    def write_manifest(self, manifest: Manifest) -> None:
        """Write the manifest, unless the stored one is the same."""
        document = manifest.dump()
        if document != self._manifest:
            self._store.put(self.target("manifest.json", JSON), document)

    def keys(self, entries: Sequence[StoredFile]) -> dict[str, str]:
        """Return the keys of the entries by their names, and last that of the manifest."""
        return {**{entry.name: self._key_of(entry) for entry in entries}, "manifest.json": self.path + "manifest.json"}

    def _read(self) -> None:
        """Read what is stored: this event's manifest and that of the newest event, and which files there are."""
        if not self.is_new:
            self._list(self.path)
            if self.path + "manifest.json" in self._sizes:
                self._manifest = self._document(self.path + "manifest.json")
                self._own = stored_files(self._manifest)
                self._listed = {self._key_of(entry): entry for entry in self._own.values()}
        if self.delivery.test or not self.delivery.run_id:
            return
        newest = manifest_in_latest(self._document(self.prefix + "latest.json"))
        if newest and self.prefix + newest != self.path + "manifest.json":
            directory = self.prefix + newest.rpartition("/")[0] + "/"
            for entry in stored_files(self._document(self.prefix + newest)).values():
                if entry.path.startswith("../"):  # what stands in that event's own directory is for that event alone
                    self._listed.setdefault(_joined(directory, entry), entry)
        self._list(self._files)

    def _list(self, directory: str) -> None:
        for name, size in self._store.list_directory(directory, self.deadline).items():
            self._sizes[directory + name] = size

    def _document(self, key: str) -> bytes:
        found = self._store.read(key, self.deadline)
        return found.body if found else b""

    def _at(self, key: str, artifact: Artifact) -> StoredFile | None:
        """Return an entry for the object at `key` if it can be shown to be `artifact`."""
        size = self._sizes.get(key)
        if size is None or artifact.size not in (None, size):
            return None
        before = self._listed.get(key)
        if before is not None and before.size != size:
            before = None
        sha256 = before.sha256 if before is not None else self._store.digest(key, size, self.deadline)
        if sha256 is None or artifact.sha256 not in (None, sha256):
            return None
        entry = before or self._unlisted(key, _entry(artifact, size, sha256, content_type(artifact.name)))
        return replace(
            entry,
            name=artifact.name,
            path=self._relative(key, artifact.name),
            checked=entry.checked or artifact.sha256 is not None,
            size_checked=entry.size_checked or artifact.size is not None,
        )

    def _unlisted(self, key: str, entry: StoredFile) -> StoredFile:
        """Return the entry of a stored file that no manifest at hand lists, with what only its store knows."""
        kept = self._store.find_file(key, self.deadline)
        return entry if kept is None else replace(entry, content_encoding=kept.encoding)

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
        return _joined(self.path, entry)

    def _relative(self, key: str, name: str) -> str:
        """Return a key as a manifest of this event writes it; "" for a file of its own directory under its name."""
        if key.startswith(self.path):
            own = key.removeprefix(self.path)
            return "" if own == name else own
        return "../" + key.removeprefix(self.prefix)


def _files_directory(prefix: str, run_id: str) -> str:
    """Return where, below the prefix, the files of a run are. A prefix that many runs share has a folder for each."""
    run = key_part(run_id)
    return "files/" if not run or run in prefix.split("/") else f"files/{run}/"


def _identity(artifact: Artifact, size: int | None) -> tuple[str, ...]:
    """Return what tells the bytes of a file from all others of its run; () when that is not known.

    A file without a checksum is told by its id, or its URL, and its size, since a recording or log grows under one id.
    """
    if artifact.sha256 is not None and artifact.kind == "download":
        return ("sha256", artifact.sha256)
    place = ("id", artifact.artifact_id) if artifact.artifact_id else ("url", url_identity(artifact.url))
    if artifact.kind.startswith(_NEVER_CHANGED):
        return (artifact.kind, *place)
    return (artifact.kind, *place, str(size)) if size is not None else ()


def _may_be(artifact: Artifact, entry: StoredFile) -> bool:
    """Whether an entry of this event's own manifest can be of the file that the event names."""
    return entry.kind == artifact.kind and entry.artifact_id in (None, artifact.artifact_id) and not entry.incomplete


def _joined(directory: str, entry: StoredFile) -> str:
    """Return the key of a manifest's entry. `directory`: the manifest's, which ends in /."""
    if not entry.path.startswith("../"):
        return directory + (entry.path or entry.name)
    above, slash, _ = directory[:-1].rpartition("/")
    return above + slash + entry.path.removeprefix("../")


def _event_file(body: bytes, content_type: str) -> StoredFile:
    return _entry(Artifact("event", "run.json", ""), len(body), hashlib.sha256(body).hexdigest(), content_type)


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
