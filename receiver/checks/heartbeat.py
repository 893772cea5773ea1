"""Send the heartbeat of a process to the ledger and to a local file every few seconds.

Each store has its own thread, so a ledger that hangs does not delay the file.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from secrets import token_hex
from typing import Any, Final

from receiver import __version__
from receiver.checks import board
from receiver.config.loader import file_sections
from receiver.config.settings import Settings
from receiver.domain.liveness import BEAT_EVERY, ProcessBeat
from receiver.ledger import Ledger, LedgerDataError, LedgerUnavailable, heartbeats
from receiver.runtime.background import keep_thread
from receiver.runtime.process import process_space
from receiver.runtime.reload import reload_pid

# Seconds that `stop` waits for the last heartbeat: an unavailable store must not delay a stop.
STOP_WITHIN: Final = 1.0

# Maximum seconds for sending a heartbeat; after a slower one, or one that failed, the next follows within this time.
LATE: Final = 1.0

log = logging.getLogger("runhook.status")


class Heartbeat:
    """The heartbeat of this process. Call `start` after the last fork, and `stop` at an orderly shutdown.

    `role`: see ProcessBeat. `config`: hash of the config file in use. `details`: called at each heartbeat, in another
    thread; returns values that JSON supports. `watched`: the process counts as stuck unless it calls `step` every few
    seconds. `name`: unique to the process. `late`: see LATE.
    """

    def __init__(
        self,
        settings: Settings,
        role: str,
        config: str,
        *,
        name: str = "",
        details: Callable[[], Mapping[str, Any]] = dict,
        watched: bool = False,
        interval: float = BEAT_EVERY,
        late: float = LATE,
    ) -> None:
        self._settings = settings
        self._config = config
        self._sections = file_sections(settings.config)
        self._threads: list[threading.Thread] = []
        self._beats: list[ProcessBeat] = []
        self._changed = threading.Condition()  # of the roles, or a stop
        self.add(name or f"{role}@{socket.gethostname()}.{token_hex(4)}", role)
        self._details = details
        self._watched = watched
        self._interval = interval
        self._late = late
        self._stepped = time.monotonic()
        self._stopping = threading.Event()
        self._ledger = Ledger(settings.database_url)
        self._ledger_down: float | None = None  # since when, as far as this process knows

    def add(self, name: str, role: str) -> None:
        """Add another role of this process, under a unique name. It is reported at once."""
        it = ProcessBeat(name, role, socket.gethostname(), os.getpid(), __version__, self._config, time.time())
        self.report(it)
        if self._threads:
            self._log("started", it)

    def report(self, *added: ProcessBeat) -> None:
        """Send the next heartbeat at once, since its details have changed. `added`: new roles."""
        with self._changed:
            self._beats = [*self._beats, *added]
            self._changed.notify_all()

    def _log(self, what: str, it: ProcessBeat) -> None:
        log.info(
            "part.%s part=%s host=%s process=%d version=%s config=%s after=%.0f name=%s",
            *(what, it.role, it.host, it.pid, it.version, it.config or "none", time.time() - it.started_at, it.name),
        )

    def start(self) -> None:
        """Start sending heartbeats, and log that the process has started."""
        self._stepped = time.monotonic()
        for it in self._beats:
            self._log("started", it)
        self._threads = [
            keep_thread(name, partial(self._run, send), self._stopping)
            for name, send in (("heartbeat.file", self._to_file), ("heartbeat.ledger", self._to_ledger))
        ]

    def step(self) -> None:
        """Record that the process's loop makes progress. Safe to call from any thread."""
        self._stepped = time.monotonic()

    def stop(self) -> None:
        """Report and log that this process has stopped in order. Returns within STOP_WITHIN seconds."""
        for it in self._beats:
            self._log("stopped", it)
        with self._changed:
            self._stopping.set()
            self._changed.notify_all()
        until = time.monotonic() + STOP_WITHIN
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _run(self, send: Callable[[Sequence[ProcessBeat]], None]) -> None:
        while True:
            stopping, roles = self._stopping.is_set(), self._beats
            beats = self._now(stopped=stopping)
            late = True
            # A missing heartbeat shows in status, and the code that needs the ledger reports the error.
            with suppress(OSError, LedgerUnavailable, LedgerDataError):
                send(beats)
                # One that arrives late, such as after a database hung, looks as if this host's clock were behind.
                late = time.time() - beats[0].sent_at > self._late
            if stopping:
                return
            with self._changed:
                self._changed.wait_for(
                    lambda: self._stopping.is_set() or self._beats is not roles,  # noqa: B023
                    min(self._interval, self._late) if late else self._interval,
                )

    def _now(self, *, stopped: bool) -> list[ProcessBeat]:
        sent_at = time.time()
        stalled = round(time.monotonic() - self._stepped, 1) if self._watched else 0.0
        # Also at a stop: it reports what remains, such as spooled events.
        details = {
            "space": process_space(),
            "reload_pid": reload_pid(),
            "ledger_down": self._ledger_down,
            **self._details(),
        }
        beats = [
            replace(beat, sent_at=sent_at, stalled=stalled, stopped=stopped, details=details) for beat in self._beats
        ]
        beats[0] = replace(beats[0], details={"sections": self._sections, **details})  # once for each process
        return beats

    def _to_file(self, beats: Sequence[ProcessBeat]) -> None:
        board.put_file(self._settings.data, *beats)

    def _to_ledger(self, beats: Sequence[ProcessBeat]) -> None:
        try:
            self._ledger.write(lambda connection: heartbeats.put(connection, *beats))
        except LedgerUnavailable:
            self._ledger_down = self._ledger_down or beats[0].sent_at
            raise
        self._ledger_down = None
        if beats[0].stopped:
            self._ledger.close()
