"""Processes say that they are alive: in Redis, on both databases, and in the data directory."""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest
import redis
import sqlalchemy as sa

from receiver import __version__
from receiver.config.settings import Settings
from receiver.domain.parts import FORGET_AFTER, PartBeat, PartSeen
from receiver.ledger import Ledger, heartbeats
from receiver.ledger.schema import heartbeats as table
from receiver.status import board
from receiver.status.board import PartsWatch
from receiver.status.heartbeat import Heartbeat
from tests.servers.valkey import ValkeyProcess, free_port
from tests.support.ledger import with_tables
from tests.support.waiting import eventually


@pytest.fixture
def settings(tmp_path: Path, redis_url: str, ledger: Ledger) -> Settings:
    url = ledger.url.render_as_string(hide_password=False)
    return Settings.from_env({"REDIS_URL": redis_url, "DATABASE_URL": url, "RUNHOOK_DATA": str(tmp_path / "data")})


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    it = redis.Redis.from_url(redis_url)
    yield it
    it.close()


def test_heartbeat_and_stop_reach_all_stores(settings: Settings, client: redis.Redis, ledger: Ledger) -> None:
    def everywhere() -> list[list[PartSeen]]:
        return [board.every(client), ledger.read(heartbeats.every), board.every_file(settings.data)]

    # Given a process that beats
    it = Heartbeat(settings, "deliver:ops", "abc", details=lambda: {"spool_events": 3}, every=0.05)
    it.start()
    # Then each store tells who it is
    for seen in eventually(lambda: all(found := everywhere()) and found):
        (one,) = seen
        assert (one.beat.part, one.beat.pid, one.beat.version, one.beat.config) == (
            "deliver:ops",
            os.getpid(),
            __version__,
            "abc",
        )
        assert (one.state, one.beat.details["spool_events"]) == ("running", 3)
        assert one.skew is None or abs(one.skew) < 60
    assert [path.stat().st_mode & 0o077 for path in (settings.data / "parts").rglob("*.json")] == [0]
    # And it stays one, however often it beats
    first = everywhere()[1][0].beat.sent_at
    eventually(lambda: everywhere()[1][0].beat.sent_at > first)
    assert [len(seen) for seen in everywhere()] == [1, 1, 1]
    # And an orderly end is told to Redis and the ledger; the file is gone
    it.stop()
    ended = everywhere()
    assert [[each.state for each in seen] for seen in ended] == [["stopped"], ["stopped"], []]


def told_to_ledger(ledger: Ledger, settings: Settings) -> Generator[int]:
    """Which heartbeats for the ledger come there, by their numbers, while a process beats."""
    numbers = defaultdict(count)
    details = lambda: {"number": next(numbers[threading.current_thread().name])}  # noqa: E731
    it = Heartbeat(settings, "clock", "", details=details, every=0.05)
    it.start()
    last = -1
    try:
        while True:
            found = [seen.beat.details["number"] for seen in ledger.read(heartbeats.every)]
            if found and found[0] != last:
                (last,) = found
                yield last
    finally:
        it.stop()


def test_ledger_gets_every_other_heartbeat_while_redis_is_up(
    settings: Settings, client: redis.Redis, ledger: Ledger
) -> None:
    # Given a process whose heartbeats Redis takes
    numbers = told_to_ledger(ledger, settings)
    eventually(lambda: next(numbers) >= 0 and board.every(client))
    # The one under way may have begun before
    next(numbers), next(numbers)

    # Then one in two comes to the ledger
    seen = list(islice(numbers, 8))
    assert {number % 2 for number in seen} == {seen[0] % 2}
    numbers.close()


def test_ledger_gets_each_heartbeat_while_redis_is_down(settings: Settings, ledger: Ledger) -> None:
    numbers = told_to_ledger(ledger, settings.model_copy(update={"redis_url": f"redis://127.0.0.1:{free_port()}"}))

    eventually(lambda: next(numbers) + 1 == next(numbers))
    numbers.close()


