"""Another program has written the inbox's key: each part says so once, does the rest of its work, and goes on after."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
import redis

from receiver.dispatch.dispatcher import QUEUE
from receiver.domain.redaction import Redactor
from receiver.inbox import STREAM
from receiver.inbox.reader import InboxReader
from receiver.inbox.state import OVERWRITTEN, examine
from receiver.ledger import Ledger
from receiver.routing.router import Router
from receiver.wakeups import flag_key
from tests.servers.receiver import Load, ReceiverProcess
from tests.servers.valkey import ValkeyProcess
from tests.support.dispatching import make_dispatcher
from tests.support.inbox import all_arrive
from tests.support.ledger import with_tables
from tests.support.waiting import eventually


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url, socket_timeout=10) as it:
        yield it


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    it = with_tables(Ledger(f"sqlite:///{tmp_path / 'ledger.db'}"))
    yield it
    it.close()


def test_receiver_spools_beside_an_overwritten_inbox(
    valkey_factory: Callable[..., ValkeyProcess], receiver_factory: Callable[..., ReceiverProcess]
) -> None:
    server = valkey_factory()
    receiver = receiver_factory(server.url)

    def ready() -> tuple[int, str]:
        answer = httpx2.get(f"{receiver.url}/readyz", timeout=60)
        return answer.status_code, answer.text

    with Load(receiver, threads=2) as load, server.connect() as client:
        load.more(20)
        # When somebody writes something else in the stream's place
        client.pipeline(transaction=True).rename(STREAM, "aside").set(STREAM, "poison").execute()
        # Then events are acked all the same, and /readyz and the log tell why
        eventually(lambda: '"store":"spool"' in ready()[1], every=0.2)
        load.more(60)
        assert "not used: WRONGTYPE" in ready()[1]
        assert receiver.log.count("ingest.redis_away") == 1
        assert receiver.log.count("\n") < 25
        # And with the key put right all goes on
        client.pipeline(transaction=True).delete(STREAM).rename("aside", STREAM).execute()
        eventually(lambda: ready()[0] == 200 and '"store":"redis"' in ready()[1], every=0.2)
        load.more(20)
    assert (load.statuses, load.lost) == ([], 0)
    all_arrive(server, load.acked)


def test_dispatcher_logs_an_overwritten_inbox_once(
    ledger: Ledger, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    it = make_dispatcher(ledger, Router([]), Redactor([]), InboxReader(client, "d1"), client)
    client.set(STREAM, "poison")
    for _ in range(2):
        client.set(flag_key(QUEUE), "up")
        it.run(lambda: False)
        assert not client.exists(flag_key(QUEUE))
    assert caplog.text.count("dispatch.paused redis=") == 1

    client.delete(STREAM)
    it.run(lambda: True)
    assert client.xlen(STREAM) == 0


def test_state_of_an_overwritten_inbox_names_the_fix(client: redis.Redis) -> None:
    assert examine(client).trouble == ""
    client.set(STREAM, "poison")
    assert examine(client).trouble == OVERWRITTEN
