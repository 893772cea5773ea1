"""The way from the dispatcher to a deliverer of the same worker, past Redis: an offer, and what is handed on for it.

A deliverer with a free slot and nothing due puts an offer out. One dispatcher takes it, has new deliveries recorded as
that deliverer's claim, and once they are committed hands them on: their ids, and all that is needed to send them where
that is small. The sockets are made before the worker forks, so only its own processes can write to them, and the kernel
gives each message to one reader. What a message does not hold is in a file in memory, whose descriptor goes with the
message. Decides nothing, and does not know what a delivery is.
"""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Sequence
from typing import Final, NamedTuple

# Bytes that are handed on at once: a whole batch of a dispatcher, of the usual bodies.
LARGEST: Final = 1 << 20
# Bytes of a message. What Linux gives a socket without being asked holds one, also where others have not been read. So
# nothing waits for a reader.
MESSAGE: Final = 1 << 17


class Offer(NamedTuple):
    """What a deliverer would start at once: up to `room` deliveries, claimed by `owner` under `claim_number`."""

    owner: str
    claim_number: int
    room: int


class HandedOn(NamedTuple):
    """The answer to the offer of `owner` with `claim_number`. `ids`: of the deliveries that are its claim now.

    `packed`: these deliveries, as they were at `since` by time.monotonic(), which all processes of a host share; b""
    where only the ledger has them.
    """

    owner: str
    claim_number: int
    ids: tuple[str, ...]
    since: float
    packed: bytes


class Handover:
    """Both directions for one sink. Never blocks but in `receive`; a message for which there is no room is lost, as one
    to a process that dies."""

    def __init__(self) -> None:
        self._offers = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._answers = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for each in (*self._offers, *self._answers):
            each.setblocking(False)

    @property
    def answers(self) -> socket.socket:
        """What becomes readable when something is handed on."""
        return self._answers[1]

    def put(self, offer: Offer) -> None:
        """Put an offer out. Only one may be out at a time."""
        _send(self._offers[0], json.dumps(offer).encode())

    def take(self) -> Offer | None:
        """Take the offer that is out, if any: nobody else gets it. Its deliverer waits for `hand_on`."""
        try:
            message = self._offers[1].recv(MESSAGE)
        except BlockingIOError:
            return None
        return Offer(*json.loads(message))

    def withdraw(self) -> bool:
        """Take the offer back. False when a dispatcher has taken it."""
        return self.take() is not None

    def hand_on(self, offer: Offer, ids: list[str], since: float = 0.0, packed: bytes = b"") -> None:
        """Answer an offer that was taken, once the claim is committed. `ids`: [] when nothing came of it.

        `since`, `packed`: see HandedOn. What is too large, or has no place, is left to the ledger.
        """
        head = json.dumps((offer.owner, offer.claim_number, ids, since)).encode() + b"\n"
        fits = len(head) + len(packed) <= MESSAGE
        if not (_send(self._answers[0], head + packed) if fits else self._send_beside(head, packed)):
            _send(self._answers[0], head)

    def _send_beside(self, head: bytes, packed: bytes) -> bool:
        """Send what does not fit in the message beside it. False where that can't be."""
        handle = _file_in_memory(packed) if len(packed) <= LARGEST else None
        if handle is None:
            return False
        try:
            return _send(self._answers[0], head, [handle])
        except OSError:  # this user has too many descriptors on their way, or the system forbids to pass any
            return False
        finally:
            os.close(handle)

    def receive(self) -> HandedOn | None:
        """Return the next answer, if there is one."""
        try:
            message, handles, _, _ = socket.recv_fds(self._answers[1], MESSAGE, 1)
        except BlockingIOError:
            return None
        head, _, packed = message.partition(b"\n")
        for handle in handles:
            packed = os.pread(handle, LARGEST, 0)
            os.close(handle)
        owner, claim_number, ids, since = json.loads(head)
        return HandedOn(owner, claim_number, tuple(ids), since, packed)

    def close(self) -> None:
        """Close the sockets of this process."""
        for each in (*self._offers, *self._answers):
            each.close()


def _send(end: socket.socket, message: bytes, handles: Sequence[int] = ()) -> bool:
    """Send a message, with these descriptors. False where it is too large."""
    try:
        if handles:
            socket.send_fds(end, [message], handles)
        else:
            end.send(message)
    except BlockingIOError:
        pass
    except OSError as error:
        if error.errno == errno.EMSGSIZE:
            return False
        if error.errno != errno.ENOBUFS:  # what macOS says of a socket that is full, and Linux where memory is short
            raise
    return True


def _file_in_memory(content: bytes) -> int | None:
    """Return the descriptor of a file that holds `content`; None where none can be had, as on macOS."""
    try:
        handle = os.memfd_create("handed-on")
    except (AttributeError, OSError):
        return None
    try:
        if os.write(handle, content) == len(content):
            return handle
    except OSError:  # memory is short
        pass
    os.close(handle)
    return None
