"""The files of runs, as the newest event of each names them, and where sinks have stored them.

URLs are shown without their query, which has the signature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import Field

from handlers.contract import Artifact
from handlers.mirror.artifacts import artifacts_of
from handlers.support.url import without_query
from receiver.api.endpoint import call
from receiver.api.listing import listed
from receiver.api.models import FilterParameters, Moment, Page, Result
from receiver.api.service import Actor, Service
from receiver.domain.api_key import VIEW
from receiver.domain.redaction import Redactor
from receiver.ledger import Connection
from receiver.ledger.lists import runs
from receiver.ledger.lists.bodies import read_body
from receiver.ledger.lists.deliveries import receipts_of
from receiver.ledger.lists.filters import Filter
from receiver.ledger.lists.paging import Key, Row
from receiver.ledger.lists.paging import Page as Found

# Bytes of bodies after which a page ends.
MOST_BYTES: Final = 8 << 20
# Maximum receipts of one run that are read, the newest first.
_RECEIPTS: Final = 50
# Behind the last file of a run.
_ALL: Final = 1 << 31


class StoredCopy(Result):
    """Where one sink has stored a file. `url`: without its query."""

    sink: str
    delivery_id: str
    key: str = Field(description="The path or object key; empty when the receipt does not name it.")
    url: str
    stored_at: Moment


class ArtifactRow(Result):
    """One file of a run, as its newest event names it. `url`: at Skyvern, without the query that opens it."""

    source: str
    run_id: str
    event_id: str
    name: str
    kind: str = Field(description="recording, screenshot, download, or Skyvern's own type.")
    url: str
    artifact_id: str | None
    sha256: str | None
    size: int | None = Field(description="Bytes, where the sender or a sink that stored it says.")
    stored: list[StoredCopy]


class ArtifactsParameters(FilterParameters):
    """Of which runs. Times are those of the runs' last change."""


def list_artifacts(service: Service, actor: Actor, parameters: ArtifactsParameters) -> Page[ArtifactRow]:
    """List files of runs and where they are stored, most recently changed run first."""
    redactor = Redactor(service.config.redact)

    def found(connection: Connection, which: Filter, after: Key | None, limit: int) -> Found:
        return files_of_runs(connection, which, after, limit, redactor)

    return listed(service, actor, found, parameters, ArtifactRow, (float, str, str, int))


def files_of_runs(
    connection: Connection,
    filters: Filter,
    after: Key | None,
    limit: int,
    redactor: Redactor,
    most_bytes: int = MOST_BYTES,
) -> Found:
    """Return a page of the files of matching runs: the run that changed last first, its files in the order of its body.

    `stored` of each: where the sinks put it. `redactor`: what it masks in a body is not shown. `most_bytes`: of bodies,
    after which a page ends.
    """
    rows: list[Row] = []
    place = None if after is None else after[:-1]
    # A made-up cursor shows nothing of another source.
    if after is not None and after[-1] < _ALL and filters.source in ("", after[2]):
        _, run_id, source = after[:-1]
        for begun in runs.page(connection, Filter(source=source, run_id=run_id), None, 1)[0]:
            rows += _files(connection, begun, redactor)[0][after[-1] :][: limit + 1]
        if len(rows) > limit:
            return rows[:limit], (*after[:-1], after[-1] + limit)
    found, rest = runs.page(connection, filters, place, limit)
    read = 0
    for number, run in enumerate(found, 1):
        place = (run["updated_at"], run["run_id"], run["source"])
        files, size = _files(connection, run, redactor)
        room = limit - len(rows)
        rows += files[:room]
        read += size
        if len(files) > room:
            return rows, (*place, room)
        if (len(rows) == limit or read > most_bytes) and number < len(found):
            return rows, (*place, _ALL)
    return rows, None if rest is None else (*rest, _ALL)


def files_of(connection: Connection, run: Mapping[str, Any], redactor: Redactor) -> list[Row]:
    """Return all files of a run, as `files_of_runs` does. `run`: its row."""
    return _files(connection, run, redactor)[0]


def _files(connection: Connection, run: Mapping[str, Any], redactor: Redactor) -> tuple[list[Row], int]:
    """Return the files of a run, and the size of the body that names them."""
    body = read_body(connection, run["event_id"], redactor)
    if body is None:
        return [], 0
    files = artifacts_of(body.run)
    found = receipts_of(connection, run["source"], run["run_id"], _RECEIPTS) if files else []
    receipts = [(each, _by_name(each["receipt"]["keys"])) for each in found]
    rows = [
        {
            "source": run["source"],
            "run_id": run["run_id"],
            "event_id": run["event_id"],
            "name": file.name,
            "kind": file.kind,
            "url": without_query(file.url),
            "artifact_id": file.artifact_id,
            "sha256": file.sha256,
            "size": file.size if file.size is not None else _stored_size(file, found),
            "stored": _copies(file, receipts),
        }
        for file in files
    ]
    return rows, len(body.raw)


def _stored_size(file: Artifact, receipts: Sequence[Row]) -> int | None:
    """Return the size of the file by the newest receipt that names it."""
    sizes = (each["receipt"].get("sizes", {}).get(file.name) for each in receipts)
    return next((size for size in sizes if size is not None), None)


def _copies(file: Artifact, receipts: Sequence[tuple[Row, Mapping[str, str]]]) -> list[Row]:
    """Return where sinks have stored the file: each place once, as the newest receipt names it."""
    found: dict[tuple[str, str, str], Row] = {}
    for each in receipts:
        if (copy := _stored(file, *each)) is not None:
            found.setdefault((copy["sink"], copy["key"], copy["url"]), copy)
    return list(found.values())


def _stored(file: Artifact, attempt: Row, by_name: Mapping[str, str]) -> Row | None:
    """Return where the file is by the receipt of an attempt; None when it does not name the file."""
    receipt = attempt["receipt"]
    key = receipt.get("files", {}).get(file.name) or by_name.get(file.name, "")
    url = receipt.get("urls", {}).get(file.name, "")
    if not key and not url:
        return None
    return {
        "sink": attempt["sink"],
        "delivery_id": attempt["delivery_id"],
        "key": key,
        "url": without_query(url),
        "stored_at": attempt["ended_at"],
    }


def _by_name(keys: Sequence[str]) -> dict[str, str]:
    """Index the keys of a receipt by file name: a body may name thousands of files."""
    return {key.rpartition("/")[2]: key for key in keys}


LIST_ARTIFACTS: Final = call("GET", "/artifacts", VIEW, list_artifacts)
