"""The list of the runs' files, as the newest event of each run names them, and where sinks have stored them.

No URL is shown with its query: the signature is there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from handlers.contract import Artifact
from handlers.mirror.artifacts import artifacts_of
from handlers.support.url import without_query
from receiver.domain.redaction import Redactor
from receiver.ledger.attempts_by_delivery import of_delivery
from receiver.ledger.filters import Filter
from receiver.ledger.lists.bodies import read_body
from receiver.ledger.lists.paging import Key, Page, Row
from receiver.ledger.lists.runs import search
from receiver.ledger.schema import attempts, deliveries, runs

# Bytes of bodies after which a page ends.
MOST_BYTES: Final = 8 << 20
# Receipts of one run that are read, the newest first.
_RECEIPTS: Final = 50
# Behind the last file of a run.
_ALL: Final = 1 << 31
# What a mirror puts into the name of a file that several events share.
_SHARED: Final = re.compile(r"-(?:incomplete-)?[0-9a-f]{12}(?=\.[^.]*$|$)")


def list_artifacts(
    connection: sa.Connection, wanted: Filter, after: Key | None, limit: int, redactor: Redactor
) -> Page:
    """Return a page of the files of the runs that are wanted: the run that changed last first, the files of each in the
    order of its body.

    Each has `stored`: for each sink that reported the file, where it is. The filter is that of runs, words included.
    `redactor`: what is masked in a body is not shown here.
    """
    if wanted.impossible:
        return [], None
    rows: list[Row] = []
    place = None if after is None else after[:-1]
    # Whoever makes a place up sees nothing of another source by it.
    if after is not None and after[-1] < _ALL and wanted.source in ("", after[1]):
        _, source, run_id = after[:-1]
        query = sa.select(runs).where(runs.c.source == source, runs.c.run_id == run_id)
        for begun in connection.execute(query):
            rows += _files(connection, dict(begun._mapping), redactor)[0][after[-1] :][: limit + 1]
        if len(rows) > limit:
            return rows[:limit], (*after[:-1], after[-1] + limit)
    found, rest = search(wanted).page(connection, place, limit)
    read = 0
    for number, run in enumerate(found, 1):
        place = (run["updated_at"], run["source"], run["run_id"])
        files, size = _files(connection, run, redactor)
        room = limit - len(rows)
        rows += files[:room]
        read += size
        if len(files) > room:
            return rows, (*place, room)
        if (len(rows) == limit or read > MOST_BYTES) and number < len(found):
            return rows, (*place, _ALL)
    return rows, None if rest is None else (*rest, _ALL)


def files_of(connection: sa.Connection, run: Mapping[str, Any], redactor: Redactor) -> list[Row]:
    """Return all files of a run, as `list_artifacts` does. `run`: its row."""
    return _files(connection, run, redactor)[0]


def _files(connection: sa.Connection, run: Mapping[str, Any], redactor: Redactor) -> tuple[list[Row], int]:
    """Return the files of a run, and the size of the body that names them."""
    body = read_body(connection, run["event_id"], redactor)
    if body is None:
        return [], 0
    files = artifacts_of(body.run)
    receipts = [(each, _by_name(each["receipt"]["keys"])) for each in _receipts(connection, run)] if files else []
    return [_row(run, each, receipts) for each in files], len(body.raw)


def _row(run: Mapping[str, Any], artifact: Artifact, receipts: Sequence[tuple[Row, _Keys]]) -> Row:
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


def _receipts(connection: sa.Connection, run: Mapping[str, Any]) -> list[Row]:
    """Return the receipts of the run's deliveries that name what was written, the newest of each sink first."""
    it = attempts.c
    query = (
        sa.select(it.delivery_id, deliveries.c.sink, it.receipt, it.ended_at)
        .join(deliveries, of_delivery())
        .where(deliveries.c.source == run["source"], deliveries.c.run_id == run["run_id"], it.receipt.is_not(None))
        .order_by(it.ended_at.desc(), it.delivery_id)
        .limit(_RECEIPTS)
    )
    told = [{**row._mapping, "receipt": json.loads(row.receipt)} for row in connection.execute(query)]
    return [each for each in told if each["receipt"].get("keys")]


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
