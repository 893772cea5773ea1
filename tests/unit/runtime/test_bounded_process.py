"""Work in a process of its own: its result, what it raises, and where it ends."""

import math
import os
import time

import pytest

from receiver.errors import Busy
from receiver.runtime.bounded_process import TookTooMuch, run_bounded

pytestmark = pytest.mark.long


def test_a_result_and_an_error_come_back() -> None:
    assert run_bounded(math.hypot, 3, 4) == 5
    assert run_bounded(os.getpid) != os.getpid()
    with pytest.raises(ZeroDivisionError):
        run_bounded(divmod, 1, 0)
    with pytest.raises(Busy, match="later"):
        run_bounded(_raise, "later")


def test_too_much_ends_it() -> None:
    with pytest.raises(TookTooMuch):
        run_bounded(bytes, 2 << 30)
    with pytest.raises(TookTooMuch):
        run_bounded(os._exit, 3)
    began = time.monotonic()
    with pytest.raises(TookTooMuch):
        run_bounded(time.sleep, 60, seconds=0.5)
    assert time.monotonic() - began < 30


def _raise(message: str) -> None:
    raise Busy(message)
