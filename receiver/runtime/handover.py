"""The way from the dispatcher to a deliverer of the same worker, past Redis: an offer, and what is handed on for it.

A deliverer with a free slot and nothing due puts an offer out. One dispatcher takes it, has new deliveries recorded as
that deliverer's claim, and once they are committed hands them on: their ids, and all that is needed to send them where
that is small. The sockets are made before the worker forks, so only its own processes can write to them, and the kernel
gives each message to one reader. Decides nothing, and does not know what a delivery is.
"""

from __future__ import annotations

import errno
import json
import socket
from typing import Any, Final, NamedTuple

# Bytes of a message. What Linux gives a socket without being asked holds one, also where others have not been read.
LARGEST: Final = 1 << 17


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
        _send(self._offers[0], offer)

    def take(self) -> Offer | None:
        """Take the offer that is out, if any: nobody else gets it. Its deliverer waits for `hand_on`."""
        found = _receive(self._offers[1])
        return None if found is None else Offer(*found[0])

    def withdraw(self) -> bool:
        """Take the offer back. False when a dispatcher has taken it."""
        return self.take() is not None

    def hand_on(self, offer: Offer, ids: list[str], since: float = 0.0, packed: bytes = b"") -> None:
        """Answer an offer that was taken, once the claim is committed. `ids`: [] when nothing came of it.

        `since`, `packed`: see HandedOn. What is too large for a message is left to the ledger.
        """
        if not _send(self._answers[0], (offer.owner, offer.claim_number, ids, since), packed) and packed:
            _send(self._answers[0], (offer.owner, offer.claim_number, ids, since))

    def receive(self) -> HandedOn | None:
        """Return the next answer, if there is one."""
        found = _receive(self._answers[1])
        if found is None:
            return None
        (owner, claim_number, ids, since), packed = found
        return HandedOn(owner, claim_number, tuple(ids), since, packed)

    def close(self) -> None:
        """Close the sockets of this process."""
        for each in (*self._offers, *self._answers):
            each.close()


def _send(end: socket.socket, message: Any, more: bytes = b"") -> bool:
    """Send a line of JSON, and `more` after it. False where that is too large for a message."""
    sent = b"\n".join((json.dumps(message).encode(), more))
    if len(sent) > LARGEST:
        return False
    try:
        end.send(sent)
    except BlockingIOError:
        pass
    except OSError as error:
        if error.errno == errno.EMSGSIZE:
            return False
        if error.errno != errno.ENOBUFS:  # what macOS says of a socket that is full, and Linux where memory is short
            raise
    return True


def _receive(end: socket.socket) -> tuple[Any, bytes] | None:
    try:
        message = end.recv(LARGEST)
    except BlockingIOError:
        return None
    end_of_line = message.index(b"\n")
    return json.loads(message[:end_of_line]), message[end_of_line + 1 :]
