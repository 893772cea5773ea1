"""Work that concurrent requests share: one task for all that ask the same, one query for all that wait."""

import asyncio
import itertools
from collections.abc import Collection
from contextlib import ExitStack

import pytest

from receiver.ledger import LedgerUnavailable
from receiver.submit.long_poll import LongPoll
from receiver.web.limits import TooManyWaiters, WaiterLimit
from receiver.web.work import SingleFlight
from tests.support.waiting import PATIENCE


async def test_concurrent_calls_share_a_task() -> None:
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


async def test_one_query_wakes_those_whose_value_changed() -> None:
    values = {"a": 1, "b": 1}
    asked: list[set[str]] = []

    async def query(keys: Collection[str]) -> dict[str, int]:
        asked.append(set(keys))
        return {key: values[key] for key in keys}

    poll: LongPoll[str, int] = LongPoll(query, pause=0.01, retry_pause=0.01)
    waits = [asyncio.create_task(poll.wait_for_change(key, 1, 30)) for key in ("a", "a", "b")]
    await asyncio.sleep(0)
    values["a"] = 2

    assert await asyncio.gather(*waits[:2]) == [2, 2]
    assert asked[0] == {"a", "b"}
    values["b"] = 2
    assert await waits[2] == 2
    queries = len(asked)
    await asyncio.sleep(0.1)
    assert len(asked) == queries, "nothing is asked while no request waits"
    await poll.close()


async def test_a_query_that_fails_is_made_again_for_those_who_wait() -> None:
    answers: list[dict[str, int] | Exception] = [LedgerUnavailable("away"), ValueError("a bug"), {"a": 2}]

    async def query(_: Collection[str]) -> dict[str, int]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    poll: LongPoll[str, int] = LongPoll(query, pause=0.01, retry_pause=0.01)

    assert await poll.wait_for_change("a", 1, PATIENCE) == 2
    await poll.close()


def admitted(limit: WaiterLimit, stack: ExitStack, key: str) -> int:
    """Let requests with this key wait until one is refused; how many there are."""
    for count in itertools.count():
        try:
            stack.enter_context(limit.place(key))
        except TooManyWaiters:
            return count
    raise AssertionError("unreachable")


@pytest.mark.parametrize(
    ("share", "places"), [(0.5, [50, 25, 12, 6, 3, 2, 1, 1]), (1.0, [100]), (0.1, [10, 9, 8, 7, 6, 6, 5])]
)
def test_a_key_gets_its_share_of_what_the_others_leave(share: float, places: list[int]) -> None:
    limit = WaiterLimit(100, share)

    with ExitStack() as stack:
        assert [admitted(limit, stack, f"k{number}") for number in range(len(places))] == places
        assert len(limit) == sum(places)
    assert len(limit) == 0


def test_a_refusal_says_whether_the_key_or_the_process_is_full() -> None:
    limit = WaiterLimit(2, 0.5)

    with limit.place("a"):
        with (
            pytest.raises(TooManyWaiters, match=r"requests with this key wait for runs already \(1\)"),
            limit.place("a"),
        ):
            pass
        with limit.place("b"), pytest.raises(TooManyWaiters, match="too many requests wait"), limit.place("c"):
            pass
    with limit.place("a"):
        pass
