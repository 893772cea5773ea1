"""Sends signed webhooks as Skyvern does, from a process of its own: three tries, Retry-After honoured, a second apart.

    python -m tests.chaos.sender PORT[,PORT…] SECRET SEED OUT

Of several receivers each gets its part, and each try goes to another one, as a load balancer has it.

Commands come as lines on stdin: `rate 300`, `stop`. What became of each event goes to OUT, a line of JSON each; a part
of those that were acked is sent again later, byte for byte. Its load does not wait for answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, TextIO

from receiver.domain.signature import HEADER, sign
from receiver.web.protocol import Seconds
from tests.chaos.bodies import body

TRIES: Final = 3
TIMEOUT: Final = 30.0
"""Seconds that Skyvern gives one try."""
MOST_WAIT: Final = 30.0
"""Seconds of Retry-After that it honours."""
AGAIN: Final = 0.03
"""Part of the acked events that is sent again."""


@dataclass
class Sent:
    """What became of one event. `statuses`: of each try that was answered; `lost`: tries that were not, and those that
    were answered 408 with right: on a busy machine this process may connect, and send only when nobody waits any more.

    Times are seconds since the epoch: `sent_at` of the try that was acked, `acked_at` of its answer, or 0.0.
    `ids`: event ids of all its 202s.
    """

    number: int
    first_at: float
    sent_at: float = 0.0
    acked_at: float = 0.0
    statuses: list[int] = field(default_factory=list)
    lost: int = 0
    slowest: float = 0.0
    ids: list[str] = field(default_factory=list)
    again: bool = False


def retryable(status: int) -> bool:
    """Whether Skyvern tries again after this answer."""
    return status in (403, 408, 425, 429) or status >= 500


class Sender:
    def __init__(self, ports: Sequence[int], secret: str, seed: int, out: TextIO) -> None:
        self._ports = ports
        self._secret = secret
        self._chance = random.Random(seed)
        self._out = out
        self._rate = 0.0
        self._stopping = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until `stop` comes, and each event has had its tries."""
        commands = asyncio.create_task(self._obey())
        number, owed, last = 0, 0.0, time.monotonic()
        while not self._stopping:
            await asyncio.sleep(0.01)
            now = time.monotonic()
            owed = owed + (now - last) * self._rate if self._rate else 0.0
            last = now
            while owed >= 1:
                owed -= 1
                number += 1
                self._begin(number)
        while self._tasks:
            await asyncio.wait(self._tasks)
        await commands

    async def _obey(self) -> None:
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while (line := (await reader.readline()).decode().split()) and line[0] != "stop":
            self._rate = float(line[1])
        self._stopping = True

    def _begin(self, number: int) -> None:
        task = asyncio.create_task(self._event(Sent(number, time.time())))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _event(self, sent: Sent) -> None:
        await self._deliver(sent)
        if sent.acked_at and self._chance.random() < AGAIN:
            sent.again = True
            await asyncio.sleep(self._chance.uniform(0.2, 4))
            await self._deliver(sent)
        self._out.write(json.dumps(asdict(sent)) + "\n")

    async def _deliver(self, sent: Sent) -> None:
        for number in range(1, TRIES + 1):
            began, at = time.monotonic(), time.time()
            try:
                async with asyncio.timeout(TIMEOUT):
                    status, headers, answer = await self._post(
                        body(sent.number), self._ports[(sent.number + number) % len(self._ports)]
                    )
            except (OSError, EOFError, TimeoutError, ValueError):
                sent.lost += 1
                wait = 0.0
            else:
                sent.statuses.append(status)
                sent.slowest = max(sent.slowest, time.monotonic() - began)
                if status == 202:
                    sent.ids.append(json.loads(answer)["event_id"])
                    if not sent.acked_at:
                        sent.sent_at, sent.acked_at = at, time.time()
                    return
                if not retryable(status):
                    return
                with contextlib.suppress(ValueError):
                    wait = min(float(headers.get("retry-after", "0")), MOST_WAIT)
            if number < TRIES:
                await asyncio.sleep(max(wait, self._chance.uniform(number, number + 1)))

    async def _post(self, content: bytes, port: int) -> tuple[int, dict[str, str], bytes]:
        """One request on a connection of its own. Raises OSError, EOFError, ValueError; TimeoutError for a 408 to what
        was sent too late."""
        began = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            head = (
                f"POST /webhooks/skyvern HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n"
                f"Content-Type: application/json\r\nUser-Agent: python-httpx/0.28.1\r\n"
                f"x-skyvern-timestamp: {int(time.time())}\r\n{HEADER}: {sign(content, self._secret)}\r\n"
                f"Content-Length: {len(content)}\r\n\r\n"
            )
            writer.write(head.encode() + content)
            was_late = time.monotonic() - began > Seconds().head
            lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            pairs = (line.partition(":") for line in lines[1:] if line)
            headers = {name.lower(): value.strip() for name, _, value in pairs}
            answer = await reader.readexactly(int(headers["content-length"]))
            status = int(lines[0].split()[1])
            if status == 408 and was_late:
                raise TimeoutError
            return status, headers, answer
        finally:
            writer.close()


def read(path: Path) -> list[Sent]:
    """What a sender wrote down, by number."""
    lines = path.read_text().splitlines()
    return sorted((Sent(**json.loads(line)) for line in lines), key=lambda sent: sent.number)


def main() -> None:
    ports, secret, seed, out = sys.argv[1:]
    os.set_blocking(0, False)
    with Path(out).open("a", buffering=1 << 16) as file:
        asyncio.run(Sender([int(port) for port in ports.split(",")], secret, int(seed), file).run())


if __name__ == "__main__":
    main()
