"""The transaction of a commit, and what is made of its reply."""

from __future__ import annotations

import random

import pytest

from receiver.domain.event import Event, event_id
from receiver.domain.inbox_entry import EntryKeys, read_entry
from receiver.domain.packed_body import BodyPacker
from receiver.inbox.transaction import APART, CommitReply, NotUnderstood, Transaction, read_reply

QUEUED = b"+OK\r\n" + b"+QUEUED\r\n" * 4
WHOLE = QUEUED + b"*4\r\n$3\r\n1-0\r\n$3\r\n1-1\r\n:7\r\n:59000\r\n"


def test_a_reply_is_read_once_all_of_it_has_come() -> None:
    for come in range(len(WHOLE)):
        assert read_reply(WHOLE[:come], 2) is None, WHOLE[:come]

    assert read_reply(WHOLE, 2) == CommitReply(7, 59000)


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (QUEUED + b"*4\r\n-WRONGTYPE no\r\n-WRONGTYPE no\r\n-WRONGTYPE no\r\n:-2\r\n", "WRONGTYPE no"),
        (QUEUED + b"*4\r\n$3\r\n1-0\r\n-ERR exhausted\r\n:1\r\n:-2\r\n", "ERR exhausted"),
        (
            b"+OK\r\n-OOM full\r\n-OOM full\r\n+QUEUED\r\n+QUEUED\r\n-EXECABORT because of previous errors\r\n",
            "OOM full",
        ),
        (QUEUED + b"-EXECABORT because of: OOM full\r\n", "EXECABORT because of: OOM full"),
    ],
)
def test_one_error_fails_the_commit(reply: bytes, error: str) -> None:
    for come in range(len(reply)):
        assert read_reply(reply[:come], 2) is None, reply[:come]

    assert read_reply(reply, 2) == CommitReply(error=error)


@pytest.mark.parametrize(
    "data",
    [
        b"+PONG\r\n",
        b"+OK\r\n" + WHOLE,
        WHOLE + b"+OK\r\n",
        QUEUED + b"*5\r\n$3\r\n1-0\r\n$3\r\n1-1\r\n:7\r\n:59000\r\n",
        QUEUED + b"*4\r\n$3\r\n1-0\r\n$3\r\n1-1\r\n:7\r\n+OK\r\n",
        b"+OK\r\n-OOM full\r\n" + b"+QUEUED\r\n" * 3 + b"*3\r\n$3\r\n1-0\r\n:7\r\n:59000\r\n",
    ],
)
def test_what_is_no_reply_to_a_commit_is_not_taken_for_one(data: bytes) -> None:
    with pytest.raises(NotUnderstood):
        read_reply(data, 2)


def test_a_transaction_that_may_not_begin_says_why() -> None:
    refused = b"-NOPERM no MULTI for you\r\n"
    for come in range(len(refused)):
        assert read_reply(refused[:come], 2) is None, refused[:come]

    with pytest.raises(NotUnderstood, match=r"^NOPERM"):
        read_reply(refused + b"$3\r\n1-0\r\n", 2)


@pytest.mark.parametrize("size", [0, 1, APART - 1, APART, 3 * APART])
def test_a_body_is_sent_as_it_is_and_a_large_one_is_not_copied(size: int) -> None:
    body = b"\r\n" * (size // 2) + b"x" * (size % 2)

    pieces, stored = Transaction("inbox", "flag").pack(
        [Event(event_id("skyvern", body), "skyvern", body, 1767225600.25)], EntryKeys({"skyvern": ["secret"]})
    )

    sent = b"".join(pieces)
    assert sent.startswith(b"*1\r\n$5\r\nMULTI\r\n*17\r\n$4\r\nXADD\r\n$5\r\ninbox\r\n$1\r\n*\r\n$2\r\nid\r\n")
    assert b"$4\r\nbody\r\n$%d\r\n%b\r\n$2\r\nat\r\n$13\r\n1767225600.25\r\n" % (len(body), body) in sent
    assert any(piece is body for piece in pieces) == (size >= APART)
    assert stored == size


def test_a_body_is_packed_where_that_is_wanted_and_worth_it() -> None:
    # Given a small body, and a large one
    keys = EntryKeys({"skyvern": ["secret"]})
    small, large = b'{"run_id":"tsk_1"}', b'{"run_id":"tsk_2","output":"' + b"word " * 5000 + b'"}'
    events = [Event(event_id("skyvern", body), "skyvern", body, 1767225600.25) for body in (small, large)]
    # When they are packed for a commit
    pieces, stored = Transaction("inbox", "flag").pack(events, keys, packed=True)
    # Then the large one takes a part of its size, and both are read back
    entries = fields_of(b"".join(pieces))
    assert [read_entry(fields, keys) for fields in entries] == events
    assert [b"size" in fields for fields in entries] == [False, True]
    assert stored == sum(len(fields[b"body"]) for fields in entries) < len(large) / 10


def test_a_body_that_is_packed_already_is_not_packed_again_and_stays_as_it_is_where_none_may_be() -> None:
    # Given a body that somebody has packed
    keys = EntryKeys({"skyvern": ["secret"]})
    body = random.Random(1).randbytes(2 * APART).hex().encode()
    ahead = BodyPacker().pack(body)
    event = Event(event_id("skyvern", body), "skyvern", body, 1767225600.25, packed=ahead)
    for packed, sent in ((True, ahead), (False, body)):
        # When it is made ready for a commit
        pieces, stored = Transaction("inbox", "flag").pack([event], keys, packed=packed)
        # Then what is sent is that very piece, or the body itself
        assert [piece for piece in pieces if piece is sent] == [sent]
        assert stored == len(sent)
        (fields,) = fields_of(b"".join(pieces))
        assert read_entry(fields, keys) == event


def fields_of(sent: bytes) -> list[dict[bytes, bytes]]:
    """The fields of each entry that a transaction adds."""
    found, at = [], 0

    def line() -> bytes:
        nonlocal at
        begin, at = at, sent.index(b"\r\n", at) + 2
        return sent[begin : at - 2]

    while at < len(sent):
        words = []
        for _ in range(int(line()[1:])):
            length = int(line()[1:])
            words.append(sent[at : at + length])
            at += length + 2
        if words[0] == b"XADD":
            found.append(dict(zip(words[3::2], words[4::2], strict=True)))
    return found
