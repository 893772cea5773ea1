"""Nudges, on the side of a job that has nothing to do and waits a moment for more before it ends."""

from __future__ import annotations

import socket
import time
from typing import Any, Final

import redis

from receiver.runtime.process import readable
from receiver.wakeups.flags import nudge_key

# Seconds for which `poll` asks Redis.
_ASKED_FOR: Final = 1.0
# Seconds after which an answer is not expected any more that Redis should have given.
_SILENCE: Final = 5.0


class NudgeWait:
    """Waits for the nudges of one queue, on a connection of its own.

    What Redis was asked for goes on when a wait ends early, so that what comes another way costs no request; a nudge
    that comes meanwhile ends the next wait.
    """

    def __init__(self, client: redis.Redis, queue: str) -> None:
        self._client = client
        self._key = nudge_key(queue)
        self._connection: Any = None  # on which an answer of Redis is outstanding
        self._overdue = 0.0  # when it is too late for that, by time.monotonic()

    def wait(self, seconds: float, other: socket.socket | None = None) -> bool:
        """Wait for a nudge, at most `seconds`, or until `other` can be read. True if a nudge came.

        Raises redis.RedisError.
        """
        until = time.monotonic() + seconds
        lost = 0
        while (left := until - time.monotonic()) > 0:
            try:
                asked = self._ask(seconds)
                ready = readable([each.fileno() for each in (asked, other) if each], left)
                if asked.fileno() in ready and self._answer():
                    return True
                if other and other.fileno() in ready:
                    return False
            except redis.ConnectionError:  # it may have gone stale while nobody waited
                lost += 1
                if lost > 1:
                    raise
        return False

    def poll(self) -> bool:
        """Return whether a nudge has come since Redis was asked for one, and ask for one if it was not. Waits for
        nothing. Raises redis.RedisError."""
        asked = self._ask(_ASKED_FOR)
        return bool(readable([asked.fileno()], 0)) and self._answer()

    def fileno(self) -> int:
        """Return what can be read once `poll` has an answer, and ask for one. Raises redis.RedisError."""
        return self._ask(_ASKED_FOR).fileno()

    def _ask(self, seconds: float) -> socket.socket:
        """Ask Redis for a nudge, unless that is done already. Returns what its answer can be read from."""
        if self._connection is not None and time.monotonic() > self._overdue:
            self._release(broken=True)
        if self._connection is None:
            self._connection = self._client.connection_pool.get_connection()
            self._overdue = time.monotonic() + seconds + _SILENCE
            self._send("BLPOP", self._key, seconds)
        found: socket.socket | None = self._connection._get_socket()
        if found is None:
            self._release(broken=True)
            raise redis.ConnectionError("the connection was lost")
        return found

    def _send(self, *command: Any) -> None:
        try:
            self._connection.send_command(*command)
        except BaseException:
            self._release(broken=True)
            raise

    def _answer(self) -> bool:
        """Read the answer. Returns whether it is a nudge."""
        try:
            found = self._connection.read_response()
        except redis.ResponseError:  # it is no list, so it is a stranger's
            self._release()
            self._client.delete(self._key)
            return False
        except BaseException:
            self._release(broken=True)
            raise
        self._release()
        return found is not None

    def _release(self, *, broken: bool = False) -> None:
        connection, self._connection = self._connection, None
        if broken:
            connection.disconnect()
        self._client.connection_pool.release(connection)
