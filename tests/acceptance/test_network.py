"""Two hundred faults of the network between a receiver and its Redis, under load: after each it goes back to Redis."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest

from receiver.inbox import STREAM
from tests.servers.network import Link
from tests.servers.receiver import Load, ReceiverProcess
from tests.servers.valkey import ValkeyProcess
from tests.support.inbox import all_arrive
from tests.support.waiting import Stopwatch, eventually

pytestmark = pytest.mark.long

SHORT = 0.04
"""Seconds of a fault that lasts."""
ANSWER_WITHIN = 8.0
"""Seconds within which /readyz says so whatever Redis does: ten times what a commit may take."""


@contextlib.contextmanager
def at_once(fault: Callable[[], int]) -> Iterator[None]:
    fault()
    yield


# How often each, and what it is: two hundred in all.
FAULTS: dict[str, tuple[int, Callable[[Link], contextlib.AbstractContextManager[None]]]] = {
    "resets": (60, lambda link: at_once(link.reset)),
    "half-closes": (40, lambda link: at_once(link.half_close)),
    "refuses": (20, lambda link: link.refusing()),
    "drips": (40, lambda link: link.dripping(100)),
    "holds": (40, lambda link: link.held()),
}


def metrics(receiver: ReceiverProcess) -> dict[str, float]:
    text = httpx2.get(f"{receiver.admin_url}/metrics", timeout=60).text
    return {name: float(value) for name, value in re.findall(r"^(runhook_\S+) (\S+)$", text, re.MULTILINE)}


def test_receiver_returns_to_redis_after_network_faults(
    valkey_factory: Callable[..., ValkeyProcess], receiver_factory: Callable[..., ReceiverProcess]
) -> None:
    server = valkey_factory()
    client = server.connect()
    with Link(server.port) as link:
        receiver = receiver_factory(f"redis://127.0.0.1:{link.port}/0", admin=True)

        def store() -> str:
            answer = httpx2.get(f"{receiver.url}/readyz", timeout=60)
            assert answer.status_code == 200, answer.text
            return str(answer.json()["store"])

        def in_redis() -> int:
            found: Any = client.xlen(STREAM)
            return int(found)

        with Load(receiver, threads=6, pause=0.02) as load:
            load.more(20)
            for kind, (times, fault) in FAULTS.items():
                for _ in range(times):
                    with fault(link):
                        time.sleep(SHORT)
                    before = in_redis()
                    eventually(lambda: in_redis() > before, what=lambda: f"{kind}\n{receiver.log[-2000:]}")  # noqa: B023
                # Given a load that went on meanwhile, then nothing is left behind, and no task has ended
                eventually(lambda: store() == "redis", every=0.2)
                eventually(lambda: metrics(receiver)["runhook_spool_events"] == 0, every=0.2)
                all_arrive(server, list(load.acked))
                found = metrics(receiver)
                for task in ("commit", "redis", "disk"):
                    assert found[f'runhook_background_alive{{task="ingest.{task}"}}'] == 1, kind
                assert {value for name, value in found.items() if "background_restarts" in name} == {0.0}, receiver.log[
                    -3000:
                ]
            # And in silence that lasts, events go to the spool, /readyz says so in time, and all comes back
            with link.held():
                watch = Stopwatch()
                eventually(lambda: store() == "spool", every=0.2)
                watch.at_most(ANSWER_WITHIN)
                load.more(50)
            eventually(lambda: store() == "redis", every=0.2)

        assert (load.statuses, load.lost) == ([], 0)
        all_arrive(server, load.acked)
    client.close()
