"""Which events go into one commit, and when a second one begins."""

from __future__ import annotations

import asyncio

import pytest

from receiver.errors import Busy
from receiver.ingest import waiting_events
from receiver.ingest.waiting_events import CommitBatch, WaitingEvents
from tests.support.events import event


async def taken(queue: WaitingEvents) -> CommitBatch | None:
    """Return the next batch, or None where none is due."""
    taking = asyncio.create_task(queue.take())
    for _ in range(5):
        await asyncio.sleep(0)
    if not taking.done():
        taking.cancel()
        return None
    return await taking


def bodies(batch: CommitBatch | None) -> list[bytes]:
    return [each.body for each in batch.events] if batch else []


async def test_a_second_batch_is_due_when_as_many_events_wait_as_are_under_way() -> None:
    queue = WaitingEvents()
    for body in (b"a", b"b"):
        queue.add(event(body))
    first = await taken(queue)
    assert bodies(first) == [b"a", b"b"]
    queue.add(event(b"c"))
    assert await taken(queue) is None
    queue.add(event(b"d"))
    second = await taken(queue)
    assert bodies(second) == [b"c", b"d"]
    for body in (b"e", b"f"):
        queue.add(event(body))
    assert await taken(queue) is None
    assert first
    queue.done(first)
    assert bodies(await taken(queue)) == [b"e", b"f"]


async def test_a_batch_is_bounded_in_events_and_bytes_and_keeps_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_events, "COMMIT_EVENTS", 3)
    monkeypatch.setattr(waiting_events, "COMMIT_BYTES", 1000)
    queue = WaitingEvents()
    for size in (1, 2, 3, 4, 600, 400, 5, 5000, 6):
        queue.add(event(b"x" * size))
    found = []
    while batch := await taken(queue):
        found.append([len(body) for body in bodies(batch)])
        assert batch.size == sum(found[-1])
        queue.done(batch)
    assert found == [[1, 2, 3], [4, 600], [400, 5], [5000], [6]]


async def test_who_waits_hears_how_it_ended_unless_he_is_gone() -> None:
    queue = WaitingEvents()
    kept = [queue.add(event(body)) for body in (b"a", b"b", b"c")]
    kept[1].cancel()
    batch = await taken(queue)
    assert batch
    queue.done(batch)
    assert kept[0].done()
    assert not kept[2].exception()
    refused = queue.add(event(b"d"))
    batch = await taken(queue)
    assert batch
    queue.done(batch, Busy("full"))
    with pytest.raises(Busy, match="full"):
        await refused


async def test_one_who_fails_when_told_keeps_no_other_from_being_told(caplog: pytest.LogCaptureFixture) -> None:
    # Given three events of a batch, and one who fails when told
    queue = WaitingEvents()
    heard: list[object] = []

    def fail(busy: Busy | None) -> None:
        raise RuntimeError("a bug")

    for told in (heard.append, fail, heard.append):
        queue.put(event(b"a"), told)
    batch = await taken(queue)
    assert batch
    # When the batch is done, then the others hear of it, and the log of the bug
    queue.done(batch)
    assert heard == [None, None]
    assert "a bug" in caplog.text


async def test_a_closed_queue_ends_all_who_take_once_it_is_empty() -> None:
    queue = WaitingEvents()
    for body in (b"a", b"b"):
        queue.add(event(body))
    first = await taken(queue)
    assert first
    takers = [asyncio.create_task(queue.take()) for _ in range(2)]
    queue.add(event(b"c"))
    queue.close()
    queue.done(first)
    assert sorted(map(bodies, await asyncio.gather(*takers))) == [[], [b"c"]]


async def test_of_two_who_take_one_is_woken_for_a_batch() -> None:
    # Given two who wait for a batch
    queue = WaitingEvents()
    takers = [asyncio.create_task(queue.take()) for _ in range(2)]
    await asyncio.sleep(0)
    # When events come at once
    turns = list(queue._takers)
    for body in (b"a", b"b", b"c"):
        queue.add(event(body))
    # Then one of them is woken, and takes all
    assert [turn.done() for turn in turns] == [True, False]
    assert bodies(await takers[0]) == [b"a", b"b", b"c"]
    # And the other one for the next, when as many wait
    for body in (b"d", b"e", b"f"):
        assert not turns[1].done()
        queue.add(event(body))
    assert bodies(await takers[1]) == [b"d", b"e", b"f"]


async def test_the_turn_of_one_who_is_cancelled_is_anothers() -> None:
    for moment in range(3):
        queue = WaitingEvents()
        takers = [asyncio.create_task(queue.take()) for _ in range(2)]
        await asyncio.sleep(0)
        queue.add(event(b"a"))
        for _ in range(moment):
            await asyncio.sleep(0)
        if takers[0].cancel():
            assert bodies(await takers[1]) == [b"a"]
        else:
            assert bodies(await takers[0]) == [b"a"]
            takers[1].cancel()


async def test_what_there_is_no_room_for_is_the_others_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_events, "COMMIT_EVENTS", 2)
    queue = WaitingEvents()
    takers = [asyncio.create_task(queue.take()) for _ in range(2)]
    await asyncio.sleep(0)
    for body in (b"a", b"b", b"c", b"d"):
        queue.add(event(body))
    assert [bodies(each) for each in await asyncio.gather(*takers)] == [[b"a", b"b"], [b"c", b"d"]]


async def test_an_arrival_is_one_that_comes_or_waits() -> None:
    queue = WaitingEvents()
    for _ in range(2):
        waiting = asyncio.create_task(queue.arrival())
        await asyncio.sleep(0)
        assert not waiting.done()
        queue.add(event(b"a"))
        await waiting
        await queue.arrival()
        assert await taken(queue)


async def test_what_waits_behind_a_batch_when_the_queue_is_closed_is_taken_before_the_end() -> None:
    # Given an event that waits, since more are under way
    queue = WaitingEvents()
    for body in (b"a", b"b"):
        queue.add(event(body))
    first = await taken(queue)
    assert first
    queue.add(event(b"c"))
    # When the queue is closed, and somebody takes
    queue.close()
    taking = asyncio.create_task(queue.take())
    for _ in range(5):
        await asyncio.sleep(0)
    queue.done(first)
    # Then that event comes, and the end after it
    second = await taking
    assert bodies(second) == [b"c"]
    assert second
    queue.done(second)
    assert await queue.take() is None