def test_process_of_several_parts_has_one_file(settings: Settings, client: redis.Redis, ledger: Ledger) -> None:
    parts = {f"deliver:{sink}@host": f"deliver:{sink}" for sink in ("a", "b", "c/d")}
    (name, part), *others = parts.items()

    def told() -> list[dict[str, str]]:
        stores = [board.every(client), ledger.read(heartbeats.every), board.every_file(settings.data)]
        return [{each.beat.name: each.beat.part for each in seen} for seen in stores]

    # Given one that beats
    it = Heartbeat(settings, part, "", name=name, every=0.05)
    for each in others:
        it.add(*each)
    it.start()

    # Then each store knows all parts, and the data directory has one file of them
    eventually(lambda: told() == [parts] * 3)
    assert len(list((settings.data / "parts").glob("*.json"))) == 1

    # When it ends in order, then there is none
    it.stop()
    assert told()[2] == {}


def test_role_added_to_a_running_process_shows_at_once(settings: Settings, client: redis.Redis, ledger: Ledger) -> None:
    # Given a process whose next heartbeat is far away
    it = Heartbeat(settings, "dispatch", "abc", every=600)
    it.start()
    eventually(lambda: len(board.every(client)) == 1)
    # When it takes another role, then that is known, and it still stops at once
    it.add("another", "deliver:ops")
    eventually(lambda: {each.beat.part for each in board.every(client)} == {"dispatch", "deliver:ops"})
    it.stop()
    assert {each.state for each in board.every(client)} == {"stopped"}


