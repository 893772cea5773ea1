"""What passes between the processes of a worker, over the sockets that they share."""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest

from receiver.runtime.handover import LARGEST, MESSAGE, HandedOn, Handover, Offer

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


def descriptors() -> int:
    """Count those that are open."""
    return len(list(Path("/dev/fd").iterdir()))


@pytest.fixture
def room(handover: Handover) -> int:
    """Bytes that a message has for what is packed."""
    handover.hand_on(OFFER, IDS, 12.5)
    return MESSAGE - len(handover.answers.recv(MESSAGE))


def test_what_a_message_does_not_hold_arrives_beside_it(handover: Handover, room: int) -> None:
    opened = descriptors()
    for size in (room, room + 1, LARGEST):
        handover.hand_on(OFFER, IDS, 12.5, b"x" * size)
        assert handover.receive() == HandedOn("w", 3, tuple(IDS), 12.5, b"x" * size)
    # And nothing stays open
    assert descriptors() == opened
    # And of one byte more only the ids arrive
    handover.hand_on(OFFER, IDS, 12.5, b"x" * (LARGEST + 1))
    assert handover.receive() == HandedOn("w", 3, tuple(IDS), 12.5, b"")


@pytest.mark.parametrize(
    "trouble",
    ["no such call", "no descriptor is left", "memory is short", "a part is written", "too many are on their way"],
)
def test_where_nothing_can_go_beside_a_message_the_ids_arrive(
    handover: Handover, room: int, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.ENOMEM, trouble)

    opened, packed = descriptors(), b"x" * (room + 1)
    # Given a system that has no files in memory, or no memory for one
    with monkeypatch.context() as system:
        if trouble == "no such call":
            system.delattr(os, "memfd_create")
        elif trouble == "no descriptor is left":
            system.setattr(os, "memfd_create", fail)
        elif trouble == "too many are on their way":  # of all processes of the user, which root never hears
            system.setattr(socket, "send_fds", fail)
        else:
            system.setattr(os, "write", fail if trouble == "memory is short" else lambda *_: 1)
        # When more is handed on than a message holds
        handover.hand_on(OFFER, IDS, 12.5, packed)
    # Then it is left to the ledger
    assert handover.receive() == HandedOn("w", 3, tuple(IDS), 12.5, b"")
    assert descriptors() == opened


@pytest.mark.parametrize("full", ["sender", "receiver"])
def test_where_a_process_may_open_no_more_files_the_ids_arrive(handover: Handover, room: int, full: str) -> None:
    # Given an end that may open no file
    limits, packed = resource.getrlimit(resource.RLIMIT_NOFILE), b"x" * (room + 1)
    os.close(lowest := os.open(os.devnull, os.O_RDONLY))
    opened = descriptors()

    @contextmanager
    def no_more(end: str) -> Iterator[None]:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest if end == full else limits[0], limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    # When more is handed on than a message holds
    with no_more("sender"):
        handover.hand_on(OFFER, IDS, 12.5, packed)
    with no_more("receiver"):
        answer = handover.receive()
    # Then it is left to the ledger, and nothing stays open
    assert answer == HandedOn("w", 3, tuple(IDS), 12.5, b"")
    assert descriptors() == opened


def test_what_a_socket_has_no_room_for_is_sent_as_ids(handover: Handover) -> None:
    # Given a host on which a socket holds less
    handover._answers[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    handover.hand_on(OFFER, IDS, 12.5, b"x" * (MESSAGE // 2))
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
