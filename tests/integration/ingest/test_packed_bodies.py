"""Packed bodies in the inbox of a receiver and a Redis that are killed: each is found again, and whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from receiver.domain.inbox_entry import EntryKeys
from receiver.inbox.reader import InboxReader
from receiver.inbox.stream import STREAM
from tests.servers.receiver import SECRET, Load, ReceiverProcess
from tests.servers.valkey import ValkeyProcess
from tests.support.inbox import all_arrive


def test_kill_9_of_both_loses_no_packed_body(
    valkey_factory: Callable[..., ValkeyProcess], receiver_factory: Callable[..., ReceiverProcess]
) -> None:
    # Given a receiver whose readers unpack bodies, and large ones that come fast
    server = valkey_factory()
    with server.connect() as client:
        InboxReader(client, "before").ensure()
    receiver = receiver_factory(server.url)
    with Load(receiver, threads=8, output={"text": "word " * 20_000}) as load:
        load.more(100)
        # When Redis is killed, and then the receiver, with events in its spool
        server.kill()
        load.more(50)
        receiver.kill()
    server.start()
    receiver.start()
    # Then each acked event is in the inbox, packed by both ways there, and is read whole
    all_arrive(server, load.acked)
    with server.connect() as client:
        entries: Any = client.xrange(STREAM)
        assert all(int(fields[b"size"]) > 100_000 > 50 * len(fields[b"body"]) for _, fields in entries)
        read = InboxReader(client, "after", EntryKeys({"skyvern": [SECRET]})).entries(entries)
        assert {entry.event.id for entry in read if entry.event} >= set(load.acked)
        assert not [entry.problem for entry in read if entry.event is None]
