"""Bodies of events, as they may be shown: without our callback URL, whose token is secret."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import sqlalchemy as sa

from receiver.domain.callback_url import mask_bytes
from receiver.domain.redaction import Redactor
from receiver.domain.run import parse
from receiver.domain.shape import completed
from receiver.ledger.schema import events


class EventBody(NamedTuple):
    """The body of an event. `raw`: as it is kept; `redacted`: with what is to be masked today.

    `run`: the members of the run after redaction, as sinks get them, with those that the body lacks; {} when it can't
    be parsed, and then `problem` says why.
    """

    id: str
    source: str
    run_id: str
    raw: bytes
    redacted: bytes
    run: Mapping[str, Any]
    problem: str


def read_body(connection: sa.Connection, event_id: str, redactor: Redactor, source: str = "") -> EventBody | None:
    """Return the body of an event; None when it is unknown or of another source.

    `redactor`: of the config as it is. What it said when the event was recorded is masked in `raw` as well.
    """
    it = events.c
    query = sa.select(it.source, it.run_id, it.body, it.completion, it.problem).where(it.id == event_id)
    row = connection.execute(query if not source else query.where(it.source == source)).first()
    if row is None:
        return None
    raw = mask_bytes(bytes(row.body))
    run = parse(raw)
    redacted, data = redactor.apply(raw, {} if run.left_out else run.data)
    if run.left_out:  # what is left out is masked in the text, and the rest with it
        data = redactor.mask(run.data)
    if not run.problem:
        completion = json.loads(mask_bytes(row.completion.encode() or b"{}"))
        data = redactor.mask(completed(data, completion))
    return EventBody(event_id, row.source, row.run_id, raw, redacted, data, row.problem or run.problem)
