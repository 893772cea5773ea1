"""Whose webhook it is that a submission has, and so who signs it and who may see its address.

The address may hold a token, or a user and password: it is its caller's own, though all keys of a source see the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import sqlalchemy as sa

from handlers.support.resubmit_chain import CHAIN
from receiver.domain.api_key import RESUBMIT
from receiver.domain.run import RunKey
from receiver.ledger import api_keys, dialect
from receiver.ledger.api_keys import Key
from receiver.ledger.schema import submissions
from receiver.ledger.submissions import records
from receiver.ledger.submissions.records import Submission


def caller_of(connection: sa.Connection, submission: Submission) -> Key | None:
    """Return the key of the caller that was promised the submission's webhook; None when it is gone.

    A run that was submitted again on somebody's behalf is that caller's: who was promised a webhook must be able to
    check it. That takes a key that may do so, and the very address that the first submission gave.
    """
    key = api_keys.one(connection, submission.key_id)
    if key and RESUBMIT in key.scopes and (first := submission.labels.get(CHAIN)):
        origin = records.of_run(connection, submission.source, first)
        if origin and origin.webhook_url == submission.webhook_url:
            return api_keys.one(connection, origin.key_id)
    return key


def for_callers(connection: sa.Connection, bound: Mapping[RunKey, Submission]) -> dict[RunKey, Submission]:
    """Return the submissions, each with the key of the caller that it was made for."""
    found = dict(bound)
    for key, submission in bound.items():
        if submission.webhook_url and CHAIN in submission.labels and (caller := caller_of(connection, submission)):
            found[key] = replace(submission, key_id=caller.id)
    return found


def may_see(connection: sa.Connection, submission: Submission, key: Key) -> bool:
    """Whether `key` may see the address: it gave it, it was given for it, or it submits again for others."""
    if RESUBMIT in key.scopes or submission.key_id == key.id:
        return True
    caller = caller_of(connection, submission) if CHAIN in submission.labels else None
    return caller is not None and caller.id == key.id


def webhook_of(connection: sa.Connection, run: RunKey, key: Key) -> tuple[Submission | None, bool]:
    """Return the submission that the run came of, and whether `key` may see its webhook."""
    submission = records.of_run(connection, *run)
    return submission, submission is not None and may_see(connection, submission, key)


def addresses(connection: sa.Connection, source: str, submission_ids: Sequence[str], key: Key) -> dict[str, str]:
    """Return the webhooks that `key` may see, by submission id."""
    query = sa.select(submissions.c.id, submissions.c.key_id, submissions.c.callback_url).where(
        submissions.c.source == source,
        submissions.c.callback_url != "",
        dialect.among(submissions.c.id, submission_ids),
    )
    found = {}
    for row in connection.execute(query).all():
        if row.key_id != key.id:
            submission = records.one(connection, row.id)
            if submission is None or not may_see(connection, submission, key):
                continue
        found[row.id] = row.callback_url
    return found
