"""What an answer writes: its head goes out together with what follows at once, and alone where nothing does."""

from __future__ import annotations

import asyncio
from typing import Any

from receiver.web.answer_transport import AnswerTransport

HEAD = b"HTTP/1.1 202 Accepted\r\n\r\n"


class _Connection:
    """A connection that notes what is written to it, in order."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.transport = self
        self.did: list[bytes] = []
        self.gone = False

    def is_closing(self) -> bool:
        return self.gone

    def write(self, data: bytes) -> None:
        if self.gone:
            raise RuntimeError("the handler is closed")  # as uvloop does
        self.did.append(data)

    def close_after_answer(self) -> None:
        self.did.append(b"closed")


async def test_a_head_and_the_body_that_follows_at_once_are_one_write() -> None:
    connection: Any = _Connection()
    answer = AnswerTransport(connection)

    for _ in range(2):
        answer.write(HEAD)
        answer.write(b"body")
    answer.write(b"more")
    await asyncio.sleep(0)

    assert connection.did == [HEAD + b"body", HEAD + b"body", b"more"]


async def test_a_head_whose_body_takes_its_time_does_not_wait_for_it() -> None:
    connection: Any = _Connection()
    answer = AnswerTransport(connection)

    answer.write(HEAD)
    await asyncio.sleep(0)
    answer.write(b"body")

    assert connection.did == [HEAD, b"body"]


async def test_nothing_is_left_behind_by_the_end() -> None:
    connection: Any = _Connection()
    answer = AnswerTransport(connection)

    answer.write(HEAD)
    answer.close()
    await asyncio.sleep(0)

    assert connection.did == [HEAD, b"closed"]


async def test_a_head_whose_connection_is_gone_meanwhile_is_dropped() -> None:
    connection: Any = _Connection()
    failed: list[Any] = []
    connection.loop.set_exception_handler(lambda _loop, context: failed.append(context))
    answer = AnswerTransport(connection)

    answer.write(HEAD)
    connection.gone = True
    await asyncio.sleep(0)

    assert not failed
    assert not connection.did
