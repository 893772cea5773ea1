"""A sink that does what a test tells it, and what the ledger says of its deliveries."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from handlers import Delivery, Receipt, Sink, SinkOptions
from receiver.ledger import Ledger
from tests.support import queries

Answer = Callable[[Delivery], Receipt]
NO_SERVICES: Any = None


class ScriptedSink(Sink[SinkOptions]):
    """Answers as its script says, and remembers what it was sent."""

    def __init__(self, answer: Answer, timeout: float = 5) -> None:
        super().__init__("ops", SinkOptions(timeout=timeout), NO_SERVICES)
        self.answer = answer
        self.seen: list[Delivery] = []
        self.lock = threading.Lock()

    def send(self, delivery: Delivery) -> Receipt:
        with self.lock:
            self.seen.append(delivery)
        return self.answer(delivery)


class BatchSink(ScriptedSink):
    batch_size: ClassVar[int] = 50

    def __init__(self, answer: Answer, timeout: float = 5) -> None:
        super().__init__(answer, timeout)
        self.sizes: list[int] = []

    def send_many(self, deliveries: Sequence[Delivery]) -> list[Receipt | Exception]:
        self.sizes.append(len(deliveries))
        return super().send_many(deliveries)


def rows(ledger: Ledger, **wanted: Any) -> list[dict[str, Any]]:
    return ledger.read(lambda connection: queries.list_deliveries(connection, queries.Filter(**wanted)))


def accept(delivery: Delivery) -> Receipt:
    return Receipt(f"r-{delivery.run_id}", keys=("a", "b"), urls={"run.json": "https://x/run.json"})
