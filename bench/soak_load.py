"""What a soak posts: signed results at a steady rate, some twice, and of some runs a second one."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from typing import Final

from receiver.domain.signature import HEADER, sign
from tests.support.run_ids import run_id

SECRET: Final = "bench-secret"
THREADS: Final = 16


def body(number: int, version: int = 1) -> bytes:
    """A run's result of about 2 kB; a part of the runs has a second version."""
    failed = status(number) == "failed"
    run = {
        "run_id": run_id(number),
        "run_type": "task_v1",
        "status": status(number),
        "created_at": "2026-11-24T14:05:09.165039",
        "modified_at": f"2026-11-24T14:06:1{version}.165039",
        "failure_reason": f"page {number % 977} answered with error {number}" if failed else None,
        "output": {"number": number, "version": version, "lines": [{"name": "x" * 40, "n": n} for n in range(25)]},
    }
    return json.dumps(run, separators=(",", ":")).encode()


class Load:
    """Posts at a steady rate, whether or not earlier requests were answered in time; asks again until it is acked."""

    def __init__(self, port: int, rate: float) -> None:
        self._port = port
        self._rate = rate
        self._lock = threading.Lock()
        self._number = 0
        self._began = time.monotonic()
        self._stop = threading.Event()
        self.answers: Counter[int | str] = Counter()
        self._threads = [threading.Thread(target=self._post, daemon=True) for _ in range(THREADS)]
        for thread in self._threads:
            thread.start()

    def end(self) -> int:
        """Stop, and return how many runs there are: numbers from 1."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        return self._number

    def _post(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        while not self._stop.is_set():
            with self._lock:
                self._number += 1
                number = self._number
            time.sleep(max(0.0, self._began + number / self._rate - time.monotonic()))
            self._send(connection, body(number))
            if repeated(number):
                self._send(connection, body(number))
            if second(number):
                self._send(connection, body(number, 2))

    def _send(self, connection: http.client.HTTPConnection, content: bytes) -> None:
        while True:
            try:
                connection.request(
                    "POST", "/webhooks/skyvern", content,
                    {"Content-Type": "application/json", HEADER: sign(content, SECRET)},
                )  # fmt: skip
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException) as error:
                self.answers[type(error).__name__] += 1
                connection.close()
                time.sleep(0.2)
                continue
            self.answers[answer.status] += 1
            if answer.status == 202:
                return
            time.sleep(0.5)


def second(number: int) -> bool:
    """Whether the run has a second result."""
    return number % 20 == 9


def repeated(number: int) -> bool:
    """Whether its result is posted twice."""
    return number % 20 == 7


def status(number: int) -> str:
    """How the run has ended: that says which sinks get it."""
    return "failed" if number % 10 < 3 else "terminated" if number % 10 == 3 else "completed"
