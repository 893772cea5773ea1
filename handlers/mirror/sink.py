"""What the sinks `files` and `s3` share: one delivery written into a store.

    <prefix><event id>/run.json, manifest.json      of this event alone
    <prefix>files/                                  the run's files, without duplicates
    <prefix>latest.json                             moves to newer events only

The body is written first, so a missing file never delays the result. The manifest is last, so after a crash the folder
lacks it; the next attempt writes the same names and fetches only missing files. This module knows neither S3 nor disks.
"""

from __future__ import annotations

import re
import threading
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar
from urllib.parse import quote

from handlers.contract import Artifact, Delivery, ReadableFile, Receipt, Refused, Services, Sink, Unavailable
from handlers.mirror.artifacts import artifacts_of, with_listed
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

if TYPE_CHECKING:
    from handlers.mirror.download import ArtifactFetcher
    from handlers.support.guarded_client import GuardedClient

# Ends a source's folder. Template values never contain it, so other sources can't write there.
SOURCE_MARK = "~"
# Attempts to replace `latest.json` under contention before the delivery is postponed.
MAX_SWAPS = 8

O = TypeVar("O", bound=MirrorOptions)  # noqa: E741 - as in the contract


class _Opened(NamedTuple):
    """A sink's resources, created at first use."""

    store: Store
    client: GuardedClient
    prefix: templating.Template


