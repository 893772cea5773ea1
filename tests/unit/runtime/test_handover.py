"""What passes between the processes of a worker, over the sockets that they share."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from typing import cast

import pytest

from receiver.runtime.handover import LARGEST, HandedOn, Handover, Offer

OFFER = Offer("w", 3, 32)
IDS = [f"dlv_{number:064x}" for number in range(32)]


@pytest.fixture
def handover() -> Iterator[Handover]:
    it = Handover()
    yield it
    it.close()


def test_an_offer_is_taken_or_withdrawn_and_never_both(handover: Handover) -> None:
    handover.put(OFFER)
    assert handover.take() == OFFER
    assert not handover.withdraw()
    handover.put(OFFER)
    assert handover.withdraw()
    assert handover.take() is None


@pytest.mark.parametrize("packed", [b"", b"one line", b"\n", b'["a line"]\n{"a": "body"}\n\x00\xff'])
def test_what_is_handed_on_arrives_as_it_was(handover: Handover, packed: bytes) -> None:
    handover.hand_on(OFFER, IDS, 12.5, packed)
    assert handover.receive() == HandedOn("w", 3, tuple(IDS), 12.5, packed)
    assert handover.receive() is None


def test_as_much_as_a_message_holds_arrives_and_of_more_the_ids(handover: Handover) -> None:
    # Given how long a message is with nothing packed
    handover.hand_on(OFFER, IDS, 12.5)
    room = LARGEST - len(handover.answers.recv(LARGEST))
    # When the rest of it is used, then all arrives
    handover.hand_on(OFFER, IDS, 12.5, b"x" * room)
    assert handover.receive() == HandedOn("w", 3, tuple(IDS), 12.5, b"x" * room)
    # And with one byte more only the ids do
    handover.hand_on(OFFER, IDS, 12.5, b"x" * (room + 1))
    assert handover.receive() == HandedOn("w", 3, tuple(IDS), 12.5, b"")


def test_what_a_socket_has_no_room_for_is_sent_as_ids(handover: Handover) -> None:
    # Given a host on which a socket holds less
    handover._answers[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    handover.hand_on(OFFER, IDS, 12.5, b"x" * (LARGEST // 2))
    assert handover.receive() == HandedOn("w", 3, tuple(IDS), 12.5, b"")


class Full:
    """The end of a socket that has no room, on a system that says so as `problem`."""

    def __init__(self, problem: int) -> None:
        self.problem = problem

    def send(self, _sent: bytes) -> int:
        raise OSError(self.problem, "it is full")

    def close(self) -> None: ...


@pytest.mark.parametrize("problem", [errno.EAGAIN, errno.ENOBUFS])
def test_what_there_is_no_room_for_is_lost_and_harms_nobody(handover: Handover, problem: int) -> None:
    """The deliverer waits for it no longer than for a dispatcher that has died."""
    handover._answers[0].close()
    handover._answers = (cast(socket.socket, Full(problem)), handover._answers[1])
    handover.hand_on(OFFER, IDS, 12.5, b"packed")
    assert handover.receive() is None
