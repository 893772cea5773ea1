"""One look a run, whoever waits for it, and whatever a stranger writes into the claims."""

from __future__ import annotations

import pytest
import redis

from receiver.runtime.redis_client import connect_async
from receiver.submit.run_watch import LookClaims

CLAIM = "runhook:look:skyvern:tsk_1"


@pytest.mark.parametrize("kind", ["string", "list", "for hours"])
async def test_a_claim_that_does_not_lapse_as_ours_do_is_none(redis_url: str, kind: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        if kind == "list":
            client.rpush(CLAIM, "a stranger's")
        else:
            client.set(CLAIM, "a stranger's", ex=36_000 if kind == "for hours" else None)
        claims, others = (LookClaims(connect_async(redis_url, timeout=5, connect_timeout=5, retries=0)) for _ in "12")
        assert await claims.take("skyvern", ["tsk_1", "tsk_2"]) == ["tsk_1", "tsk_2"]
        assert await others.take("skyvern", ["tsk_1", "tsk_2", "tsk_3"]) == ["tsk_3"]
        await claims.release("skyvern", ["tsk_2"])
        assert await others.take("skyvern", ["tsk_1", "tsk_2"]) == ["tsk_2"]
        await claims.close()
        await others.close()
