"""Work in a process of its own: its result, what it raises, and where it ends."""

from __future__ import annotations

import math
import os
import time

import pytest

from receiver.errors import Busy
from receiver.runtime import apart as module
from receiver.runtime.apart import TookTooMuch, apart

pytestmark = pytest.mark.long


def test_a_result_and_an_error_come_back() -> None:
    assert apart(math.hypot, 3, 4) == 5
    assert apart(os.getpid) != os.getpid()
    with pytest.raises(ZeroDivisionError):
        apart(divmod, 1, 0)
    with pytest.raises(Busy, match="later"):
        apart(_raise, "later")


def test_too_much_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TookTooMuch):
        apart(bytes, 2 << 30)
    with pytest.raises(TookTooMuch):
        apart(os._exit, 3)
    monkeypatch.setattr(module, "CLOCK", 0.5)
    began = time.monotonic()
    with pytest.raises(TookTooMuch):
        apart(time.sleep, 60)
    assert time.monotonic() - began < 30


def _raise(message: str) -> None:
    raise Busy(message)