class MirrorSink(Sink[O]):
    """Stores each event and its run's files. Store and HTTP client are created at first use: they import slowly, and
    every process builds sinks to check options."""

    takes_updates: ClassVar[bool] = True
    erases: ClassVar[bool] = True

    def __init__(self, name: str, options: O, services: Services) -> None:
        super().__init__(name, options, services)
        # The template's constant first folders: all keys are below them, for credentials limited to a prefix.
        self._fixed_parts = re.split(r"\{[{%#]", options.prefix)[0].count("/")
        # Folders of the first source have no mark, as when it was the only source.
        self._unmarked = frozenset(services.sources()[:1])
        self._lock = threading.Lock()
        self._opened: _Opened | None = None

    @abstractmethod
    def make_store(self) -> Store:
        """Make the store. Opens no connection and no file."""

    def _open(self) -> _Opened:
        with self._lock:
            if self._opened is None:
                from handlers.support.guarded_client import GuardedClient

                client = GuardedClient(self.services.allowed_addresses())
                self._opened = _Opened(self.make_store(), client, compile_prefix(self.options.prefix))
            return self._opened

    @property
    def _store(self) -> Store:
        return self._open().store

    def send(self, delivery: Delivery) -> Receipt:
        """Store the event and its files. The receipt's id is the location of its folder, `keys` the files in it."""
        from handlers.mirror.download import ArtifactFetcher
        from handlers.mirror.transfer import Transfer, raise_most_severe

        options, deadline = self.options, Deadline(self.options.timeout)
        folder = RunFolder(self._store, delivery, self._prefix_of(delivery), deadline)
        body = folder.write_body()
        cap, total = options.max_artifact_bytes, options.max_event_bytes
        fetcher = ArtifactFetcher(self._open().client, self.services, delivery, deadline, cap=cap, total=total)
        artifacts, skipped = self._artifacts(delivery, fetcher)
        names = frozenset(artifact.name for artifact in artifacts)
        transfer = Transfer(self._store, folder, fetcher, names, options.on_missing)
        results = run_all(artifacts, transfer.store, options.parallel, deadline)
        raise_most_severe([result for result in results if isinstance(result, Exception)])
        stored = [body, *(result for result in results if isinstance(result, StoredFile))]
        skipped = [*(result for result in results if isinstance(result, SkippedFile)), *skipped]
        folder.write_manifest(manifest_document(delivery, stored, skipped))
        if not delivery.test:
            self._update_latest(folder)
        return self._receipt(folder, stored, skipped)

    def find_file(self, location: str) -> ReadableFile | None:
        """See Sink. None also for a location outside this store's root."""
        key = self._key_at(location)
        return self._store.find_file(key, Deadline(self.options.timeout)) if key else None

    def erase(self, source: str, run_id: str, receipt: Mapping[str, Any]) -> None:  # noqa: ARG002 - the keys suffice
        """See Sink. Also deletes `latest.json` if it names the event.

        Raises Refused, before any deletion, for a file outside the prefix's constant folders.
        """
        deadline = Deadline(self.options.timeout)
        fixed = [part.strip() for part in self.options.prefix.split("/")[: self._fixed_parts]]
        below = "".join(f"{part}/" for part in fixed if part)
        keys = {each: self._key_at(each) for each in receipt.get("keys", ())}
        if outside := [each for each, key in keys.items() if not key or not key.startswith(below)]:
            raise Refused(f"{outside[0]} is not below {self._store.location(below)}. Delete it there by hand")
        self._store.delete(list(keys.values()), deadline)
        directory = self._key_at(str(receipt.get("id", "")).rstrip("/"))
        prefix = directory[: directory.rfind("/") + 1]
        latest = self._store.read(prefix + "latest.json", deadline) if directory else None
        if latest is not None and prefix + manifest_path(latest.body) == f"{directory}/manifest.json":
            self._store.delete([prefix + "latest.json"], deadline)

    def close(self) -> None:
        """Close connections and let idle threads end."""
        if self._opened is not None:
            self._opened.store.close()
            self._opened.client.close()

    def _key_at(self, location: str) -> str:
        """Return the key at a location of a receipt; "" for a location outside this store's root."""
        root = self._store.location("").rstrip("/") + "/"
        key = location.removeprefix(root)
        outside = not location.startswith(root) or any(part in ("", ".", "..") for part in key.split("/"))
        return "" if outside else key

    def _prefix_of(self, delivery: Delivery) -> str:
        template = self._open().prefix
        rendered = template.render(templating.context_of(delivery))
        parts = [part.strip() for part in rendered.split("/") if part.strip()]
        if any(part in (".", "..") or "\\" in part or min(part) < " " for part in parts):
            raise Refused("the prefix template produces an invalid name")
        if self._unmarked and delivery.source not in self._unmarked and "source" not in template.used:
            parts.insert(self._fixed_parts, safe_file_name(delivery.source) + SOURCE_MARK)
        prefix = "".join(part + "/" for part in parts)
        if len(prefix.encode()) > MAX_PREFIX:
            raise Refused(f"the prefix template produces more than {MAX_PREFIX} bytes")
        return prefix

    def _artifacts(self, delivery: Delivery, fetcher: ArtifactFetcher) -> tuple[list[Artifact], list[SkippedFile]]:
        """Return the run's files to store, and those beyond `max_artifacts`."""
        from handlers.mirror.transfer import skipped_file

        if delivery.test:  # Skyvern's test webhooks name files on example.com
            return [], []
        artifacts = artifacts_of(delivery.run)
        if self.options.artifacts:
            artifacts = with_listed(artifacts, fetcher.listed(), self.options.artifacts)
        most = self.options.max_artifacts
        why = f"more than {most} files (max_artifacts)"
        return artifacts[:most], [skipped_file(artifact, why) for artifact in artifacts[most:]]

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
        raise Unavailable("other writers keep changing latest.json")

    def _receipt(self, folder: RunFolder, stored: list[StoredFile], skipped: list[SkippedFile]) -> Receipt:
        keys, base = folder.keys(stored), self.options.public_url
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


def _note(stored: Sequence[StoredFile], skipped: Sequence[SkippedFile]) -> str:
    """Return which files are missing or partial, and why, for operators."""
    notes = []
    if skipped:
        reasons = "; ".join(dict.fromkeys(entry.reason for entry in skipped))
        notes.append(f"{len(skipped)} of {len(stored) - 1 + len(skipped)} files are not kept ({reasons[:300]})")
    notes += [f"{entry.name} may be only a part ({entry.incomplete})" for entry in stored if entry.incomplete]
    return "; ".join([*notes, "see manifest.json"]) if notes else ""
