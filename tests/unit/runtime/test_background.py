"""Background tasks: whatever ends one, it is logged, counted, begun again, and seen while it keeps failing."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable

import pytest

from receiver.runtime.background import STABLE_AFTER, Background, TaskState, awaited, keep_thread, start_thread
from tests.support.waiting import PATIENCE, eventually


@pytest.fixture
async def background() -> AsyncIterator[Background]:
    it = Background(pauses=False)
    yield it
    await it.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - of any kind
            await asyncio.sleep(0)


async def _wait_for_a_cancelled_future() -> None:
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


async def _raise(error: BaseException) -> None:
    raise error


ENDS: dict[str, Callable[[], object]] = {
    "an error of ours": lambda: _raise(KeyError("payload")),
    "uvloop's error": lambda: _raise(RuntimeError("unable to perform operation; the handler is closed")),
    "a cancel of what it waits for": _wait_for_a_cancelled_future,
}


@pytest.mark.parametrize("end", ENDS)
async def test_task_starts_again_after_any_error(
    background: Background, caplog: pytest.LogCaptureFixture, end: str
) -> None:
    begun = 0

    async def body() -> None:
        nonlocal begun
        begun += 1
        if begun < 3:
            await ENDS[end]()  # type: ignore[misc]
        await asyncio.Event().wait()

    background.keep("probe", body)
    await until(lambda: begun == 3)

    (state,) = background.states()
    assert (state.name, state.alive, state.total) == ("probe", True, 2)
    assert caplog.text.count("background.failed task=probe") == 1  # once for one reason
    assert "payload" not in caplog.text


async def test_task_that_returned_may_start_again(background: Background) -> None:
    begun = 0

    async def body() -> None:
        nonlocal begun
        begun += 1

    await background.keep("drain", body)
    await background.keep("drain", body)

    (state,) = background.states()
    assert (begun, state.alive, state.total, background.trouble()) == (2, False, 0, "")


async def test_task_runs_once_at_a_time_under_its_name(background: Background) -> None:
    begun = 0

    async def body() -> None:
        nonlocal begun
        begun += 1
        await asyncio.Event().wait()

    first = background.keep("watch", body)
    assert background.keep("watch", body) is first
    await until(lambda: begun > 0)
    assert begun == 1


async def test_task_cancelled_by_its_owner_ends(background: Background) -> None:
    task = background.keep("watch", lambda: asyncio.sleep(3600))
    await until(lambda: background.states()[0].alive)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    (state,) = background.states()
    assert (state.alive, state.total) == (False, 0)


async def test_task_that_keeps_failing_is_reported_until_it_recovers() -> None:
    now, broken = 0.0, True
    it = Background(pauses=False, clock=lambda: now)

    async def body() -> None:
        if broken:
            raise ValueError
        await asyncio.Event().wait()

    it.keep("commit", body)
    await until(lambda: it.states()[0].total >= 3)
    assert "the background task commit keeps failing: ValueError" in it.trouble()

    broken = False
    await until(lambda: it.states()[0].alive)
    assert it.trouble()  # it may fail again in a moment
    now += STABLE_AFTER
    assert it.trouble() == ""
    await it.close()


def test_pauses_grow_until_a_task_is_stable() -> None:
    state = TaskState("drain")
    assert [state.crashed(ValueError(), 0.0) for _ in range(8)] == [0.0, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    state.started_at = 100.0
    assert state.crashed(ValueError(), 101.0 + STABLE_AFTER) == 0.0


async def test_error_of_a_spawned_task_is_logged_and_counted(
    background: Background, caplog: pytest.LogCaptureFixture
) -> None:
    task = background.spawn("wake", _raise(OSError("payload")))
    await asyncio.wait([task])
    await until(lambda: bool(background.states()))

    (state,) = background.states()
    assert (state.errors, state.total) == (1, 0)
    assert "background.failed task=wake error='OSError at" in caplog.text
    assert "payload" not in caplog.text


async def test_error_of_an_awaited_task_is_its_callers(background: Background) -> None:
    with pytest.raises(KeyError):
        await awaited(_raise(KeyError()), "part")
    assert background.states() == []


def test_thread_starts_again_until_it_is_to_stop(caplog: pytest.LogCaptureFixture) -> None:
    begun, stopping = [], threading.Event()

    def work() -> None:
        begun.append(1)
        if len(begun) < 3:
            raise ValueError("payload")
        stopping.wait(10)

    thread = keep_thread("beat", work, stopping)
    eventually(lambda: len(begun) == 3)
    stopping.set()
    thread.join(PATIENCE)

    assert not thread.is_alive()
    assert caplog.text.count("background.failed task=beat error='ValueError at") == 1


def test_error_of_a_thread_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    begun = threading.Event()

    def work() -> None:
        begun.set()
        raise ValueError("payload")

    start_thread("beat", work).join(PATIENCE)

    assert begun.is_set()
    assert "background.failed task=beat error='ValueError at" in caplog.text
