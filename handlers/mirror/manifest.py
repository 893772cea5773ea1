"""The documents of a mirrored event, as values. Pure.

    <prefix><event>/run.json        the event's body, byte for byte
    <prefix><event>/manifest.json   stored files, their places, and skipped files; written last, when all else is stored
    <prefix>latest.json             which event of this prefix is the newest

Events of a run are ordered by (attempt, modified_at), then by arrival. At the same attempt and status, an event with
output always ranks above one without: a cancelled run sends nulls before and after it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any

from handlers.contract import Delivery
from handlers.mirror.names import safe_file_name
from handlers.support.run_body import attempt_number, holds_nothing
from handlers.support.timestamps import epoch

VERSION = 2


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A stored file. `path`: relative to the event's directory ("../files/…"); "" when it is there under its name.
    `checked`: its SHA-256 matched the sender's; `size_checked`: its size did. `incomplete`: why it may be partial; ""
    for a complete file. `source`: its URL without the signature, "" for the event's body. `stored_at`: ISO 8601 in
    UTC."""

    name: str
    kind: str
    size: int
    sha256: str
    content_type: str
    source: str = ""
    artifact_id: str | None = None
    checked: bool = False
    content_encoding: str = ""
    stored_at: str = ""
    path: str = ""
    size_checked: bool = False
    incomplete: str = ""


@dataclass(frozen=True, slots=True)
class SkippedFile:
    """A file of the event that was not stored, and why."""

    name: str
    kind: str
    reason: str
    source: str = ""
    artifact_id: str | None = None
    size: int | None = None


def manifest_document(delivery: Delivery, stored: Sequence[StoredFile], skipped: Sequence[SkippedFile]) -> bytes:
    """Return `manifest.json`. The same files of the same event give the same bytes."""
    files = [_without_empty(asdict(entry)) for entry in stored]
    missing = [_without_empty(asdict(entry)) for entry in skipped]
    return _dump({"version": VERSION, **_event_fields(delivery), "files": files, "skipped": missing})


def stored_files(document: bytes) -> dict[str, StoredFile]:
    """Return the files that a manifest lists, by name; {} for a document that can't be read."""
    names = {field.name for field in fields(StoredFile)}
    files: dict[str, StoredFile] = {}
    try:
        for entry in json.loads(document)["files"]:
            file = StoredFile(**{name: value for name, value in entry.items() if name in names})
            texts = (file.name, file.kind, file.sha256, file.path, file.incomplete)
            if isinstance(file.size, int) and all(isinstance(text, str) for text in texts) and _stays_in_run(file.path):
                files[file.name] = file
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    return files


def _event_fields(delivery: Delivery) -> dict[str, Any]:
    """Return the members of both documents. The same at every attempt."""
    parts: dict[str, Any] = {
        "event_id": delivery.event_id,
        "source": delivery.source,
        "run_id": delivery.run_id,
        "run_type": delivery.run_type,
        "status": delivery.status,
        "attempt": event_order(delivery)[0],
        "received_at": iso_utc(delivery.received_at),
    }
    if delivery.problem:
        parts["problem"] = delivery.problem
    if delivery.test:
        parts["test"] = True
    return parts


Order = tuple[int, float, float, str]


def event_order(delivery: Delivery) -> Order:
    """Return the sort key of the event within its run: (attempt, modified_at, received_at, event id)."""
    modified = epoch(delivery.run.get("modified_at")) or 0.0
    return attempt_number(delivery.run.get("attempt")), modified, delivery.received_at.timestamp(), delivery.event_id


def latest_document(delivery: Delivery, directory: str) -> bytes:
    """Return `latest.json`. `directory`: the event's, relative to that file ("evt_…/")."""
    attempt, modified, received, event_id = event_order(delivery)
    document = {
        "version": VERSION,
        **_event_fields(delivery),
        "run": f"{directory}run.json",
        "manifest": f"{directory}manifest.json",
        "order": [attempt, modified, received, event_id],
        "has_output": _has_output(delivery.run),
    }
    return _dump(document)


def replaces_latest(delivery: Delivery, document: bytes) -> bool:
    """Whether the event is newer than a `latest.json`'s; True when that is unreadable."""
    theirs, mine = order_in_latest(document), event_order(delivery)
    if theirs is None:
        return True
    known = json.loads(document)
    has_output = _has_output(delivery.run)
    if (known.get("status"), theirs[0]) == (delivery.status, mine[0]) and known.get("has_output") is not has_output:
        return has_output
    return mine > theirs


def _has_output(run: Mapping[str, Any]) -> bool:
    return not all(holds_nothing(run.get(name)) for name in ("output", "outputs", "extracted_information"))


def order_in_latest(document: bytes) -> Order | None:
    """Return the sort key of a `latest.json`'s event; None when unreadable, so that it is replaced."""
    try:
        attempt, modified, received, event_id = json.loads(document)["order"]
        return int(attempt), float(modified), float(received), str(event_id)
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return None


def manifest_path(document: bytes) -> str:
    """Return the manifest's path from a `latest.json`, relative to it; "" when unreadable."""
    try:
        path = json.loads(document)["manifest"]
        directory = path.removesuffix("/manifest.json")
        return path if path != directory == safe_file_name(directory) else ""
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ""


def iso_utc(moment: datetime) -> str:
    """Return ISO 8601 in UTC with Z, to the second."""
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _stays_in_run(path: str) -> bool:
    """Whether a path, relative to the event's directory, stays in the run's folder."""
    parts = path.removeprefix("../").split("/") if path else []
    return all(part == safe_file_name(part) for part in parts)


def _without_empty(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if value is not None and value not in ("", False)}


def _dump(document: Mapping[str, Any]) -> bytes:
    text = json.dumps(document, ensure_ascii=False, indent=2) + "\n"
    return text.encode(errors="replace")
