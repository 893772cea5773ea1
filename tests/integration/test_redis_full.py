"""A Redis that is full of the inbox, as after hours without the ledger: the inbox is drained all the same."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from receiver.domain.frame import EntryKeys
from receiver.domain.liveness import DISPATCH
from receiver.domain.redaction import Redactor
from receiver.inbox import ASIDE, STREAM
from receiver.inbox.reader import InboxReader
from receiver.ledger import Connection, Ledger
from receiver.routing.router import Router
from receiver.wakeups import worker
from tests.servers.valkey import ValkeyProcess
from tests.support import queries
from tests.support.dispatching import make_dispatcher
from tests.support.events import body, event
from tests.support.inbox import Stop, append
from tests.support.ledger import with_tables
from tests.support.waiting import PATIENCE

KEYS = EntryKeys({"skyvern": ["secret"]})


def recorded(ledger: Ledger) -> int:
    def count(connection: Connection) -> int:
        return len(queries.list_events(connection, queries.Filter()))

    return ledger.read(count)


def test_full_redis_is_drained_without_wake_ups(tmp_path: Path, valkey_factory: Callable[..., ValkeyProcess]) -> None:
    ledger = with_tables(Ledger(f"sqlite:///{tmp_path}/ledger.db"))
    # Given a Redis full of events, with a stranger's entry among them
    server = valkey_factory()
    with server.connect() as client:
        reader = InboxReader(client, "d1", KEYS)
        reader.ensure()
        client.xadd(STREAM, {"a": "b"})
        append(server.url, *(event(body(f"tsk_{number}", x="y" * 20_000)) for number in range(60)), keys=KEYS)
        used: Any = client.info("memory")
        client.config_set("maxmemory", used["used_memory"] - 400_000)
        with pytest.raises(redis.OutOfMemoryError):
            reader.ensure()
        # When a worker begins to serve the dispatcher's queue
        it, stop = make_dispatcher(ledger, Router([]), Redactor([]), reader, client), Stop()
        giving_up = threading.Timer(PATIENCE, stop.ask)
        giving_up.start()

        def work() -> None:  # there is room again for a wake-up
            it.run(lambda: bool(stop))
            if not client.xlen(STREAM):
                stop.ask()

        worker.serve(DISPATCH, server.url, "d1", work, stop)
        giving_up.cancel()
        # Then all are in the ledger, and there is room again
        assert recorded(ledger) == 60
        assert client.xlen(STREAM) == 0
        assert client.xlen(ASIDE) == 1
        client.set("other", "y")
        it.close()
