"""Large bodies in threads: what is found out about them comes back, whatever happens to one of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from receiver.domain.event import event_id
from receiver.domain.packed_body import unpack
from receiver.domain.signature import sign
from receiver.ingest import large_bodies
from receiver.ingest.large_bodies import Examined, LargeBodies

BODIES = [b"large " * 10_000 + b"%d" % number for number in range(5)]


@pytest.fixture
def large() -> Iterator[LargeBodies]:
    made = LargeBodies()
    yield made
    made.close()


def examine(large: LargeBodies, body: bytes, secret: str = "right", *, packs: bool = True) -> asyncio.Future[Examined]:
    return large.examine("skyvern", ["other", "right"], sign(body, secret), body, packs=packs)


async def test_an_authentic_body_has_its_id_and_is_packed_where_that_is_wanted(large: LargeBodies) -> None:
    body = BODIES[0]
    wanted, unwanted, wrong = examine(large, body), examine(large, body, packs=False), examine(large, body, "wrong")

    found = await wanted
    assert found.event_id == event_id("skyvern", body)
    assert unpack(found.packed, len(body)) == body
    assert await unwanted == (event_id("skyvern", body), b"")
    assert await wrong == ("", b"")


async def test_one_that_nobody_waits_for_any_more_keeps_no_other_from_coming_back(large: LargeBodies) -> None:
    # Given bodies in threads, and one whose request was cancelled
    before = set(threading.enumerate())
    cancelled, *others = [examine(large, body) for body in BODIES]
    cancelled.cancel()
    # When all of them are done before the event loop has looked
    threads = set(threading.enumerate()) - before
    large.close()
    for each in threads:
        each.join()
    # Then the others come back
    found = await asyncio.wait_for(asyncio.gather(*others), 30)
    assert [each.event_id for each in found] == [event_id("skyvern", body) for body in BODIES[1:]]


async def test_a_bug_in_a_thread_is_raised_where_its_body_is_waited_for(
    large: LargeBodies, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(*_: object) -> str:
        raise ValueError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(large_bodies, "authenticated_id", bug)
        with pytest.raises(ValueError, match="a bug"):
            await asyncio.wait_for(examine(large, BODIES[0]), 30)

    assert (await examine(large, BODIES[0])).event_id
