"""Work that concurrent requests share: one task for all that ask the same, one query for all that wait."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import pytest

from receiver.submit import long_poll
from receiver.submit.long_poll import LongPoll, SingleFlight, TooManyWaiters


async def test_concurrent_calls_with_one_key_share_a_task_and_later_ones_do_not() -> None:
    flight: SingleFlight[str, int] = SingleFlight()
    begun: list[str] = []
    going_on = asyncio.Event()

    async def work(key: str) -> int:
        begun.append(key)
        await going_on.wait()
        return len(begun)

    calls = [asyncio.create_task(flight.run(key, lambda key=key: work(key))) for key in ("a", "a", "b")]  # type: ignore[misc]
    await asyncio.sleep(0)
    calls[0].cancel()
    await asyncio.sleep(0)
    going_on.set()

    assert await asyncio.gather(*calls[1:]) == [2, 2]
    assert calls[0].cancelled()
    assert begun == ["a", "b"]
    assert await flight.run("a", lambda: work("a")) == 3


async def test_one_query_wakes_those_whose_value_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_poll, "POLL_INTERVAL", 0.01)
    values = {"a": 1, "b": 1}
    asked: list[set[str]] = []

    async def query(keys: Collection[str]) -> dict[str, int]:
        asked.append(set(keys))
        return {key: values[key] for key in keys}

    poll: LongPoll[str, int] = LongPoll(query, 3)
    waits = [asyncio.create_task(poll.wait_for_change(key, 1, 30)) for key in ("a", "a", "b")]
    await asyncio.sleep(0)
    with pytest.raises(TooManyWaiters):
        await poll.wait_for_change("a", 1, 30)
    values["a"] = 2

    assert await asyncio.gather(*waits[:2]) == [2, 2]
    assert asked[0] == {"a", "b"}
    assert len(poll) == 1
    poll.stop()
    assert await waits[2] is None
    await poll.close()
