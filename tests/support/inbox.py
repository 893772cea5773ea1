"""What stands in the inbox and in a spool."""

from __future__ import annotations

from typing import Any

from receiver.inbox import STREAM
from receiver.ingest.spool import Spool
from tests.servers.receiver import ReceiverProcess
from tests.servers.valkey import ValkeyProcess
from tests.support.waiting import eventually


def ids_in_inbox(server: ValkeyProcess) -> list[str]:
    client = server.connect()
    try:
        entries: Any = client.xrange(STREAM)
        return [fields[b"id"].decode() for _, fields in entries]
    finally:
        client.close()


def ids_in_spool(receiver: ReceiverProcess) -> list[str]:
    """What a receiver that is gone left in its spool."""
    spool = Spool(receiver.data / "spool", 1 << 40, 0)
    spool.open()
    found = []
    while (batch := spool.peek()).events:
        found += [event.id for event in batch.events]
        spool.done(batch)
    spool.close()
    return found


def all_arrive(server: ValkeyProcess, acked: list[str]) -> None:
    """Each acked event gets into the inbox."""

    def arrived() -> bool:
        missing = set(acked) - set(ids_in_inbox(server))
        assert not missing, f"{len(missing)} of {len(acked)} are missing"
        return True

    eventually(arrived)
