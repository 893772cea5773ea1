"""A client that posts signed results at fixed times, whether or not earlier ones have arrived, and awaits their rows.

One process, which waits for answers and for notices of rows in one epoll, so it adds no poll of its own.
"""

from __future__ import annotations

import select
import socket
import time
from dataclasses import dataclass, field

import psycopg

from bench.pipeline import body
from bench.submissions import submission_id
from receiver.domain.signature import sign
from tests.support.run_ids import run_id

SECRET = "bench-secret"
PATIENCE = 300.0
CONNECTIONS = 64

# Told of each row of the consumer's table, as the server commits it; to be made once the table is there.
TRIGGER = """
CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_notify('arrived', NEW.run_id); RETURN NULL; END $$;
CREATE TRIGGER tell AFTER INSERT ON results FOR EACH ROW EXECUTE FUNCTION tell();
"""


@dataclass
class Client:
    """Posts at fixed times and waits for rows. `patience`: seconds in which no row comes, after which the rest is given
    up. `number`: the newest run's number. `submitted`: the runs to come are those of submissions."""

    port: int
    database: psycopg.Connection
    patience: float = PATIENCE
    number: int = 0
    submitted: bool = False
    due: dict[str, float] = field(default_factory=dict)  # run id → when its POST was due, while it has not arrived

    def __post_init__(self) -> None:
        self.poll = select.epoll()
        self.poll.register(self.database.fileno(), select.EPOLLIN)
        self.idle: list[socket.socket] = []
        self.busy: dict[int, socket.socket] = {}
        for _ in range(CONNECTIONS):
            self._connect()

    def _connect(self) -> None:
        connection = socket.create_connection(("127.0.0.1", self.port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.poll.register(connection.fileno(), select.EPOLLIN)
        self.idle.append(connection)

    def _take_idle(self) -> socket.socket:
        """One that is still open: the receiver ends what has been silent for long, with a 408 that answers nothing."""
        while True:
            try:
                self.idle[-1].recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            except BlockingIOError:
                return self.idle.pop()
            self._replace(self.idle[-1])

    def _replace(self, closed: socket.socket) -> None:
        self.idle.remove(closed)
        self.poll.unregister(closed)
        closed.close()
        self._connect()

    def close(self) -> None:
        for connection in (*self.idle, *self.busy.values()):
            connection.close()
        self.poll.close()

    def run(self, rate: float, count: int) -> tuple[list[float], list[tuple[float, float]]]:
        """Post `count` events at `rate` a second. Returns the seconds that each took, and when it was sent and arrived,
        both in the order of arrival. Raises SystemExit when the rest never came."""
        requests = [self._request() for _ in range(count)]
        began, sent = time.monotonic() + 0.05, 0
        took: list[float] = []
        spans: list[tuple[float, float]] = []
        while len(took) < count:
            now = time.monotonic()
            if now > max(began + sent / rate, spans[-1][1] if spans else 0.0) + self.patience:
                raise SystemExit(f"{count - len(took)} of {count} events never came, in {self.patience:.0f} s none did")
            while sent < count and now >= began + sent / rate and self.idle:
                run_id, request = requests[sent]
                self.due[run_id] = began + sent / rate
                connection = self._take_idle()
                connection.sendall(request)
                self.busy[connection.fileno()] = connection
                sent += 1
            wait = max(0.0, began + sent / rate - time.monotonic()) if sent < count and self.idle else 1.0
            select.select([self.poll], [], [], wait)  # which counts microseconds, where epoll counts milliseconds
            for handle, _ in self.poll.poll(0):
                if handle == self.database.fileno():
                    self._arrivals(took, spans)
                else:
                    self._answer(handle)
        return took, spans

    def _request(self) -> tuple[str, bytes]:
        self.number += 1
        content = body(self.number)
        token = f"/{submission_id(self.number)}" if self.submitted else ""
        head = (
            f"POST /webhooks/skyvern{token} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
            "Content-Type: application/json\r\n"
            f"x-skyvern-signature: {sign(content, SECRET)}\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        return run_id(self.number), head.encode() + content

    def _answer(self, handle: int) -> None:
        connection = self.busy.pop(handle, None)
        if connection is None:  # the receiver has closed one that was idle
            for closed in [each for each in self.idle if each.fileno() == handle]:
                self._replace(closed)
            return
        answer = connection.recv(4096)
        while not answer.endswith(b"}"):  # head and body may come apart
            answer += connection.recv(4096) or b"hung up}"
        if not answer.startswith(b"HTTP/1.1 202"):
            raise SystemExit(f"not acked: {answer[:200]!r}")
        self.idle.append(connection)

    def _arrivals(self, took: list[float], spans: list[tuple[float, float]]) -> None:
        now = time.monotonic()
        self.database.pgconn.consume_input()
        while (notice := self.database.pgconn.notifies()) is not None:
            due = self.due.pop(notice.extra.decode(), None)
            if due is not None:
                took.append(now - due)
                spans.append((due, now))


def percentile(seconds: list[float], share: float) -> float:
    """Of the milliseconds."""
    return sorted(seconds)[min(len(seconds) - 1, int(len(seconds) * share / 100))] * 1000
