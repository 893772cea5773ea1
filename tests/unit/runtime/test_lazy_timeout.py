"""A time limit whose timer serves many blocks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from receiver.runtime.lazy_timeout import LazyTimeout

LONG = 3600.0


@pytest.fixture
def limit() -> Iterator[LazyTimeout]:
    limit = LazyTimeout()
    yield limit
    limit.close()


async def test_what_takes_too_long_is_ended_and_what_comes_after_it_is_not(limit: LazyTimeout) -> None:
    for _ in range(2):
        with pytest.raises(TimeoutError), limit(0.001):
            await asyncio.sleep(LONG)
        with limit(LONG):
            await asyncio.sleep(0.01)
    assert not asyncio.current_task().cancelling()  # type: ignore[union-attr]


async def test_a_timer_that_goes_off_for_an_earlier_block_watches_the_one_that_is_there(limit: LazyTimeout) -> None:
    with limit(0.05):
        pass
    with pytest.raises(TimeoutError), limit(0.06):
        await asyncio.sleep(LONG)


async def test_a_shorter_limit_is_not_kept_waiting_by_the_timer_of_a_longer_one(limit: LazyTimeout) -> None:
    with limit(LONG):
        pass
    with pytest.raises(TimeoutError), limit(0.001):
        await asyncio.sleep(LONG)


async def test_nothing_is_ended_outside_a_block(limit: LazyTimeout) -> None:
    with limit(0.001):
        pass
    await asyncio.sleep(0.05)


async def test_many_blocks_make_one_timer(limit: LazyTimeout, monkeypatch: pytest.MonkeyPatch) -> None:
    loop, made = asyncio.get_running_loop(), list[float]()
    call_at = loop.call_at
    monkeypatch.setattr(loop, "call_at", lambda when, *rest: (made.append(when), call_at(when, *rest))[1])
    for _ in range(100):
        with limit(LONG):
            pass
    assert len(made) == 1


async def test_who_cancels_the_task_has_it_cancelled(limit: LazyTimeout) -> None:
    async def work() -> None:
        with limit(LONG):
            await asyncio.sleep(LONG)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_task_that_is_cancelled_when_its_time_is_over_too_is_cancelled(limit: LazyTimeout) -> None:
    entered = asyncio.Event()

    async def work() -> None:
        with limit(0.0):
            entered.set()
            await asyncio.sleep(LONG)

    task = asyncio.create_task(work())
    await entered.wait()
    task.cancel()
    limit._look(asyncio.get_running_loop())
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_within_passes(limit: LazyTimeout) -> None:
    with pytest.raises(KeyError), limit(LONG):
        raise KeyError