def test_loop_that_stands_still_is_stuck(
    settings: Settings, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.domain.parts.STUCK_AFTER", 0.2)
    it = Heartbeat(settings, "clock", "", watched=True, every=0.05)
    it.start()

    eventually(lambda: [each.state for each in board.every(client)] == ["stuck"])
    # Until it goes on: a beat may come long after one step of it
    eventually(lambda: it.step() or board.every(client)[0].beat.stalled < 0.2)
    it.stop()


def test_late_heartbeat_is_soon_followed_by_another(
    settings: Settings, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.status.heartbeat._LATE", 0.2)
    slow = iter([0.5, 0.5])  # one for each store
    it = Heartbeat(settings, "clock", "", details=lambda: time.sleep(next(slow, 0)) or {}, every=3600)
    it.start()

    first = eventually(lambda: board.every(client))[0]
    assert first.skew is not None
    assert first.skew < -0.4
    eventually(lambda: (skew := board.every(client)[0].skew) is not None and skew > -0.2)
    it.stop()


@pytest.mark.parametrize("away", ["redis", "ledger"])
def test_one_store_is_enough_and_the_other_says_why(tmp_path: Path, redis_url: str, away: str, ledger: Ledger) -> None:
    url = ledger.url.render_as_string(hide_password=False)
    gone = {"redis": {"REDIS_URL": "redis://127.0.0.1:1/0"}, "ledger": {"DATABASE_URL": "sqlite:////dev/null/l.db"}}
    given = {"REDIS_URL": redis_url, "DATABASE_URL": url, "RUNHOOK_DATA": str(tmp_path), **gone[away]}
    settings = Settings.from_env(given)
    it = Heartbeat(settings, "clock", "", every=0.05)
    other = Ledger(settings.database_url)
    watch = PartsWatch(settings.redis_url, other)
    it.start()

    found = eventually(lambda: (report := watch.read()).seen and report)
    it.stop()

    assert [each.beat.part for each in found.seen] == ["clock"]
    assert bool(found.redis) == (away == "redis")
    assert bool(found.ledger) == (away == "ledger")
    watch.close()
    other.close()


def test_old_heartbeats_are_forgotten(settings: Settings, client: redis.Redis, ledger: Ledger) -> None:
    for part in ("clock", "dispatch"):
        it = Heartbeat(settings, part, "")
        it.start()
        eventually(lambda part=part: part in [each.beat.part for each in ledger.read(heartbeats.every)])
        eventually(lambda part=part: part in [each.beat.part for each in board.every(client)])
        it.stop()
    old = next(each.beat for each in board.every(client) if each.beat.part == "clock")
    client.hset(board.KEY, old.name, f"1.5 {old.to_json()}")
    long_ago = sa.update(table).where(table.c.name == old.name).values(beat_at=table.c.beat_at - FORGET_AFTER - 9)
    ledger.write(lambda connection: connection.execute(long_ago))

    assert ledger.write(heartbeats.forget) == 1
    assert [each.beat.part for each in board.every(client)] == ["dispatch"]
    assert [each.beat.part for each in ledger.read(heartbeats.every)] == ["dispatch"]
    assert 0 < client.ttl(board.KEY) <= FORGET_AFTER


@pytest.mark.parametrize("value", ["", "x {}", "nan {}", "1 {", "inf null", "1 " + "[" * 5000, b"\xff\xfe {}"])
def test_unreadable_heartbeats_are_ignored(client: redis.Redis, value: Any) -> None:
    client.hset(board.KEY, "stranger", value)

    assert board.every(client) == []


def test_key_of_another_type_is_reported(settings: Settings, client: redis.Redis, ledger: Ledger) -> None:
    client.set(board.KEY, "x")
    watch = PartsWatch(settings.redis_url, ledger)
    assert "WRONGTYPE" in watch.read().redis
    watch.close()


@pytest.mark.parametrize("value", ["1.5 {}", "no heartbeat", "9e300 {}", "inf {}"])
def test_too_many_heartbeats_are_replaced_by_the_newest(client: redis.Redis, value: str) -> None:
    # Given what 12,000 starts within a day leave
    client.hset(board.KEY, mapping={f"clock@{number}": value for number in range(12_000)})
    # Then they are no trouble of Redis, and the next heartbeat removes them
    assert board.every(client) == []
    for part in ("clock", "dispatch"):
        board.put(client, PartBeat(f"{part}@host", part, "host", 1, "1", "", 1.0))
    assert sorted(seen.beat.part for seen in board.every(client)) == ["clock", "dispatch"]


def test_ledger_without_tables_costs_no_other_heartbeat(tmp_path: Path, redis_url: str, client: redis.Redis) -> None:
    settings = Settings.from_env({"REDIS_URL": redis_url, "RUNHOOK_DATA": str(tmp_path)})
    it = Heartbeat(settings, "receiver", "", every=0.05)
    it.start()
    eventually(lambda: board.every(client))
    # And it is told there once the tables are made
    ledger = with_tables(Ledger(settings.database_url))
    eventually(lambda: ledger.read(heartbeats.every))
    it.stop()
    ledger.close()


def test_data_directory_keeps_its_id_when_moved(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        (one,) = set(pool.map(lambda _: board.directory_id(tmp_path / "a"), range(32)))
    assert [path.stat().st_mode & 0o077 for path in (tmp_path / "a").rglob("*")] == [0, 0]  # nobody else's business
    (tmp_path / "a").rename(tmp_path / "moved")

    assert len(one) == 16
    assert board.directory_id(tmp_path / "moved") == one != board.directory_id(tmp_path / "b")
    assert board.every_file(tmp_path / "moved") == []
    (tmp_path / "file").write_text("")
    assert board.directory_id(tmp_path / "file") == ""


def test_full_redis_keeps_the_heartbeats_it_has(
    valkey_factory: Callable[..., ValkeyProcess],
) -> None:
    beats = [
        PartBeat(part=part, name=f"{part}@host", host="host", pid=1, version="1", config="", started_at=1.0)
        for part in ("clock", "dispatch")
    ]
    with redis.Redis.from_url(valkey_factory().url) as full:
        for beat in beats:
            board.put(full, beat)
        full.config_set("maxmemory", "1kb")
        with pytest.raises(redis.OutOfMemoryError):
            board.put(full, beats[0])
        assert sorted(seen.beat.part for seen in board.every(full)) == ["clock", "dispatch"]
