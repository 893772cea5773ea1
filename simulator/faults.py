"""The faults that a simulated Skyvern can inject. Pure.

A fault is chosen for a share of the runs (or calls) by its ratio, or for one run by its name in square brackets in the
prompt or title: "Download the invoice [lose]". The choice depends on the seed and the run's number, never on time.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from enum import StrEnum
from typing import Self


class Fault(StrEnum):
    """A kind of fault, with its explanation."""

    help: str

    def __new__(cls, name: str, explanation: str = "") -> Self:
        """Return the member that is equal to `name`."""
        member = str.__new__(cls, name)
        member._value_, member.help = name, explanation
        return member

    # How the run ends.
    FAIL = "fail", "the run ends failed"
    TERMINATE = "terminate", "the run ends terminated, with an error code"
    TIMEOUT = "timeout", "the run ends timed_out"
    CANCEL = "cancel", "the run is cancelled: null output at once, output after clean-up"
    # How it gets there.
    QUEUE = "queue", "the run waits in the queue for long"
    PAUSE = "pause", "the run is paused for a while"
    RESTART = "restart", "a workflow fails, and Skyvern starts it again as another run with the same callback URL"
    # What happens between its end and its webhook.
    GAP = "gap", "the time between final status and webhook is long; files are missing meanwhile"
    HALF = "half", "the recording is incomplete when the webhook arrives, and complete some seconds later"
    # What happens to its webhook.
    LOSE = "lose", "the webhook never arrives"
    LATE = "late", "the webhook arrives late"
    DOUBLE = "double", "the webhook arrives twice: the same facts with new signed URLs and another modified_at"
    ECHO = "echo", "the webhook arrives twice, byte for byte the same"
    DISORDER = "disorder", "the webhook arrives after those of later runs, attempts, or the clean-up of a cancel"
    RETRY = "retry", "a workflow fails with retry_pending, then completes at its second attempt"
    RETRIES = "retries", "a workflow fails with retry_pending twice, then completes at its third attempt"
    TWICE = "twice", "a cancelled run is cancelled a second time, which sends its webhook once more"
    TANGLED = "tangled", "a task_v2 is failed only because its webhook could not be delivered (Skyvern 1.0.50)"
    LAPSED = "lapsed", "the signed URLs in the webhook have expired"
    BIG = "big", "the output is larger than 16 MiB"
    # How the API behaves.
    DROP = "drop", "the run is created, but the connection breaks before the response"
    SLOW = "slow", "the API responds slowly"
    THROTTLE = "429", "the API responds 429"
    BUSY = "503", "the API responds 503 with Retry-After"
    CRASH = "500", "the API responds 500"
    GARBAGE = "garbage", "the API responds with a page of HTML; a run is created all the same"


# Drawn for each call of the API, submits and reads alike. A marker applies to the first submit that carries it.
OF_CALLS = frozenset({Fault.SLOW, Fault.THROTTLE, Fault.BUSY, Fault.CRASH, Fault.GARBAGE})

ENDINGS = {
    Fault.FAIL: "failed",
    Fault.TERMINATE: "terminated",
    Fault.TIMEOUT: "timed_out",
    Fault.CANCEL: "canceled",
}


def drawn(ratios: Mapping[Fault, float], seed: int, number: int, text: str = "") -> frozenset[Fault]:
    """Return the faults of the `number`th run or call: those drawn by their ratio, and those that `text` names."""
    return frozenset(
        fault
        for fault in Fault
        if f"[{fault}]" in text or (fault in ratios and chance(seed, fault, number) < ratios[fault])
    )


def chance(seed: int, what: str, number: int) -> float:
    """Return a number in [0, 1) that is always the same for the same arguments."""
    return random.Random(f"{seed}/{what}/{number}").random()


def check(ratios: Mapping[str, float]) -> dict[Fault, float]:
    """Return `ratios` by fault. Raises ValueError for an unknown fault, and for a ratio that is not in 0 to 1."""
    checked = {}
    for name, ratio in ratios.items():
        if name not in list(Fault):
            raise ValueError(f"no such fault: {name}; there are {', '.join(Fault)}")
        if not 0 <= ratio <= 1:
            raise ValueError(f"{name}: {ratio:g} is not a ratio between 0 and 1")
        checked[Fault(name)] = float(ratio)
    return checked
