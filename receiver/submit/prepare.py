"""A submit request, checked and turned into what is recorded and what is sent to Skyvern. Pure except for the id."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from handlers.support.resubmit_chain import CHAIN, TRY
from receiver.domain.api_key import RESUBMIT
from receiver.domain.redaction import Redactor
from receiver.domain.run import prompt_of, storable, title_of
from receiver.domain.submission import NewSubmission
from receiver.ledger.access.api_keys import Key
from receiver.skyvern import requests
from receiver.skyvern.requests import ApiCall
from receiver.submit import idempotency, labels
from receiver.submit.endpoints import SubmitCall
from receiver.submit.json_object import NotAnObject, parse_object, to_bytes
from receiver.submit.replies import invalid, malformed
from receiver.submit.request_record import masked, request_record
from receiver.submit.source import Caller
from receiver.web.responses import Refusal

# Members by which lists name a run, and the characters of each that are read.
_NAMING = ("title", "prompt", "navigation_goal")
_READ = 1000


@dataclass(frozen=True, slots=True)
class Prepared:
    """A submit as it is recorded and sent. `call`: to Skyvern. `replacing`: texts that its answer must not show the
    caller, and their replacements. `fields`: of the request's body, as the caller sent it."""

    new: NewSubmission
    call: ApiCall
    replacing: Mapping[bytes, bytes] = field(repr=False)
    fields: Mapping[str, Any] = field(repr=False)


def prepare(caller: Caller, call: SubmitCall, redactor: Redactor) -> Prepared:
    """Check a request. Raises Refusal for one that is not a JSON object, whose labels or Idempotency-Key can't be
    recorded, or whose webhook can never be called.

    `redactor`: masks what is kept of the request.
    """
    endpoint, path, query, body, headers = call
    source, key = caller
    fields = parse_request(body)
    submission_id = "sub_" + secrets.token_hex(16)
    run_labels = _labels(key, headers.get(labels.HEADER, ""), fields.get(labels.MEMBER))
    given = fields.get(endpoint.url_field)
    webhook_url = source.webhook_url(given) if isinstance(given, str) else ""
    sent = {name: value for name, value in fields.items() if name != labels.MEMBER}
    replacing = {}
    if given is None or isinstance(given, str):  # anything else Skyvern refuses, in its own words
        sent.pop(endpoint.url_field, None)
        if ours := source.callback_url(submission_id):
            sent[endpoint.url_field] = ours
            replacing[json.dumps(ours).encode()] = json.dumps(webhook_url or None, ensure_ascii=False).encode()
    asked = masked({name: fields.get(name) for name in _NAMING}, redactor)
    texts = storable({name: text[:_READ] for name, text in asked.items() if isinstance(text, str)})
    new = NewSubmission(
        id=submission_id,
        source=source.name,
        key_id=key.id,
        call=endpoint.name,
        request_hash=idempotency.request_hash(call),
        title=title_of(texts),
        prompt=prompt_of(texts),
        labels=run_labels,
        webhook_url=webhook_url,
        idempotency_key=idempotency.key_of(headers),
        request=request_record(call, fields, redactor),
    )
    return Prepared(new, requests.submit(path, to_bytes(sent), headers, query), replacing, fields)


def _labels(key: Key, header: str, member: Any) -> dict[str, str]:
    """Return the labels of a request. Raises Refusal."""
    try:
        run_labels = labels.labels_of(header, member)
    except labels.LabelError as problem:
        raise Refusal(invalid(labels.MEMBER, str(problem))) from None
    if (reserved := sorted(run_labels.keys() & {CHAIN, TRY})) and RESUBMIT not in key.scopes:
        words = f"{reserved[0]} is kept for tries of a failed run, and takes a key with the scope {RESUBMIT}"
        raise Refusal(invalid(labels.MEMBER, words))
    return run_labels


def parse_request(body: bytes) -> dict[str, Any]:
    """Return the JSON object in a caller's body. Raises Refusal for any other body."""
    try:
        return parse_object(body)
    except NotAnObject as problem:
        raise Refusal(malformed(problem)) from None
