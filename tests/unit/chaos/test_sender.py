"""What the sender of a chaos run takes for an answer of the receiver's own making."""

from __future__ import annotations

import asyncio
import io
import json

import pytest

from tests.chaos import sender
from tests.chaos.sender import Sender, Sent


async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
    await writer.drain()
    writer.close()


@pytest.mark.parametrize(("stall", "statuses", "lost"), [(60.0, [408], 0), (0.0, [], 1)])
async def test_a_408_is_the_receivers_fault_unless_the_sender_itself_was_late(
    monkeypatch: pytest.MonkeyPatch, stall: float, statuses: list[int], lost: int
) -> None:
    monkeypatch.setattr(sender, "HEAD_SECONDS", stall)
    monkeypatch.setattr(sender, "TRIES", 1)
    out = io.StringIO()
    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        await Sender([port], "secret", 1, out)._event(Sent(1, 0.0))
    told = json.loads(out.getvalue())
    assert (told["statuses"], told["lost"]) == (statuses, lost)
