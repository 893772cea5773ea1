"""Parts that are built when webhooks are taken already: who asks for them waits, and a failure is nobody's success."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from receiver.errors import Busy, ConfigError
from receiver.runtime.background import Background
from receiver.web.app import Application
from receiver.web.late_parts import LateParts
from receiver.web.part import WebPart

NEVER = 3600.0


def late_parts(
    make: Callable[[], Sequence[WebPart]], added: list[WebPart], background: Background, after: float = NEVER
) -> LateParts:
    return LateParts(make, added.extend, background, after=after)


async def test_who_asks_for_a_part_that_is_not_built_yet_waits_until_it_is_open() -> None:
    told: list[str] = []

    @asynccontextmanager
    async def opened() -> AsyncIterator[None]:
        told.append("opened")
        yield
        told.append("closed")

    added: list[WebPart] = []
    may_go_on = threading.Event()
    part = WebPart(lifespan=opened)
    late = late_parts(lambda: [part] if may_go_on.wait(30) else [], added, Background())
    async with late.lifespan():
        asked = asyncio.create_task(late.wait())
        await asyncio.sleep(0)
        assert not asked.done()
        may_go_on.set()
        await asked
        assert added == [part]
        assert told == ["opened"]
    assert told == ["opened", "closed"]


async def test_parts_are_built_although_nobody_asks() -> None:
    built = asyncio.Event()
    loop = asyncio.get_running_loop()
    late = late_parts(lambda: loop.call_soon_threadsafe(built.set) and [], [], Background(), after=0.0)
    async with late.lifespan():
        await built.wait()


async def test_a_part_that_cannot_be_built_is_told_and_who_waits_is_refused() -> None:
    problem = ConfigError("console: wrong")
    told = asyncio.Event()

    def make() -> Sequence[WebPart]:
        raise problem

    late = late_parts(make, [], Background())
    late.on_failure = told.set
    async with late.lifespan():
        with pytest.raises(Busy):
            await late.wait()
    assert told.is_set()
    assert late.failure is problem


async def test_a_stop_while_they_are_built_waits_for_no_thread() -> None:
    may_end = threading.Event()
    added: list[WebPart] = []
    late = late_parts(lambda: [WebPart()] if may_end.wait(30) else [], added, Background(), after=0.0)
    async with late.lifespan():
        await asyncio.sleep(0.01)
    may_end.set()
    assert added == []


async def test_who_still_waits_when_the_server_has_waited_long_enough_is_refused() -> None:
    # Given a request that waits for a part, and a server that cancels what is under way
    late = late_parts(list, [], Background())
    asked = asyncio.create_task(late.wait())
    await asyncio.sleep(0)
    asked.cancel()
    # Then it is answered: a cancelled application would leave a traceback in the log
    with pytest.raises(Busy, match="stops"):
        await asked


def test_parts_that_are_built_when_the_server_is_stopping_hold_nobody() -> None:
    stopped: list[str] = []
    app = Application()
    app.add([WebPart(stop=lambda: stopped.append("early"))])

    app.stop()
    app.add([WebPart(stop=lambda: stopped.append("late"))])

    assert stopped == ["early", "late"]
