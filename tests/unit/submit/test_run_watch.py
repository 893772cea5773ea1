"""Polls of Skyvern for runs that requests wait for: how many calls they cost, and which run is first."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from receiver.domain.run import Run
from receiver.skyvern.responses import Answer, Answered, Unreachable
from receiver.submit.run_watch import RunWatch
from tests.support.waiting import PATIENCE


class FakeApi:
    """`runs`: status by id; `calls`: what was asked."""

    def __init__(self) -> None:
        self.runs: dict[str, str] = {}
        self.pending: set[str] = set()
        self.calls: list[str] = []
        self.refusal: Answer | None = None

    async def get_run(self, run_id: str) -> Answer:
        self.calls.append(run_id)
        if self.refusal is not None:
            return self.refusal
        if run_id not in self.runs:
            return Answered(404, b'{"detail": "x"}')
        told = {"run_id": run_id, "run_type": "task_v1", "status": self.runs[run_id]}
        return Answered(200, json.dumps({**told, "retry_pending": run_id in self.pending}).encode())

    async def list_runs(self, page: int, page_size: int, status: Sequence[str]) -> Answer:
        self.calls.append(f"page {page}")
        if self.refusal is not None:
            return self.refusal
        rows = [{"run_id": each, "status": said, "task_run_type": "task_v1"} for each, said in self.runs.items()]
        listed = [row for row in rows if row["status"] in status]
        return Answered(200, json.dumps(listed[(page - 1) * page_size : page * page_size]).encode())

    async def aclose(self) -> None:
        pass


class Rig:
    """A watch with its fake API. `budget`: calls that are left; `noted`: ends."""

    def __init__(self, interval: float) -> None:
        self.api = FakeApi()
        self.noted: list[str] = []
        self.budget = 1_000_000
        api: Any = self.api
        self.watch = RunWatch("skyvern", api, self.take, self.note, first_look=0.0, interval=interval)

    async def take(self) -> bool:
        self.budget -= 1
        return self.budget >= 0

    async def note(self, run: Run) -> None:
        self.noted.append(run.run_id)

    async def until(self, done: Callable[[], bool], *run_ids: str) -> list[str]:
        """Want these runs until `done`, and a little longer; the calls meanwhile."""
        before = len(self.api.calls)
        async with asyncio.timeout(PATIENCE):
            while not done():
                self.watch.want(run_ids)
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.02)
        return self.api.calls[before:]


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    """Each run is looked at once."""
    made = Rig(interval=3600.0)
    yield made
    await made.watch.close()


async def test_few_runs_are_asked_for_once_and_their_end_is_noted(rig: Rig) -> None:
    rig.api.runs = {"a": "running", "b": "completed", "c": "failed"}
    rig.api.pending = {"c"}
    asked = await rig.until(lambda: len(rig.watch.looks) == 3, "a", "b", "c")
    assert asked == ["a", "b", "c"]
    looks = rig.watch.looks
    assert [(looks[each].status, looks[each].final) for each in "abc"] == [
        ("running", False),
        ("completed", True),
        ("failed", False),  # Skyvern will try it again
    ]
    assert rig.noted == ["b"]
    assert looks["b"].answer is not None
    assert looks["a"].answer is None


async def test_many_runs_are_listed_and_only_missing_ones_asked_for(rig: Rig) -> None:
    # Given a thousand runs, the oldest of which have ended
    runs = [f"r{number}" for number in range(1000)]
    rig.api.runs = {**dict.fromkeys(runs[:-2], "running"), **dict.fromkeys(runs[-2:], "completed")}
    asked = await rig.until(lambda: len(rig.noted) == 2, *runs)
    assert asked == [*(f"page {page}" for page in range(1, 11)), *runs[-2:]]
    assert rig.noted == runs[-2:]
    assert rig.watch.looks["r140"].status == "running"


async def test_small_budget_serves_each_run_in_turn(rig: Rig) -> None:
    # Given runs that no list shows, and calls that come now and then
    runs = [f"r{number}" for number in range(6)]
    rig.api.runs, rig.api.pending = dict.fromkeys(runs, "failed"), set(runs)
    rig.budget = 0

    def refill() -> bool:
        rig.budget = max(rig.budget, 1)
        return len(rig.watch.looks) == 6

    assert await rig.until(refill, *runs) == ["page 1", *runs]


@pytest.mark.parametrize(
    ("refusal", "paused"),
    [
        (Answered(429, b"{}"), True),
        (Answered(503, b"{}", {"retry-after": "7"}), True),
        (Answered(500, b"{}"), False),
        (Unreachable(False, "gone"), False),
    ],
)
@pytest.mark.parametrize("count", [1, 9])
async def test_busy_skyvern_gets_a_pause(rig: Rig, refusal: Answer, paused: bool, count: int) -> None:
    rig.api.refusal = refusal
    calls = count if count == 1 else count + 1  # of many a list comes first
    runs = [f"r{number}" for number in range(count)]
    asked = await rig.until(lambda: len(rig.api.calls) >= (1 if paused else calls), *runs)
    assert len(asked) == (1 if paused else calls)
    assert not rig.watch.looks


@pytest.fixture
async def eager() -> AsyncIterator[Rig]:
    """Each run is looked at whenever the poller comes round."""
    made = Rig(interval=0.0)
    yield made
    await made.watch.close()


async def test_bug_in_a_look_does_not_end_the_poller(eager: Rig) -> None:
    eager.api.runs = {"a": "running"}
    working, failures = eager.api.get_run, [1]

    async def get_run(run_id: str) -> Answer:
        if failures:
            raise ValueError(failures.pop())
        return await working(run_id)

    eager.api.get_run = get_run  # type: ignore[method-assign]
    await eager.until(lambda: "a" in eager.watch.looks, "a")
    assert not failures


async def test_look_of_an_earlier_wait_is_forgotten(rig: Rig) -> None:
    rig.api.runs = {"a": "completed"}
    await rig.until(lambda: bool(rig.noted), "a")
    rig.watch.want([])
    rig.watch.want(["a"])
    assert not rig.watch.looks
