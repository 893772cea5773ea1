"""Erase the content of a run, and report what other systems still hold of it.

The ledger goes first: from then on nothing brings the content back. Then each sink deletes its files, whose receipts
stay until they are gone. So a call that was interrupted is completed by the same call.
"""

from __future__ import annotations

import json
import threading
from contextlib import closing
from functools import partial
from typing import Any, Final

from pydantic import Field

from handlers.contract import SinkError
from receiver.api.artifact_content import ArtifactFiles
from receiver.api.audit import audited
from receiver.api.call_pool import place_in
from receiver.api.endpoint import call
from receiver.api.models import Result
from receiver.api.quarantine import store_of
from receiver.api.runs import RunParameters, one_run
from receiver.api.service import Actor, Service
from receiver.domain.api_key import ERASE
from receiver.domain.callback import CALLBACK
from receiver.domain.run import RunKey
from receiver.errors import Conflict
from receiver.ledger import audit, retention
from receiver.ledger.database_clock import database_now
from receiver.ledger.retention import Content, NotErasable
from receiver.runtime.process import error_location

# What the audit calls it.
ERASE_ACTION: Final = "run.erase"
# Calls that one process runs at once: a sink that hangs must not take all threads.
_CALLS: Final = threading.BoundedSemaphore(2)


class EraseParameters(RunParameters):
    """Which run. `source`: needed only when two sources have the same id."""

    dry_run: bool = Field(False, description="Change nothing: return what would be erased.")


class HeldCopy(Result):
    """What a sink holds of a run."""

    sink: str
    type: str = Field(description="Of the sink; empty for one that is not in the config.")
    delivery_id: str
    receipt: dict[str, Any] | None = Field(description="Null: an attempt failed, and may have arrived all the same.")
    trouble: str = Field(description="Why it could not be deleted now; empty for a sink that never deletes.")


class ErasedRun(Result):
    """What was erased of a run, or with dry_run would be."""

    source: str
    run_id: str
    bodies: int = Field(description="Bodies of events, with output and links.")
    requests: int = Field(description="Requests of submissions.")
    quarantined: int = Field(description="Requests in the quarantine of this receiver's host.")
    files: list[str] = Field(description="Files that sinks have deleted, by path or object key.")
    held: list[HeldCopy] = Field(
        description="What other systems hold: erase it there; with `trouble`, repeat the call."
    )


def erase_run(service: Service, actor: Actor, wanted: EraseParameters) -> ErasedRun:
    """Erase the content of an ended run for good: bodies, requests, words and mirrored files.

    Ids, times, states and other receipts stay. Later events of the run are recorded without their bodies. A run that
    has not ended, or has pending deliveries, is refused.
    """
    run = service.ledger.read(lambda connection: one_run(connection, wanted.source, wanted.run_id))
    key = str(run["source"]), wanted.run_id
    try:
        with place_in(_CALLS, "other runs are being erased"), closing(ArtifactFiles(service)) as files:
            content = service.ledger.read(partial(retention.content_of, key=key))
            if wanted.dry_run:
                return _outside(service, files, key, content, dry_run=True)
            with audited(service.ledger, actor, ERASE_ACTION, {"run": key[1]}, source=key[0]) as done:
                content = service.ledger.write(lambda it: retention.erase(it, key, actor.name, database_now(it)))
                erased = _outside(service, files, key, content, dry_run=False)
                done.count, done.detail = content.bodies, f"{len(erased.files)} files deleted"
                if failed := sorted({each.sink for each in erased.held if each.trouble}):
                    done.outcome, done.detail = audit.FAILED, f"{done.detail}; not all of {', '.join(failed)}"
            return erased
    except NotErasable as problem:
        raise Conflict(str(problem)) from None


def _outside(service: Service, files: ArtifactFiles, key: RunKey, content: Content, *, dry_run: bool) -> ErasedRun:
    """Erase what is outside of the ledger, and return it with `content`."""
    store = store_of(service)
    refused = [each for each in store.list(json.dumps(key[1]).encode()) if each.source == key[0]]
    if not dry_run:
        store.remove(refused)
    gone: list[str] = []
    held: list[HeldCopy] = []
    for copy in service.ledger.read(partial(retention.sent, key=key)):
        keys, trouble = (copy.receipt or {}).get("keys", ()), ""
        try:
            sink = files.sink(copy.sink)
            if sink is not None and sink.erases and copy.receipt is not None:
                if keys and not dry_run:
                    sink.erase(copy.receipt)
                    service.ledger.write(partial(retention.forget_files, copy=copy))
                gone += keys
                continue
            if sink is None and keys and copy.sink != CALLBACK:
                trouble = "the sink is not in the config. Add it again, or delete the files there"
        except Exception as error:  # noqa: BLE001 - anything but a SinkError is a bug, perhaps of a third party's sink
            trouble = str(error) if isinstance(error, SinkError) else error_location(error)
        kind = service.config.sinks[copy.sink].type if copy.sink in service.config.sinks else ""
        about: dict[str, Any] = {"sink": copy.sink, "delivery_id": copy.delivery_id, "receipt": copy.receipt}
        held.append(HeldCopy(type=kind, trouble=trouble, **about))
    return ErasedRun(source=key[0], run_id=key[1], **content._asdict(), quarantined=len(refused), files=gone, held=held)


ERASE_RUN: Final = call("POST", "/runs/{run_id}/erase", ERASE, erase_run)
