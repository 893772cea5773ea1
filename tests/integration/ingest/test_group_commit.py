"""The group_commit by itself, where no request can show what it does."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest

from receiver.ingest.group_commit import GroupCommit, Limits
from receiver.ingest.spool import Spool
from receiver.telemetry.receiver import ReceiverMetrics
from tests.support.waiting import PATIENCE


async def test_a_stop_does_not_wait_for_a_task_that_lost_its_cancellation_in_redis(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path / "spool", 1 << 20, 0)
    group_commit = GroupCommit(redis_url, spool, Limits(100, 1 << 20), ReceiverMetrics())
    asked = asyncio.Event()

    async def depth() -> tuple[int, int]:
        asked.set()
        with suppress(asyncio.CancelledError):  # as a client does that takes it for the end of its own time-out
            await asyncio.sleep(3600)
        return 0, 0

    monkeypatch.setattr(group_commit._writer, "depth", depth)
    await group_commit.start()
    await asyncio.wait_for(asked.wait(), PATIENCE)

    await asyncio.wait_for(group_commit.close(), PATIENCE)
