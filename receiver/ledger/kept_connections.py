"""Connections that are kept for transactions of one request.

To take a connection from SQLAlchemy's pool, begin, commit, reset and give it back costs a process as much as the
request itself. One with BEGIN and COMMIT in it (requests.py) needs none of that.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa


class KeptConnections:
    """Connections on which no transaction is open. Each borrower has one of its own, so threads may share this."""

    def __init__(self) -> None:
        self._idle: list[sa.Connection] = []
        self._closed = False

    @contextmanager
    def one(self, engine: sa.Engine) -> Iterator[sa.Connection]:
        """Lend a connection for the block, which leaves no transaction open. After an error it is not kept."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = engine.connect()
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        if self._closed:
            connection.close()
        else:
            self._idle.append(connection)

    def close(self) -> None:
        """Give all of them back to their pool, those in use as soon as their transaction ends."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()
