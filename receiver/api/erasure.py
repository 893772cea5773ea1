"""Erase the content of a run, and report what other systems still hold of it.

The ledger goes first: from then on nothing brings the content back. Then each sink deletes its copies, whose receipts
stay until they are gone. So a call that was interrupted is completed by the same call.
"""

from __future__ import annotations

import json
import threading
from contextlib import closing
from functools import partial
from typing import Final

from pydantic import Field

from handlers.contract import SinkError
from receiver.api.artifact_content import ArtifactFiles
from receiver.api.audit import audited
from receiver.api.call_pool import place_in
from receiver.api.endpoint import call
from receiver.api.models import Result
from receiver.api.names import none_such
from receiver.api.quarantine import store_of
from receiver.api.rows import AttemptRow
from receiver.api.runs import RunParameters, one_run
from receiver.api.service import Actor, Service
from receiver.domain.api_key import ERASE
from receiver.domain.callback import CALLBACK
from receiver.domain.run import RunKey
from receiver.errors import error_location
from receiver.ledger import Connection, retention
from receiver.ledger.access import audit
from receiver.ledger.database.database_clock import database_now
from receiver.ledger.database.dialect import json_text
from receiver.ledger.lists import submissions
from receiver.ledger.lists.deliveries import list_attempts
from receiver.ledger.lists.filters import Filter

# Attempts of a run that are read: all of them.
_ALL: Final = 1 << 20
# Calls that one process runs at once: a sink that hangs must not take all threads.
_CALLS: Final = threading.BoundedSemaphore(2)


class EraseParameters(RunParameters):
    """Which run. `source`: needed only when two sources have the same id."""

    run_id: str = Field(max_length=200, description="The run's id, or that of its submission.")
    dry_run: bool = Field(False, description="Change nothing: return what would be erased.")


class ErasedRun(Result):
    """What was erased of a run, or with dry_run would be."""

    source: str
    run_id: str = Field(description="The run's id, or that of a submission without a run.")
    bodies: int = Field(description="Bodies of events, with output and links.")
    quarantined: int = Field(description="Requests in the quarantine of this receiver's host.")
    copies: list[str] = Field(description="What sinks deleted: path, object key, or table/run_id.")
    failed: list[AttemptRow] = Field(description="Whose copies could not be deleted now, and why. Repeat the call.")
    held: list[AttemptRow] = Field(description="What other systems hold, by receipt; without one, it may have arrived.")


def erase_run(service: Service, actor: Actor, parameters: EraseParameters) -> ErasedRun:
    """Erase the content of an ended run for good: bodies, requests, search words, mirrored files, rows.

    Ids, times, states and other receipts stay. Later events of the run are recorded without their bodies. A run that
    has not ended, or has pending deliveries, is refused. A submission's id erases its run; without one, its request.
    """
    key = service.ledger.read(lambda connection: _key_of(connection, parameters))
    with place_in(_CALLS, "other runs are being erased"), closing(ArtifactFiles(service)) as files:
        bodies = service.ledger.read(partial(retention.require_erasable, key=key))
        if parameters.dry_run:
            return _outside(service, files, key, bodies, dry_run=True)
        with audited(service.ledger, actor, "run.erase", {"run": key[1]}, source=key[0]) as done:
            erased_now = service.ledger.write(lambda it: retention.erase(it, key, actor.name, database_now(it)))
            bodies = max(bodies, erased_now)  # `erased_now`: 0 if an earlier try has erased them
            erased = _outside(service, files, key, bodies, dry_run=False)
            done.count = bodies
            if erased.failed:
                done.outcome, done.detail = audit.FAILED, erased.failed[0].reason
        return erased


def _key_of(connection: Connection, parameters: EraseParameters) -> RunKey:
    """Return the run to erase. For a submission without a run, its own id replaces the run's."""
    if not parameters.run_id.startswith("sub_"):
        return str(one_run(connection, parameters.source, parameters.run_id)["source"]), parameters.run_id
    row = submissions.get(connection, parameters.run_id, parameters.source)
    if row is None:
        raise none_such("submission", parameters.run_id)
    return row["source"], row["run_id"] or row["id"]


def _outside(service: Service, files: ArtifactFiles, key: RunKey, bodies: int, *, dry_run: bool) -> ErasedRun:
    """Erase what is outside of the ledger, and return it with the number of `bodies`."""
    store = store_of(service)
    texts = {json.dumps(key[1]), json_text(key[1])}  # with non-ASCII characters escaped, or not
    named = {each for text in texts for each in store.list(text.encode())}
    named |= {each for each in store.list() if each.submission_id == key[1]}
    refused = [each for each in named if each.source == key[0]]
    if not dry_run:
        store.remove(refused)
    gone, failed, held = list[str](), list[AttemptRow](), list[AttemptRow]()
    wanted = Filter(source=key[0], run_id=key[1])
    rows, _ = service.ledger.read(lambda connection: list_attempts(connection, wanted, None, _ALL, _ALL))
    tried = [AttemptRow.model_validate(each) for each in rows]
    reported = {each.delivery_id for each in tried if each.receipt is not None}
    for attempt in tried:
        receipt = attempt.receipt or {}
        keys = receipt.get("keys") or ([receipt["id"]] if "id" in receipt else [])
        try:
            sink = files.sink(attempt.sink)
            if sink is not None and sink.erases and attempt.receipt is not None:
                if keys and not dry_run:
                    sink.erase(*key, attempt.receipt)
                    service.ledger.write(partial(retention.forget_receipt, attempt=attempt))
                gone += keys
            elif sink is None and receipt.get("keys") and attempt.sink != CALLBACK:
                raise SinkError("the sink is not in the config. Add it again, or delete them there")
            elif attempt.receipt is not None or attempt.delivery_id not in reported:
                reported.add(attempt.delivery_id)
                held.append(attempt)
        except Exception as error:  # noqa: BLE001 - anything but a SinkError is a bug, perhaps of a third party's sink
            why = str(error) if isinstance(error, SinkError) else error_location(error)
            failed.append(attempt.model_copy(update={"reason": why}))
    found = {"copies": list(dict.fromkeys(gone)), "failed": failed, "held": held}
    return ErasedRun(source=key[0], run_id=key[1], bodies=bodies, quarantined=len(refused), **found)


ERASE_RUN: Final = call("POST", "/runs/{run_id}/erase", ERASE, erase_run)
