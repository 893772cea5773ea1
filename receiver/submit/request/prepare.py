"""A request as it came, checked and turned into what is recorded and what is sent to Skyvern. Pure but for the id."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from handlers.support.resubmit_chain import CHAIN, TRY
from receiver.domain.api_key import RESUBMIT
from receiver.domain.run import parse as parse_run
from receiver.ledger.api_keys import Key
from receiver.ledger.submissions.lifecycle import NewSubmission
from receiver.submit.json_edit import NotAnObject, parse, splice
from receiver.submit.replies import Refusal, invalid, malformed
from receiver.submit.request import labels
from receiver.submit.request.endpoints import Endpoint
from receiver.submit.request.source import Source

_LONGEST_KEY = 255


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request as it is written down and sent. `replacing`: what the answer must not show, and what it shows."""

    new: NewSubmission
    path: str
    query: str
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    replacing: Mapping[bytes, bytes] = field(repr=False)
    members: Mapping[str, Any] = field(repr=False)


def prepare(
    source: Source, key: Key, call: Endpoint, path: str, query: str, body: bytes, headers: Mapping[str, str]
) -> Prepared:
    """Read a request. Raises Refusal: what can't be read, whose labels can't be kept, or whose webhook can never be
    called, is never sent.

    `path`, `query`: as they stand on the wire. `headers`: by lower-case name.
    """
    try:
        members = parse(body)
    except NotAnObject as problem:
        raise Refusal(malformed(problem)) from None
    header = headers.get(labels.HEADER, "")
    mine = members.get(labels.MEMBER)
    try:
        found = labels.labels_of(header, mine)
    except labels.LabelError as problem:
        raise Refusal(invalid(labels.MEMBER, str(problem))) from None
    if (reserved := sorted(found.keys() & {CHAIN, TRY})) and RESUBMIT not in key.scopes:
        words = f"{reserved[0]} is kept for tries of a failed run, and takes a key with the scope {RESUBMIT}"
        raise Refusal(invalid(labels.MEMBER, words))
    idempotency_key = headers.get("idempotency-key") or None
    if idempotency_key and not (len(idempotency_key) <= _LONGEST_KEY and idempotency_key.isprintable()):
        raise Refusal(invalid(None, f"Idempotency-Key: must be 1 to {_LONGEST_KEY} printable characters"))
    submission_id = "sub_" + secrets.token_hex(16)
    member = call.member
    theirs = members.get(member)
    changes: dict[str, bytes | None] = {labels.MEMBER: None} if labels.MEMBER in members else {}
    replacing = {}
    wanted = source.webhook(theirs) if isinstance(theirs, str) else ""
    if theirs is None or isinstance(theirs, str):  # anything else Skyvern refuses, in its own words
        ours = source.callback(submission_id)
        changes[member] = json.dumps(ours).encode() if ours else None
        if ours:
            replacing[json.dumps(ours).encode()] = json.dumps(wanted or None, ensure_ascii=False).encode()
    title = members.get("title")
    where = [] if call.fixed and not query else [path, query]
    new = NewSubmission(
        id=submission_id,
        source=source.name,
        key_id=key.id,
        call=call.name,
        request_hash=_hash(call.name, header, headers.get("x-max-steps-override", ""), body, *where),
        title=parse_run(json.dumps({"title": title}).encode()).title if isinstance(title, str) else None,
        labels=found,
        callback_url=wanted,
        idempotency_key=idempotency_key,
    )
    return Prepared(new, path, query, splice(body, changes), headers, replacing, members)


def _hash(*parts: str | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        text = part if isinstance(part, bytes) else part.encode("utf-8", "surrogateescape")
        digest.update(b"%d:" % len(text) + text)
    return digest.hexdigest()
