"""What dead dispatchers left, and what is no event, on a real Valkey."""

from __future__ import annotations

from typing import Any

import redis

from receiver.domain.frame import FRAME, NO_EVENT
from receiver.inbox import ASIDE, GROUP, STREAM
from receiver.inbox.reader import Entry, InboxReader
from receiver.inbox.recovery import ALONE, KILLS, LAST, RAW, InboxRecovery, Taken, hand_back
from receiver.inbox.set_aside import set_aside
from tests.support.inbox import KEYS, fill
from tests.support.waiting import eventually


def events_of(taken: Taken | None) -> list[bytes]:
    return [entry.event.body for entry in taken.entries if entry.event] if taken else []


def times(client: redis.Redis) -> dict[bytes, int]:
    pending: Any = client.xpending_range(STREAM, GROUP, "-", "+", 100)
    return {each["message_id"]: each["times_delivered"] for each in pending}


def test_deadly_entry_is_taken_alone_then_unread_then_set_aside(
    redis_url: str, client: redis.Redis, reader: InboxReader
) -> None:
    # Given entries that a dispatcher took and died of one of them
    fill(redis_url, b"1", b"deadly", b"3")
    assert len(reader.read()) == 3
    stages = []
    for life in range(20):
        # When one dispatcher after the other takes what is left, and dies as soon as it sees the deadly one
        hand_back(client, "first" if life == 0 else f"d{life - 1}")
        it = InboxReader(client, f"d{life}", KEYS)
        recovery = InboxRecovery(client, it)
        while taken := recovery.take():
            bodies = events_of(taken)
            if b"deadly" in bodies:
                stages.append((len(bodies), taken.raw))
                break
            it.done([entry.entry_id for entry in taken.entries])
            it.flush()
        else:
            break
    # Then it was among others until it had been taken ALONE times, then alone, then unread
    together = [size for size, _ in stages].count(3)
    assert (together, len(stages)) == (ALONE - 1, LAST - 1)
    assert stages[together:] == [(1, times >= RAW) for times in range(ALONE, LAST)]
    # And its neighbours are done, and it is set aside with all that it had
    assert client.xlen(STREAM) == 0
    (((_, fields),),) = [client.xrange(ASIDE)]  # type: ignore[misc]
    assert fields[b"why"] == KILLS.encode()  # type: ignore[index]
    assert fields[FRAME].endswith(b"\ndeadly")  # type: ignore[index]


def test_a_ledger_that_is_unavailable_does_not_count(redis_url: str, client: redis.Redis, reader: InboxReader) -> None:
    fill(redis_url, b"1")
    (entry,) = reader.read()
    client.xclaim(STREAM, GROUP, "first", 0, [entry.entry_id], retrycount=ALONE, justid=True)
    recovery = InboxRecovery(client, reader)
    for _ in range(2 * LAST):
        taken = recovery.take(0, 0)
        assert taken is not None
        assert (taken.alone, taken.raw, taken.times) == (True, False, ALONE)
        recovery.reset_delivery_count(taken)


def test_what_waits_long_alone_holds_up_no_other(redis_url: str, client: redis.Redis, reader: InboxReader) -> None:
    fill(redis_url, b"1", b"2")
    first, _ = reader.read()
    client.xclaim(STREAM, GROUP, "first", 0, [first.entry_id], retrycount=RAW, justid=True)
    recovery = InboxRecovery(client, reader)
    assert events_of(recovery.take(0, 60_000)) == [b"2"]


def test_what_is_taken_again_fits_in_memory(redis_url: str, client: redis.Redis, reader: InboxReader) -> None:
    reader.read_bytes = 100_000
    fill(redis_url, *(b"%d" % n * 40_000 for n in range(8)))
    reader.read()
    assert [len(body) for body in events_of(InboxRecovery(client, reader).take(0, 0))] == [40_000] * 3


def test_what_was_deleted_by_hand_is_forgotten(redis_url: str, client: redis.Redis, reader: InboxReader) -> None:
    fill(redis_url, b"1", b"2", b"3")
    first, second, _ = reader.read()
    client.xdel(STREAM, first.entry_id, second.entry_id)
    client.xclaim(STREAM, GROUP, "first", 0, [second.entry_id], retrycount=LAST, justid=True)
    recovery = InboxRecovery(client, reader)
    assert events_of(recovery.take(0, 0)) == [b"3"]
    assert len(times(client)) == 1


def test_a_redis_that_lost_everything_has_nothing_to_take(client: redis.Redis, reader: InboxReader) -> None:
    client.delete(STREAM)
    assert InboxRecovery(client, reader).take(0, 0) is None


def test_what_is_not_an_event_is_set_aside(redis_url: str, client: redis.Redis, reader: InboxReader) -> None:
    client.xadd(STREAM, {"field": "value"})
    client.xadd(STREAM, {f"f{n}": n for n in range(20_000)})  # more than a script can pass on
    fill(redis_url, b"1")
    entries = reader.read()
    assert [entry.problem for entry in entries] == [NO_EVENT, NO_EVENT, ""]
    assert set_aside(client, entries[:2]) == 2
    assert set_aside(client, [Entry("1-1", None, "it is gone")]) == 0
    assert set_aside(client, []) == 0
    kept: Any = client.xrange(ASIDE)
    assert [(fields[b"why"], fields[b"was"].decode()) for _, fields in kept] == [
        (NO_EVENT.encode(), entries[0].entry_id),
        (NO_EVENT.encode(), entries[1].entry_id),
    ]
    assert kept[0][1][b"field"] == b"value"
    assert list(times(client)) == [entries[2].entry_id.encode()]


def test_ended_readers_are_forgotten_once_nothing_is_theirs(
    redis_url: str, client: redis.Redis, reader: InboxReader
) -> None:
    # Given two dead readers, one of which had taken an entry, and one that is alive
    fill(redis_url, b"1")
    reader.read()
    for name in ("second", "alive"):
        InboxReader(client, name).read()

    def names() -> set[bytes]:
        found: Any = client.xinfo_consumers(STREAM, GROUP)
        return {each["name"] for each in found}

    # When both are handed back, then the name of the one with the entry stays
    assert (hand_back(client, "first"), hand_back(client, "second")) == (1, 0)
    assert names() == {b"first", b"alive"}
    # Until another has finished the entry, and some time has passed
    taken = InboxRecovery(client, it := InboxReader(client, "alive")).take(0, 0)
    assert taken is not None
    hand_back(client, "third", 0)
    assert b"alive" in names(), "with an entry"
    it.done([entry.entry_id for entry in taken.entries])
    it.flush()
    eventually(lambda: hand_back(client, "third", 0) == 0 and not names())
    # And one that is alive is known again
    InboxReader(client, "alive").read()
    assert names() == {b"alive"}
