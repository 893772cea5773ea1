"""What a dead worker process had in its care is free again as soon as its supervisor knows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from receiver.config.settings import Settings
from receiver.domain.event import Event, event_id
from receiver.inbox.reader import InboxReader
from receiver.inbox.recovery import IDLE, hand_back
from receiver.inbox.writer import InboxWriter
from receiver.ledger import Ledger
from receiver.reaper import release
from receiver.runtime import redis_client
from tests.support.inbox import taken_again
from tests.support.ledger import with_tables


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis_client.connect(redis_url, timeout=5.0, connect_timeout=2.0, retries=0) as it:
        yield it


async def test_events_of_a_dead_reader_are_there_for_the_next_one_at_once(redis_url: str, client: redis.Redis) -> None:
    # Given three events, two of them taken by a reader that is dead now
    writer = InboxWriter(redis_url, timeout=30)
    bodies = [b"1", b"2", b"3"]
    await writer.append([Event(event_id("s", body), "s", body, time.time()) for body in bodies])
    dead, living = InboxReader(client, "dead"), InboxReader(client, "living")
    living.ensure()
    taken = dead.read(2)
    assert taken_again(client, "living", IDLE) == []
    # When it is handed back
    assert hand_back(client, "dead") == 2
    # Then the next reader has them, and no other reader loses any
    assert taken_again(client, "living", IDLE) == taken
    assert [entry.event.body for entry in living.read() if entry.event] == [b"3"]
    # And a dead reader that holds nothing is forgotten
    assert hand_back(client, "dead") == 0
    assert [each["name"] for each in client.xinfo_consumers("runhook:inbox", "dispatch")] == [b"living"]
    await writer.close()


def test_there_is_nothing_to_hand_back_in_a_redis_that_lost_everything(client: redis.Redis) -> None:
    assert hand_back(client, "dead") == 0


def test_giving_back_while_redis_or_the_ledger_is_away_is_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    missing = f"sqlite:///{tmp_path / 'no' / 'such' / 'place.db'}"
    settings = Settings.from_env({"REDIS_URL": "redis://127.0.0.1:1/0", "DATABASE_URL": missing})
    (tmp_path / "no").write_text("a file")
    release(settings, "dispatch", "dead")
    release(settings, "deliver:ops", "dead")
    assert caplog.text.count("worker.not_released owner=dead") == 2


def test_an_empty_ledger_gives_nothing_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    ledger = with_tables(Ledger(url))
    ledger.close()
    release(Settings.from_env({"REDIS_URL": "redis://127.0.0.1:1/0", "DATABASE_URL": url}), "deliver:ops", "dead")
    assert caplog.text == ""
