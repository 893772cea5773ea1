"""The queue of one who follows events: what is put in it is taken before its place is said to be further on."""

from __future__ import annotations

import asyncio

from receiver.api.tail import TailParameters
from receiver.api.tail_stream import Follower, Piece
from receiver.ledger.tail import Position


def test_what_comes_as_the_wait_ends_is_taken() -> None:
    piece = Piece(b"event", Position(1, 0.0))

    async def wait() -> Piece | None:
        follower = Follower(TailParameters(), "")
        waiting = asyncio.create_task(follower.next(0))
        await asyncio.sleep(0)  # it waits now, and its time is up in the next turn of the loop
        asyncio.get_running_loop().call_soon(follower.put, piece)
        return await waiting

    assert asyncio.run(wait()) is piece
