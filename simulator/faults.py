"""The misbehaviour that a simulated Skyvern can be asked for, each declared once. Pure.

A fault is chosen for a share of the runs (or calls) by its ratio, or for one run by its name in square brackets in the
prompt or title: "Download the invoice [lose]". The choice depends on the seed and the run's number, never on time.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from enum import StrEnum


class Fault(StrEnum):
    """A kind of misbehaviour; HELP explains each."""

    # How the run ends.
    FAIL = "fail"
    TERMINATE = "terminate"
    TIMEOUT = "timeout"
    CANCEL = "cancel"
    # How it gets there.
    QUEUE = "queue"
    PAUSE = "pause"
    RESTART = "restart"
    # What happens between its end and its webhook.
    GAP = "gap"
    HALF = "half"
    # What happens to its webhook.
    LOSE = "lose"
    LATE = "late"
    DOUBLE = "double"
    ECHO = "echo"
    DISORDER = "disorder"
    RETRY = "retry"
    RETRIES = "retries"
    TWICE = "twice"
    TANGLED = "tangled"
    LAPSED = "lapsed"
    BIG = "big"
    # How the API behaves.
    DROP = "drop"
    SLOW = "slow"
    THROTTLE = "429"
    BUSY = "503"
    CRASH = "500"
    GARBAGE = "garbage"


HELP: dict[Fault, str] = {
    Fault.FAIL: "the run ends failed",
    Fault.TERMINATE: "the run ends terminated, with an error code",
    Fault.TIMEOUT: "the run ends timed_out",
    Fault.CANCEL: "the run is cancelled while it runs, as if by a person: null output at once, output after clean-up",
    Fault.QUEUE: "the run waits in the queue for long",
    Fault.PAUSE: "the run is paused for a while, as for a person",
    Fault.RESTART: "a workflow fails, and Skyvern starts it again as another run with the same callback URL",
    Fault.GAP: "the time between final status and webhook is long, and so is that in which files are missing",
    Fault.HALF: "the recording is still half when the webhook comes, and whole some seconds later",
    Fault.LOSE: "no webhook ever comes",
    Fault.LATE: "the webhook comes late",
    Fault.DOUBLE: "the webhook comes twice: the same facts with fresh signed URLs and another modified_at",
    Fault.ECHO: "the webhook comes twice, byte for byte the same",
    Fault.DISORDER: "the webhook comes after those of younger runs, a first attempt's after the last one's, and a"
    " cancelled run's first one after the one that follows clean-up",
    Fault.RETRY: "a workflow fails with retry_pending first, and completes at its second attempt",
    Fault.RETRIES: "a workflow fails with retry_pending twice, and completes at its third attempt",
    Fault.TWICE: "a cancelled run is cancelled a second time, which sends its webhook once more",
    Fault.TANGLED: "a task_v2 is said to be failed only because its webhook could not be delivered (Skyvern 1.0.50)",
    Fault.LAPSED: "the signed URLs in the webhook have expired already",
    Fault.BIG: "the output is larger than 16 MiB",
    Fault.DROP: "the run is created, but the connection breaks before the submit is answered",
    Fault.SLOW: "the API takes its time",
    Fault.THROTTLE: "the API answers 429",
    Fault.BUSY: "the API answers 503 with Retry-After",
    Fault.CRASH: "the API answers 500",
    Fault.GARBAGE: "the API answers with a page of HTML; a run is created all the same",
}

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
