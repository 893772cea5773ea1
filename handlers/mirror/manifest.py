"""The three documents that a mirrored event leaves beside its files, as values. Pure.

    <prefix><event>/run.json        the event's body, byte for byte
    <prefix><event>/manifest.json   what is kept and what is not; written last, so where it is, all is there
    <prefix>latest.json             which event of this prefix is the newest

Order of a run's events: (attempt, modified_at), as Skyvern means them; equal ones by arrival.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any

from handlers.contract import Delivery

VERSION = 1


@dataclass(frozen=True, slots=True)
class Kept:
    """A file that is there. `checked`: its SHA-256 was compared with one that the sender gave. `source`: its address
    without signature, "" for the body itself. `stored_at`: ISO 8601 in UTC."""

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


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that the event names and that is not there, and why."""

    name: str
    kind: str
    reason: str
    source: str = ""
    artifact_id: str | None = None
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is kept of one event."""

    about: Mapping[str, Any]
    kept: Sequence[Kept]
    skipped: Sequence[Skipped] = ()

    def dump(self) -> bytes:
        """JSON that a person can read; the same manifest gives the same bytes."""
        document = {
            "version": VERSION,
            **self.about,
            "files": [_lean(asdict(entry)) for entry in self.kept],
            "skipped": [_lean(asdict(entry)) for entry in self.skipped],
        }
        return _dump(document)


def kept_in(document: bytes) -> dict[str, Kept]:
    """The files that a manifest lists, by name; what can't be read counts as not there."""
    names = {field.name for field in fields(Kept)}
    found: dict[str, Kept] = {}
    try:
        for entry in json.loads(document)["files"]:
            kept = Kept(**{name: value for name, value in entry.items() if name in names})
            if isinstance(kept.name, str) and isinstance(kept.sha256, str) and isinstance(kept.size, int):
                found[kept.name] = kept
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    return found


def about(delivery: Delivery) -> dict[str, Any]:
    """What a manifest says of its event. The same at every attempt."""
    parts: dict[str, Any] = {
        "event_id": delivery.event_id,
        "source": delivery.source,
        "run_id": delivery.run_id,
        "run_type": delivery.run_type,
        "status": delivery.status,
        "attempt": order_of(delivery)[0],
        "received_at": iso(delivery.received_at),
    }
    if delivery.problem:
        parts["problem"] = delivery.problem
    if delivery.test:
        parts["test"] = True
    return parts


Order = tuple[int, float, float, str]


def order_of(delivery: Delivery) -> Order:
    """Where the event stands among the events of its run: (attempt, modified_at, received_at, event id)."""
    attempt = delivery.run.get("attempt")
    number = attempt if isinstance(attempt, int) and not isinstance(attempt, bool) and 0 < attempt < 1 << 31 else 1
    modified = _epoch(delivery.run.get("modified_at"))
    return number, modified, delivery.received_at.timestamp(), delivery.event_id


def latest(delivery: Delivery, directory: str) -> bytes:
    """`latest.json`: `directory` is the event's, seen from where the file lies ("evt_…/")."""
    attempt, modified, received, event_id = order_of(delivery)
    document = {
        "version": VERSION,
        **about(delivery),
        "run": f"{directory}run.json",
        "manifest": f"{directory}manifest.json",
        "order": [attempt, modified, received, event_id],
    }
    return _dump(document)


def points_to(document: bytes) -> Order | None:
    """The order of the event that a `latest.json` points to; None when it can't be read, and so may be replaced."""
    try:
        attempt, modified, received, event_id = json.loads(document)["order"]
        return int(attempt), float(modified), float(received), str(event_id)
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return None


def iso(moment: datetime) -> str:
    """ISO 8601 in UTC with Z, to the second."""
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _epoch(text: Any) -> float:
    """Skyvern's times: naive ones are UTC. 0 when it is none."""
    if not isinstance(text, str):
        return 0.0
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return 0.0


def _lean(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if value is not None and value not in ("", False)}


def _dump(document: Mapping[str, Any]) -> bytes:
    text = json.dumps(document, ensure_ascii=False, indent=2) + "\n"
    return text.encode(errors="replace")
