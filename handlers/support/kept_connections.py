"""Connections that are kept for transactions of one request.

To take a connection from SQLAlchemy's pool, begin, commit, reset and give it back costs a process as much as the
request itself (`BoundedConnection.together`). One that is a transaction of its own needs none of that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Generic, Protocol, TypeVar


class _Closable(Protocol):
    def close(self) -> None: ...


T = TypeVar("T", bound=_Closable)


class KeptConnections(Generic[T]):
    """Connections on which no transaction is open. Each borrower has one of its own, so threads may share this."""

    def __init__(self) -> None:
        self._idle: list[T] = []
        self._closed = False

    @contextmanager
    def one(self, connect: Callable[[], T]) -> Iterator[T]:
        """Lend a connection for the block, which leaves no transaction open. After an error it is not kept.

        `connect`: where none is idle.
        """
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = connect()
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)
        if self._closed:
            self.close()

    def close(self) -> None:
        """Close all of them; those in use, or lent later, as soon as their transaction ends."""
        self._closed = True
        with suppress(IndexError):  # another thread may take the last one
            while True:
                self._idle.pop().close()
