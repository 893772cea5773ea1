"""The transaction that appends a commit's events to the inbox, as bytes on their way to Redis and back. Pure.

    MULTI, an XADD for each event, XLEN of the stream, PTTL of the wake-up's flag, EXEC

It is written to disk as one, all of it or none. A script would do the same, and costs Redis half as much again: it
copies each body twice more, and hashes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from receiver.domain.event import Event
from receiver.domain.inbox_entry import EntryKeys, message
from receiver.domain.packed_body import BodyPacker

# Bytes of a body from which it is a piece of its own of what is sent: to copy it costs more than one more piece.
APART: Final = 8 << 10
_FIELDS: Final = 7  # and one more where the body is packed
_BEGIN: Final = b"*1\r\n$5\r\nMULTI\r\n"
_EXECUTE: Final = b"*1\r\n$4\r\nEXEC\r\n"


class NotUnderstood(ValueError):
    """What came is no reply to such a transaction, so it is not known what Redis has done."""


class CommitReply(NamedTuple):
    """`depth`: entries in the stream now. `lapses`: milliseconds that the flag has left, less than 1 where it is none.

    `error`: the first error of Redis, or "". With one, the rest is not known, and some of the events are not there.
    """

    depth: int = 0
    lapses: int = 0
    error: str = ""


class Transaction:
    """Packs commits. `stream`: the key of the inbox. `flag`: the key that exists while a wake-up is outstanding."""

    def __init__(self, stream: str, flag: str) -> None:
        to, one = stream.encode(), flag.encode()
        add = _bulks(b"XADD", to, b"*", b"id")
        self._add, self._add_packed = (b"*%d\r\n" % (3 + 2 * fields) + add for fields in (_FIELDS, _FIELDS + 1))
        self._packer = BodyPacker()
        self._end = b"*2\r\n" + _bulks(b"XLEN", to) + b"*2\r\n" + _bulks(b"PTTL", one) + _EXECUTE

    def pack(self, events: Sequence[Event], keys: EntryKeys, *, packed: bool = False) -> tuple[list[bytes], int]:
        """Return what is sent to append `events`, in order, and how many bytes their bodies take up in it.

        `packed`: whether bodies may be packed. redis-py would take ten times as long.
        """
        pieces, stored = [_BEGIN], 0
        for event in events:
            name, source, sub = event.id.encode(), event.source.encode(), event.submission_id.encode()
            at, via, body = repr(event.received_at).encode(), event.via.encode(), event.body
            add, size, sized = self._add, b"", b""
            shorter = (event.packed or self._packer.pack(body)) if packed else body
            if len(shorter) < len(body):
                add, size, body = self._add_packed, b"%d" % len(body), shorter
                sized = _bulks(b"size", size)
            stored += len(body)
            mac = keys.macs(event.source, message(name, source, at, via, sub, size))
            before = b"%b$%d\r\n%b\r\n$6\r\nsource\r\n$%d\r\n%b\r\n%b$4\r\nbody\r\n$%d\r\n" % (
                *(add, len(name), name),
                *(len(source), source, sized, len(body)),
            )
            after = (
                b"\r\n$2\r\nat\r\n$%d\r\n%b\r\n$3\r\nvia\r\n$%d\r\n%b\r\n"
                b"$3\r\nsub\r\n$%d\r\n%b\r\n$3\r\nmac\r\n$%d\r\n%b\r\n"
            ) % (len(at), at, len(via), via, len(sub), sub, len(mac), mac)
            if len(body) < APART:
                pieces.append(before + body + after)
            else:
                pieces += before, body, after
        pieces.append(self._end)
        return pieces, stored


def read_reply(data: bytes, events: int) -> CommitReply | None:
    """Return what `data` says of a transaction of so many events; None when not all of it has come.

    Raises NotUnderstood.
    """
    if data[:1] == b"-":  # no transaction was begun: each command that follows was done, or refused, for itself
        refusal, end, _ = data[1:].partition(b"\r\n")
        if not end:
            return None
        raise NotUnderstood(refusal.decode(errors="replace")[:200])
    if data[:3] != b"+OK"[: len(data)]:
        raise NotUnderstood("its answer was not understood")
    queued = events + 3  # lines: MULTI's, and one for each command in it
    if data.count(b"\r\n") <= queued:
        return None
    *lines, rest = data.split(b"\r\n")
    status, *executed = lines[queued:]
    if status.startswith(b"-EXECABORT"):  # one command was refused, so all are
        understood = not executed
        errors = [line for line in lines[1 : queued + 1] if line[:1] == b"-"]
    else:
        understood = status == b"*%d" % (events + 2) and lines[1:queued] == [b"+QUEUED"] * (events + 2)
        # There is a line for each command, and one more for each id.
        to_come = events + 2 + sum(line[:1] == b"$" for line in executed) - len(executed)
        if understood and to_come > 0:
            return None
        understood = understood and to_come == 0
        errors = [line for line in executed if line[:1] == b"-"]
    if not understood or rest:
        raise NotUnderstood("its answer was not understood")
    if errors:
        return CommitReply(error=errors[0][1:].decode(errors="replace"))
    try:
        depth, lapses = (int(line.removeprefix(b":")) for line in executed[-2:])
    except ValueError:
        raise NotUnderstood("its answer was not understood") from None
    return CommitReply(depth, lapses)


def _bulks(*values: bytes) -> bytes:
    return b"".join(b"$%d\r\n%b\r\n" % (len(value), value) for value in values)
