"""Whether a recording is whole, by what Skyvern's record of it says. Pure.

A recording grows while its run goes on, and is written out after the run has its final status. Read in Skyvern 1.0.56
(forge/agent.py, forge/sdk/artifact/manager.py, webeye/video_utils.py):

    first step            the record is made, with the size of what there is; the same bytes are stored; no checksum
    each later step       a longer part is stored; the record stays as it is
    run is final          nothing changes for the moment
    it is written out     the record gets its last size, time and ending (.webm may become .mp4); then the file is
                          stored under it: until then there is the old part, or nothing (404)

So a part has another size than its record, or a record from before the end of its run that was never changed. Only
recordings of browser sessions have a checksum. Of other files the recorded size says nothing: a log grows without it, a
HAR is compressed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from handlers.contract import Artifact
from handlers.mirror.artifacts import VIDEO, same_file
from handlers.support.timestamps import epoch

RECORDING = "recording"


def record_of(artifact: Artifact, listed: Sequence[Artifact]) -> Artifact | None:
    """Return the entry of `listed` (from the API) that is Skyvern's record of `artifact`; None if none certainly is."""
    return same_file(artifact, [other for other in listed if other.kind == artifact.kind])


def expected(artifact: Artifact, record: Artifact | None) -> Artifact:
    """Return `artifact` with the size and SHA-256 that its bytes must have to be whole, as far as they are known.

    Its URL is the record's: the one in the event may lead to the part under its first ending.
    """
    if record is None:
        return artifact
    return replace(
        artifact,
        url=record.url or artifact.url,
        artifact_id=artifact.artifact_id or record.artifact_id,
        size=artifact.size if record.size is None else record.size,
        sha256=artifact.sha256 or record.sha256,
    )


def named_as(artifact: Artifact, record: Artifact | None, taken: Collection[str]) -> Artifact:
    """Return `artifact` with the ending of its record, for a URL of the API has none. `taken`: names of others."""
    ending = record.name.rpartition(".")[2].lower() if record is not None else ""
    name = f"{artifact.name.rpartition('.')[0]}.{ending}"
    return replace(artifact, name=name) if ending in VIDEO and name not in taken else artifact


def unfinished(record: Artifact | None, run: Mapping[str, Any]) -> str:
    """Return why the recording can't be whole yet, whatever its size is; "" when nothing speaks against it."""
    if record is None or record.sha256 is not None or record.size is None or record.unchanged_since is None:
        return ""
    ended = epoch(run.get("finished_at"))
    if ended is None or record.unchanged_since >= ended:
        return ""
    return "Skyvern has not written the recording out since the run's end"
