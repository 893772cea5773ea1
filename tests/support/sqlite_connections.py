"""Connections to SQLite that are not closed: a warning that says which test has opened them, and where.

Python warns of them from 3.13 on, but when the garbage collector finds them: in the midst of another test.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

_CURRENT = "PYTEST_CURRENT_TEST"
_LIBRARIES = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), __file__)


class Tracked(sqlite3.Connection):
    """A connection that knows who has opened it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._left = False
        super().__init__(*args, **options)
        self._left, self._process = True, os.getpid()
        self._opened = os.environ.get(_CURRENT, "no test"), _where()

    def close(self) -> None:
        super().close()
        self._left = False

    def __del__(self) -> None:
        if self._left and self._process == os.getpid():  # a forked child closes what its parent has open
            test, where = self._opened
            super().close()
            warnings.warn(f"left open: a connection to SQLite of {test}\n{where}", ResourceWarning, stacklevel=2)


def _where() -> str:
    """Return the lines of ours that led here."""
    lines: list[str] = []
    frame = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        if not code.co_filename.startswith(_LIBRARIES):
            lines.append(f"  {code.co_filename}:{frame.f_lineno} in {code.co_name}")
        frame = frame.f_back  # type: ignore[assignment]
    return "\n".join(lines)


@contextmanager
def tracked() -> Iterator[None]:
    """Track all connections of this process that are opened in the block."""
    connect: Callable[..., sqlite3.Connection] = partial(sqlite3.connect, factory=Tracked)
    with pytest.MonkeyPatch.context() as patch:
        for module in (sqlite3, sqlite3.dbapi2):
            patch.setattr(module, "connect", connect)
        yield
