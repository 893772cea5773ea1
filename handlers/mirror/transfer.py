"""Bring the files of one delivery into a store, each at most once.

A recording counts as complete only if Skyvern's record of it agrees. This module knows neither S3 nor disks.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from handlers.contract import Artifact, Refused, Unavailable
from handlers.mirror.artifacts import RECORDING, completed_by, record_of, why_incomplete, with_ending_of
from handlers.mirror.download import (
    LOOK_AGAIN,
    ArtifactFetcher,
    NotAsAnnounced,
    OverCap,
    SkipArtifact,
    as_dependency_failure,
    may_look_again,
)
from handlers.mirror.manifest import SkippedFile, StoredFile
from handlers.mirror.run_folder import RunFolder
from handlers.mirror.store import Store
from handlers.support.url import without_query


@dataclass(frozen=True)
class Transfer:
    """Stores the files of one delivery. Thread-safe.

    `names`: the names of all its files. `on_missing`: see MirrorOptions.
    """

    backend: Store
    folder: RunFolder
    fetcher: ArtifactFetcher
    names: Collection[str]
    on_missing: str

    def store(self, artifact: Artifact) -> StoredFile | SkippedFile:
        """Store one file, or report why it is skipped. Raises Unavailable, and unexpected exceptions."""
        with as_dependency_failure():  # not started: the error comes from the files that took the time
            self.folder.deadline.remaining()
        try:
            return self._recording(artifact) if artifact.kind == RECORDING else self._file(artifact)
        except OverCap as reason:
            return skipped_file(artifact, f"{reason} (max_artifact_bytes)")
        except SkipArtifact as reason:
            if self.on_missing == "fail" and not str(reason).startswith("larger"):
                raise Unavailable(f"a {artifact.kind} is missing: {reason}", dependency=True) from None
            return skipped_file(artifact, str(reason))

    def _recording(self, artifact: Artifact) -> StoredFile:
        """Store a recording that is complete by Skyvern's record. At the last attempt, store any."""
        retriable = may_look_again(self.folder.delivery)
        record: Artifact | None = None
        try:
            record = record_of(artifact, self.fetcher.listed(RECORDING))
            why = why_incomplete(record, self.folder.delivery.run)
        except Unavailable as error:
            if retriable:
                raise
            why = str(error)
        trusted = record is not None and bool(record.url)
        artifact = with_ending_of(completed_by(artifact, record), record, self.names)
        try:
            if why:
                raise NotAsAnnounced(why)
            return self._file(artifact, trusted=trusted)
        except NotAsAnnounced as error:
            if retriable:
                raise NotAsAnnounced(str(error), retry_after=LOOK_AGAIN) from None
            if self.on_missing == "fail":
                raise
            return self._file(replace(artifact, size=None, sha256=None), trusted=trusted, incomplete=str(error))

    def _file(self, artifact: Artifact, *, trusted: bool = False, incomplete: str = "") -> StoredFile:
        """Store one file, unless stored already. `trusted`: the URL comes from the API. `incomplete`: reason to store
        it as partial."""
        folder = self.folder
        if not incomplete and (stored := folder.find(artifact, artifact.size)) is not None:
            return stored
        with self.fetcher.open(artifact, trusted=trusted) as incoming:
            size = incoming.announced
            if not incomplete and size is not None and (stored := folder.find(artifact, size)) is not None:
                return stored
            target = folder.target_of(artifact, size, incomplete=bool(incomplete))
            self.backend.put_stream(target, incoming)
        encoding = incoming.content_encoding
        return folder.stored(artifact, target, incoming.size, incoming.sha256, encoding=encoding, why=incomplete[:300])


def skipped_file(artifact: Artifact, reason: str) -> SkippedFile:
    """Return the manifest's entry of a file that is not stored."""
    source = without_query(artifact.url)[:2000]
    return SkippedFile(artifact.name, artifact.kind, reason, source, artifact.artifact_id, artifact.size)


def raise_most_severe(errors: Sequence[Exception]) -> None:
    """Raise for files that failed: a bug first, then a refusal, then Unavailable with the longest wait."""
    for error in errors:
        if not isinstance(error, (Unavailable, Refused)):
            raise error
    for error in errors:
        if isinstance(error, Refused):
            raise error
    unavailable = [error for error in errors if isinstance(error, Unavailable)]
    if unavailable:
        waits = [error.retry_after for error in unavailable if error.retry_after is not None]
        # The store's failure takes precedence.
        first = next((error for error in unavailable if not error.dependency), unavailable[0])
        more = f" (and of the others {len(unavailable) - 1} failed)" if len(unavailable) > 1 else ""
        raise Unavailable(f"{first}{more}", retry_after=max(waits, default=None), dependency=first.dependency)
