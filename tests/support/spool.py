"""A spool of small events, each known by its number."""

from __future__ import annotations

from pathlib import Path

from receiver.domain.event import Event, event_id
from receiver.ingest.spool import Spool


def event(number: int, size: int = 0) -> Event:
    body = (b"body %d" % number).ljust(size, b"x")
    return Event(event_id("skyvern", body), "skyvern", body, 1700000000.25 + number, submission_id=f"sub_{number}")


def events(start: int, stop: int) -> list[Event]:
    return [event(number) for number in range(start, stop)]


def open_spool(path: Path, max_bytes: int = 1 << 30, reserve_bytes: int = 0) -> Spool:
    spool = Spool(path / "spool", max_bytes, reserve_bytes)
    spool.open()
    return spool
