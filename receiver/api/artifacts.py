"""The files of runs, as the newest event of each names them, and where sinks have stored them.

No URL is shown with its query: the signature is there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

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
from receiver.ledger.filters import Filter
from receiver.ledger.lists import runs
from receiver.ledger.lists.bodies import read_body
from receiver.ledger.lists.deliveries import receipts_of
from receiver.ledger.lists.paging import Key, Row
from receiver.ledger.lists.paging import Page as Found

# Bytes of bodies after which a page ends.
MOST_BYTES: Final = 8 << 20
# Receipts of one run that are read, the newest first.
_RECEIPTS: Final = 50
# Behind the last file of a run.
_ALL: Final = 1 << 31
# What a mirror puts into the name of a file that several events share.
_SHARED: Final = re.compile(r"-(?:incomplete-)?[0-9a-f]{12}(?=\.[^.]*$|$)")


class StoredCopy(Result):
    """Where one sink has stored a file. `url`: without its query."""

    sink: str
    delivery_id: str
    key: str = Field(description="The path or object key; empty when the receipt does not tell it.")
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
    size: int | None = Field(description="Bytes, where the sender says.")
    stored: list[StoredCopy]


class ArtifactsParameters(FilterParameters):
    """Of which runs. Times are those of the runs' last change."""


def list_artifacts(service: Service, actor: Actor, wanted: ArtifactsParameters) -> Page[ArtifactRow]:
    """List the files of runs with where they are stored: the run that changed last first."""
    redactor = Redactor(service.config.redact)

    def found(connection: Connection, which: Filter, after: Key | None, limit: int) -> Found:
        return files_of_runs(connection, which, after, limit, redactor)

    return listed(service, actor, found, wanted, ArtifactRow, (float, str, str, int))


def files_of_runs(connection: Connection, wanted: Filter, after: Key | None, limit: int, redactor: Redactor) -> Found:
    """Return a page of the files of the runs that are wanted: the run that changed last first, the files of each in the
    order of its body.

    Each has `stored`: for each sink that reported the file, where it is. The filter is that of runs, words included.
    `redactor`: what is masked in a body is not shown here.
    """
    rows: list[Row] = []
    place = None if after is None else after[:-1]
    # An invented place shows nothing of another source.
    if after is not None and after[-1] < _ALL and wanted.source in ("", after[2]):
        _, run_id, source = after[:-1]
        for begun in runs.page(connection, Filter(source=source, run_id=run_id), None, 1)[0]:
            rows += _files(connection, begun, redactor)[0][after[-1] :][: limit + 1]
        if len(rows) > limit:
            return rows[:limit], (*after[:-1], after[-1] + limit)
    found, rest = runs.page(connection, wanted, place, limit)
    read = 0
    for number, run in enumerate(found, 1):
        place = (run["updated_at"], run["run_id"], run["source"])
        files, size = _files(connection, run, redactor)
        room = limit - len(rows)
        rows += files[:room]
        read += size
        if len(files) > room:
            return rows, (*place, room)
        if (len(rows) == limit or read > MOST_BYTES) and number < len(found):
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
    return [_file(run, each, receipts) for each in files], len(body.raw)


def _file(run: Mapping[str, Any], artifact: Artifact, receipts: Sequence[tuple[Row, _Keys]]) -> Row:
    return {
        "source": run["source"],
        "run_id": run["run_id"],
        "event_id": run["event_id"],
        "name": artifact.name,
        "kind": artifact.kind,
        "url": without_query(artifact.url),
        "artifact_id": artifact.artifact_id,
        "sha256": artifact.sha256,
        "size": artifact.size,
        "stored": [found for each in receipts if (found := _stored(artifact, *each)) is not None],
    }


def _stored(artifact: Artifact, told: Row, by_name: _Keys) -> Row | None:
    """Return where the receipt says that the file is; None when it does not say it, or not for certain."""
    receipt = told["receipt"]
    url = receipt.get("urls", {}).get(artifact.name, "")
    if not url and receipt.get("urls"):
        return None
    own, shared = artifact.name, artifact.kind + artifact.name[artifact.name.rfind(".") :]
    found = (by_name.own.get(own, ()), by_name.shared.get(own, ()), by_name.shared.get(shared, ()))
    keys = {key for each in found for key in each}
    if not url and len(keys) != 1:
        return None
    return {
        "sink": told["sink"],
        "delivery_id": told["delivery_id"],
        "key": keys.pop() if len(keys) == 1 else "",
        "url": without_query(url),
        "stored_at": told["ended_at"],
    }


class _Keys(NamedTuple):
    """The object keys of a receipt by name: `own` as they are, `shared` without what a mirror puts into the name of a
    file that several events share. A body may name thousands of files, and each is looked for."""

    own: Mapping[str, Sequence[str]]
    shared: Mapping[str, Sequence[str]]


def _by_name(keys: Sequence[str]) -> _Keys:
    own: dict[str, list[str]] = {}
    shared: dict[str, list[str]] = {}
    for key in keys:
        name = key.rpartition("/")[2]
        own.setdefault(name, []).append(key)
        if (without := _SHARED.sub("", name)) != name:
            shared.setdefault(without, []).append(key)
    return _Keys(own, shared)


LIST_ARTIFACTS: Final = call("GET", "/artifacts", VIEW, list_artifacts)
