"""Each sink's own cheap check: can it be reached, and does it let us in? Sends nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any, Final

from handlers import SinkError, registry
from handlers.contract import Sink
from handlers.support.daemon_pool import in_thread
from receiver.config.models import Config
from receiver.delivery.sink_services import SourceServices
from receiver.doctor.finding import Finding

# Seconds that all checks have together; one that hangs is left behind.
PATIENCE: Final = 10.0


def examine(config: Config, default_base: str) -> Iterator[Finding]:
    """Yield what each sink says. `default_base`: of Skyvern's API, for sources that name none."""
    services = SourceServices(config, default_base)
    asked: list[tuple[str, Sink[Any], Future[str]]] = []
    for name, chosen in config.sinks.items():
        sink = registry.build(name, chosen.type, chosen.options, services)
        asked.append((name, sink, in_thread(f"check-{name}", sink.check)))
    until = time.monotonic() + PATIENCE
    for name, sink, answer in asked:
        yield _finding(name, answer, until - time.monotonic())
        if answer.done():
            sink.close()


def _finding(name: str, answer: Future[str], seconds: float) -> Finding:
    todo = f"mend its options or its server; `runhook sink test {name}` sends a sample"
    try:
        said = answer.result(max(0.0, seconds))
    except SinkError as error:
        return Finding(f"sink {name}", str(error), todo)
    except TimeoutError:
        return Finding(f"sink {name}", f"no answer within {PATIENCE:g} s", todo)
    except Exception as error:  # noqa: BLE001 - a sink of a third party
        return Finding(f"sink {name}", f"{type(error).__name__} in the sink's code", "report it to the sink's maker")
    return Finding(f"sink {name}", said or f"nothing that can be tried without sending: `runhook sink test {name}`")
