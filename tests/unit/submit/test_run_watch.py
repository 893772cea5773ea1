"""Looks at Skyvern for runs that somebody waits for: how many calls they cost, and who is looked at first."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from receiver.domain.run import Run
from receiver.skyvern import Answer, Answered, Unreachable
from receiver.submit import run_watch
from receiver.submit.run_watch import RunWatch
from tests.support.waiting import PATIENCE


class FakeApi:
    """`runs`: status by id; `calls`: what was asked."""

    def __init__(self) -> None:
        self.runs: dict[str, str] = {}
        self.pending: set[str] = set()
        self.hidden: set[str] = set()
        self.calls: list[str] = []
        self.refusal: Answer | None = None
        self.page_size = 100

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
        rows = [row for row in rows if row["run_id"] not in self.hidden]
        listed = [row for row in rows if row["status"] in status]
        return Answered(200, json.dumps(listed[(page - 1) * page_size : page * page_size]).encode())

    async def aclose(self) -> None:
        pass


class FakeClaims:
    """`elsewhere`: runs that another process looks at."""

    def __init__(self) -> None:
        self.elsewhere: set[str] = set()
        self.released: list[str] = []

    async def take(self, source: str, run_ids: Sequence[str]) -> list[str]:
        return [each for each in run_ids if each not in self.elsewhere]

    async def release(self, source: str, run_ids: Sequence[str]) -> None:
        self.released += run_ids


class Rig:
    def __init__(self) -> None:
        self.api = FakeApi()
        self.claims = FakeClaims()
        self.noted: list[str] = []
        self.budget = 1_000_000
        api: Any = self.api
        claims: Any = self.claims
        self.watch = RunWatch("skyvern", api, claims, self.take, self.note)

    async def take(self, wanted: int) -> int:
        granted = min(wanted, self.budget)
        self.budget -= granted
        return granted

    async def note(self, run: Run) -> None:
        self.noted.append(run.run_id)

    async def round(self, *run_ids: str) -> list[str]:
        """Want these, until the looks that are due are over; what was asked."""
        before = len(self.api.calls)
        for _ in range(3):  # the first look begins a moment after the wish
            self.watch.want(run_ids)
            if self.watch._task is not None:
                await self.watch._task
            await asyncio.sleep(0.003)
        return self.api.calls[before:]


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    monkeypatch.setattr(run_watch, "FIRST_LOOK", 0.001)
    made = Rig()
    yield made
    await made.watch.close()


async def test_given_a_few_runs_each_is_asked_for_once_and_its_end_is_noted(rig: Rig) -> None:
    rig.api.runs = {"a": "running", "b": "completed", "c": "failed"}
    rig.api.pending = {"c"}

    asked = await rig.round("a", "b", "c")

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


async def test_a_look_is_due_again_after_its_interval_and_never_for_a_run_that_has_ended(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_watch, "LOOK_INTERVAL", 3600.0)
    rig.api.runs = {"a": "running", "b": "completed"}
    assert await rig.round("a", "b") == ["a", "b"]
    assert await rig.round("a", "b") == []

    monkeypatch.setattr(run_watch, "LOOK_INTERVAL", 0.0)
    rig.watch._watched["a"].due_at = 0.0

    asked = await rig.round("a", "b")

    assert asked
    assert set(asked) == {"a"}


async def test_given_many_runs_the_active_ones_are_listed_and_only_those_that_ended_are_asked_for(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_watch, "LOOK_INTERVAL", 3600.0)
    wanted = [f"r{number}" for number in range(150)]
    rig.api.runs = {**dict.fromkeys(wanted, "running"), "r7": "completed", "r9": "terminated"}
    rig.budget = 2

    asked = await rig.round(*wanted)

    assert asked == ["page 1", "page 2", "r7", "r9"]  # an end is asked for outside of the budget, once
    assert rig.noted == ["r7", "r9"]
    assert rig.watch.looks["r140"].status == "running"


async def test_a_run_that_is_not_active_but_will_be_tried_again_costs_the_budget_from_its_second_look_on(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_watch, "LOOK_INTERVAL", 0.0)
    wanted = [f"r{number}" for number in range(6)]
    monkeypatch.setattr(run_watch, "PAGE_WAIT", 0.0)
    rig.api.runs = {**dict.fromkeys(wanted, "running"), "r1": "failed"}
    rig.api.pending = {"r1"}
    rig.budget = 3

    asked = [*await rig.round(*wanted), *await rig.round(*wanted)]

    assert asked.count("r1") == 2
    assert asked.count("page 1") == 2
    assert rig.noted == []


async def test_given_more_active_runs_than_are_listed_the_rest_is_asked_for_in_turn(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_watch, "LOOK_INTERVAL", 3600.0)
    monkeypatch.setattr(run_watch, "PAGES", 1)
    monkeypatch.setattr(run_watch, "AGAIN", 0.0)
    monkeypatch.setattr(run_watch, "PAGE_WAIT", 0.0)
    newer = {f"n{number}": "running" for number in range(100)}
    wanted = [f"r{number}" for number in range(9)]
    rig.api.runs = {**newer, **dict.fromkeys(wanted, "running")}

    found: list[str] = []
    while len(found) < 9:
        rig.budget = 3
        found += [each for each in await rig.round(*wanted) if not each.startswith("page")]

    assert found == wanted  # each once before any is looked at again
    assert set(rig.claims.released) <= set(wanted)
    assert rig.claims.released


async def test_a_long_list_is_read_to_its_end_though_the_budget_gives_a_page_now_and_then(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a thousand runs that are waited for, the oldest of which have ended, and a budget that is small
    monkeypatch.setattr(run_watch, "LOOK_INTERVAL", 3600.0)
    monkeypatch.setattr(run_watch, "_PAGE_PAUSE", 0.0)
    wanted = [f"r{number}" for number in range(1000)]
    rig.api.runs = {**dict.fromkeys(wanted[:-2], "running"), **dict.fromkeys(wanted[-2:], "completed")}
    asked = itertools.count(1)

    async def now_and_then(_: int) -> int:
        return 1 if next(asked) % 3 == 0 else 0

    monkeypatch.setattr(rig.watch, "_take", now_and_then)

    # When they are looked at
    calls = await rig.round(*wanted)

    # Then the list was read once, to its end, and those two were asked for
    assert calls == [*(f"page {page}" for page in range(1, 11)), *wanted[-2:]]
    assert rig.noted == wanted[-2:]


async def test_a_run_that_a_list_has_left_out_once_is_asked_for_at_once_when_it_ends(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given runs that are waited for, one of which slipped through a list while it was read, and a budget for lists only
    monkeypatch.setattr(run_watch, "LOOK_INTERVAL", 0.0)
    monkeypatch.setattr(run_watch, "PAGE_WAIT", 0.0)
    wanted = [f"r{number}" for number in range(6)]
    running = dict.fromkeys(wanted, "running")

    async def look(runs: dict[str, str]) -> list[str]:
        rig.api.runs, rig.budget = runs, 1
        before = len(rig.api.calls)
        rig.watch.want(wanted)
        assert rig.watch._task is not None
        await rig.watch._task
        return rig.api.calls[before:]

    rig.watch.want(wanted)
    await asyncio.sleep(0.003)
    rig.api.pending = {"r3"}  # the list of active runs lacks it, and it has not ended
    assert await look({**running, "r3": "failed"}) == ["page 1", "r3"]
    rig.api.pending = set()
    assert await look(running) == ["page 1"]

    # When it ends
    asked = await look({**running, "r3": "completed"})

    # Then it is asked for like any other, and not out of what the lists leave of the budget
    assert asked == ["page 1", "r3"]
    assert rig.noted == ["r3"]


async def test_lists_that_show_none_of_the_runs_take_no_call_from_their_looks(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given runs that no list shows, and a budget of two calls a look
    monkeypatch.setattr(run_watch, "LOOK_INTERVAL", 0.0)
    monkeypatch.setattr(run_watch, "AGAIN", 0.0)
    wanted = [f"r{number}" for number in range(6)]
    rig.api.runs = dict.fromkeys(wanted, "running")
    rig.api.hidden = set(wanted)
    rig.watch.want(wanted)
    await asyncio.sleep(0.003)

    async def look() -> list[str]:
        rig.budget, before = 2, len(rig.api.calls)
        rig.watch.want(wanted)
        assert rig.watch._task is not None
        await rig.watch._task
        return rig.api.calls[before:]

    # When they are looked at again and again
    seen = [await look() for _ in range(6)]

    # Then a few lists are tried, and from then on the budget is for the runs themselves, in turn
    assert seen[: run_watch.SLIPS] == [["page 1", *wanted]] * run_watch.SLIPS
    assert [*seen[-3], *seen[-2], *seen[-1]] == wanted


async def test_a_budget_without_a_call_left_holds_up_no_look_for_ever(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_watch, "PAGE_WAIT", 0.01)
    rig.api.runs = dict.fromkeys("abcdefgh", "running")
    rig.budget = 0

    async with asyncio.timeout(PATIENCE):
        assert await rig.round(*"abcdefgh") == []


async def test_a_run_that_another_process_looks_at_is_not_asked_for(rig: Rig) -> None:
    rig.api.runs = {"a": "running", "b": "running"}
    rig.claims.elsewhere = {"a"}

    assert await rig.round("a", "b") == ["b"]


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
async def test_a_skyvern_that_says_later_is_left_alone_for_a_while(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, refusal: Answer, paused: bool, count: int
) -> None:
    monkeypatch.setattr(run_watch, "LOOK_INTERVAL", 0.0)
    rig.api.refusal = refusal

    asked = await rig.round(*(f"r{number}" for number in range(count)))

    assert (len(asked) == 1) is paused
    assert not rig.watch.looks


async def test_an_unknown_run_is_rarely_asked_for(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_watch, "LOOK_INTERVAL", 0.0)

    assert await rig.round("gone") == ["gone"]


async def test_what_was_seen_for_earlier_waiters_counts_for_nothing_later(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.api.runs = {"a": "completed"}
    await rig.round("a")
    monkeypatch.setattr(run_watch, "FORGOTTEN_AFTER", -1.0)

    rig.watch.want(["a"])

    assert not rig.watch.looks


async def test_a_bug_in_a_look_ends_no_later_look(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_watch, "LOOK_INTERVAL", 0.0)
    rig.api.runs = {"a": "running"}
    broken: Callable[[str], Any] = rig.api.get_run

    async def fail(_: str) -> Answer:
        raise ValueError

    rig.api.get_run = fail  # type: ignore[method-assign]
    await rig.round("a")
    rig.api.get_run = broken  # type: ignore[method-assign]

    assert "a" in await rig.round("a")
