"""Run one process of a worker, which dispatches, sends to its sinks, or both.

Its main thread runs RQ's loop: for dispatch, or for the queue of the one sink that has the process to itself. Each sink
has its own threads (receiver/delivery/runner.py). One thread for each server looks once a second for what needs no
wake-up to be found, so a server that hangs delays only what needs it. Another one renews the claims.
"""

from __future__ import annotations

import fcntl
import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import redis

from handlers.contract import SinkError
from handlers.support.file_lock import is_locked
from handlers.support.private_file import make_private_file, make_private_folder
from receiver import wakeups
from receiver.checks.heartbeat import Heartbeat
from receiver.config.loader import file_hash
from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.delivery import runner
from receiver.delivery.runner import SinkRunner
from receiver.dispatch import dispatcher
from receiver.domain.liveness import DISPATCH, deliver
from receiver.domain.time_limits import CLAIM, JOB_FOR, JOB_HANGS, RENEW_EVERY, SIGN_EVERY, START_WITHIN
from receiver.errors import NotStarted, RunhookError, error_location
from receiver.inbox import STREAM
from receiver.inbox.recovery import hand_back
from receiver.ledger import Connection, Ledger, LedgerUnavailable
from receiver.ledger.deliveries import claims
from receiver.ledger.deliveries.claimed import Claimed
from receiver.ledger.deliveries.recovery import release_claims
from receiver.runtime.background import keep_thread, start_thread
from receiver.runtime.child import UNFINISHED, own_status, report_ready
from receiver.runtime.redis_client import connect
from receiver.runtime.stop import StopRequests, stop_signals
from receiver.wakeups import worker as wakeup_worker

# Whether a job must end: the process stops, or the job's time is used up.
Stop = Callable[[], bool]

log = logging.getLogger("runhook.worker")

# Seconds for which a thread may compute while another one waits for the interpreter: an event passes three threads, and
# with Python's 0.005 each of them may wait that long.
SWITCH: Final = 0.0005
# Seconds between two looks for work; between two tries to build a sink, or to release what dead processes held.
LOOK_EVERY: Final = 1.0
TRY_AGAIN: Final = 10.0
# The job of a sink with its own process: seconds between two looks, and without work until it ends.
_LINGER_LOOK: Final = 0.02
_QUIET: Final = 2.0


@dataclass(frozen=True, slots=True)
class Work:
    """The work of one process. `apart`: why it does not share a process although it could, or "". `only`: what
    the worker is limited to, or ""."""

    sinks: tuple[str, ...]
    dispatches: bool = False
    apart: str = ""
    only: str = ""


def take_place(data: Path, place: str) -> list[str]:
    """Lock a file of the worker at `place` in the data directory. It is free once all processes of it have ended.

    Returns the places of dead workers, and removes their files. Where files can't be used, claims of the dead lapse.
    """
    with suppress(OSError):
        dead = dead_places(data)
        for each in dead:
            with suppress(OSError):
                (data / "workers" / each).unlink()
        path = data / "workers" / place
        make_private_folder(path.parent)
        new = data / f"worker.{place}"  # gets its name once it is locked: without a lock it is a dead worker's
        make_private_file(new)
        fcntl.flock(os.open(new, os.O_RDWR | os.O_CLOEXEC), fcntl.LOCK_EX | fcntl.LOCK_NB)
        new.rename(path)
        return dead
    return []


def dead_places(data: Path) -> list[str]:
    """Return the places of the workers with this data directory that have ended, unless their files were removed, or
    the folder can't be read."""
    with suppress(OSError):
        return [each.name for each in (data / "workers").iterdir() if not is_locked(each)]
    return []


class WorkerProcess:
    """A process, in that process. `owner`: the name under which it claims, NAME@PLACE. `stop_within`: seconds that
    sends under way have to end after a stop. `dead`: owners that have ended, such as the process before it.

    Making it starts nothing.
    """

    def __init__(
        self, settings: Settings, config: Config, owner: str, work: Work, stop_within: float, dead: Sequence[str] = ()
    ) -> None:
        self._settings = settings
        self._config = config
        self._name, _, self._place = owner.partition("@")
        self._owner = owner
        self._work = work
        self._stop_within = stop_within
        self._dead = dead
        self._released: set[str] = set()
        self._stops = StopRequests()
        self._ended = threading.Event()
        self._gave_up = ""
        self._job_until = math.inf
        self._redis = connect(settings.redis_url, timeout=2.0, connect_timeout=2.0, retries=0)
        self._redis_away = False
        self._ledger = Ledger(settings.database_url, require_durability=config.durable_ledger)
        self._heartbeat = Heartbeat(
            settings,
            DISPATCH if work.dispatches else deliver(work.sinks[0]),
            file_hash(settings.config),
            name=self._owner,
            details=self._details,
        )
        self._dispatcher: dispatcher.Dispatcher | None = None
        self._runners: dict[str, SinkRunner] = {}
        self._building = threading.Lock()  # of the runners: none is added after a stop

    def run(self) -> int:
        """Work until SIGTERM. Return the exit code: UNFINISHED when a send did not end in time. Raises NotStarted when
        the one sink that it is for can't be built, and RunhookError when a sink's runner gave up."""
        sys.setswitchinterval(SWITCH)
        with stop_signals(self._stops):  # before the first send
            threads = [
                keep_thread(name, work, self._ended)
                for name, work in (
                    ("signs of life", self._give_signs),
                    ("claims", self._renew_claims),
                    ("ledger", self._look_into_the_ledger),
                    ("redis", self._look_into_redis),
                )
            ]
            try:
                self._work_until_stop()
                settled = self._finish_sends()
            finally:
                self._ended.set()
                self._stops.wake()
                for thread in threads:
                    thread.join(1.0)
        for each in self._runners.values():
            each.close()
        self._heartbeat.stop()
        self._ledger.close()
        self._redis.close()
        if self._gave_up:
            raise RunhookError(self._gave_up)
        return 0 if settled else UNFINISHED

    def _work_until_stop(self) -> None:
        self._release_dead()
        if self._work.dispatches:
            self._heartbeat.start()
            for sink in self._work.sinks:  # a constructor that hangs delays neither dispatch nor another sink
                start_thread(f"build-{sink}", partial(self._keep_building, sink))
            self._dispatcher = dispatcher.build(self._settings, self._config, self._owner, self._ledger, self._runners)
            self._serve(DISPATCH, self._dispatcher.run)
        else:
            (sink,) = self._work.sinks
            if why := self._build(sink):
                raise NotStarted(f"the sink {sink} can't be built: {why}")
            self._heartbeat.start()
            self._serve(deliver(sink), self._linger)

    def _release_dead(self) -> None:
        """Release, once, claims and inbox entries of dead processes with this work. What can't be released lapses."""
        beside = [f"{self._name}@{place}" for place in dead_places(self._settings.data)]
        owners = {*self._dead, *beside} - self._released
        self._released |= owners  # before the first one: another thread must not release what this process claims next
        for owner in owners:
            released, entries = 0, 0
            try:
                while some := self._ledger.write(partial(release_claims, owner=owner, now=self._ledger.now())):
                    released += some
                entries = hand_back(self._redis, owner)
            except (LedgerUnavailable, redis.RedisError) as error:
                log.warning("worker.not_released owner=%s error=%s", owner, error_location(error))
            if released or entries:
                log.info("worker.released owner=%s claims=%d entries=%d", owner, released, entries)

    def _details(self) -> dict[str, Any]:
        """Return what the heartbeat reports."""
        failing = [f"sink {each.name}: {each.trouble}" for each in list(self._runners.values()) if each.trouble]
        found = {"apart": self._work.apart, "only": self._work.only, "failing": "; ".join(failing)}
        return {name: value for name, value in found.items() if value}

    def _finish_sends(self) -> bool:
        """Wait until the sends under way have ended and are settled, but not after the stop's time. Return whether.

        At a reload they get the time that they need: their runner gives up an overdue one.
        """
        reloads = (status := own_status()) is not None and status.reloads
        until = math.inf if reloads else (self._stops.first_at or time.monotonic()) + self._stop_within
        with self._building:
            runners = list(self._runners.values())
        for each in runners:
            each.stop()
        joined = [each.join(until) for each in runners]  # all of them, also after one that did not end
        return all(joined)

    def _serve(self, queue: str, work: Callable[[Stop], None]) -> None:
        """Run RQ's loop until a stop. Each job may take JOB_FOR, and a little more for its last batch."""

        def job() -> None:
            now = time.monotonic()
            self._job_until = now + JOB_HANGS
            try:
                work(lambda: bool(self._stops) or time.monotonic() - now > JOB_FOR)
            finally:
                self._job_until = math.inf

        report_ready()
        wakeup_worker.serve(queue, self._settings.redis_url, f"{self._owner}.{os.getpid()}", job, self._stops)

    def _linger(self, stop: Stop) -> None:
        """The job of a sink with its own process: look for due deliveries until there have been none for a while."""
        found_at = time.monotonic()
        with suppress(LedgerUnavailable):  # the runner reports it; once a second there is another look
            while not stop() and time.monotonic() - found_at < _QUIET:
                if self._poke_due():
                    found_at = time.monotonic()
                time.sleep(_LINGER_LOOK)
            wakeups.finish(self._redis, deliver(self._work.sinks[0]), self._poke_due)

    def _give_signs(self) -> None:
        """Give signs of life to the supervisor while no job hangs, pass a stop on at once, and end the process when a
        runner gives up."""
        stopped = False
        while not self._ended.is_set():
            runners = list(self._runners.values())
            if (status := own_status()) is not None and time.monotonic() < self._job_until:
                status.pulse()
            if self._stops and not stopped:
                stopped = True
                for each in runners:
                    each.stop()
                log.info("worker.stopping process=%s", self._name)
            self._gave_up = next((each.gave_up for each in runners if each.gave_up), "")
            if self._gave_up and not stopped:
                os.kill(os.getpid(), signal.SIGTERM)
            self._stops.wait(SIGN_EVERY)

    def _look_into_the_ledger(self) -> None:
        """Each second, find due deliveries that no wake-up reported, and workers that have ended."""
        while not self._ended.wait(LOOK_EVERY):
            with suppress(LedgerUnavailable):
                if not self._stops:
                    self._release_dead()
                    self._poke_due()

    def _renew_claims(self) -> None:
        """Renew the claims on what the runners hold. This thread does nothing else: no error or wait may delay it."""
        while not self._ended.wait(RENEW_EVERY):
            held = [claimed for each in list(self._runners.values()) for claimed in each.held()]
            if not held:
                continue
            with suppress(LedgerUnavailable):
                renewed, now = self._ledger.write(partial(self._renew, held))
                for each in renewed:
                    each.start_by = now + START_WITHIN

    def _renew(self, held: Collection[Claimed], connection: Connection) -> tuple[Collection[Claimed], float]:
        now = self._ledger.known_now()
        return claims.renew(connection, self._owner, held, now + CLAIM), now

    def _poke_due(self) -> bool:
        """Poke the runners whose sinks have something due. Return whether there are any."""
        names = [name for name in self._work.sinks if name in self._runners]
        now = self._ledger.now()
        due = self._ledger.read(lambda it: claims.due_sinks(it, names, now), transaction=False)
        self._poke(due)
        return bool(due)

    def _poke(self, sinks: Collection[str]) -> None:
        for sink in sinks:
            if sink in self._runners:
                self._runners[sink].poke()

    def _look_into_redis(self) -> None:
        """Each second, wake the dispatcher for events that no wake-up reported; and flush the counters, once more at
        the end."""
        ended = False
        while not ended:
            ended = self._ended.wait(LOOK_EVERY)
            if self._work.dispatches and not self._stops:
                self._look_into_the_inbox()
            for each in list(self._runners.values()):
                each.counter.flush()

    def _look_into_the_inbox(self) -> None:
        try:
            # The dispatcher creates an inbox that is missing, and records that Redis lost its data.
            waits = self._redis.xlen(STREAM) or not self._redis.exists(STREAM)
            if waits or (self._dispatcher is not None and self._dispatcher.has_new_set_aside(self._redis)):
                wakeups.wake(self._redis, DISPATCH)
        except (redis.ConnectionError, redis.TimeoutError) as error:
            if not self._redis_away:
                log.warning("%s: Redis can't be used now (%s); trying again", self._name, type(error).__name__)
            self._redis_away = True
            return
        except redis.RedisError:
            pass  # Redis is full, or something else wrote that key: the main thread sees it and reports it
        if self._redis_away:
            log.warning("%s: Redis is back", self._name)
        self._redis_away = False

    def _keep_building(self, sink: str) -> None:
        """In a thread: build the runner of a sink, again until that succeeds."""
        logged = ""
        while why := self._build(sink):
            if why != logged:
                log.error("deliver.not_built sink=%s %s: tried again every %.0f s", sink, why, TRY_AGAIN)
            logged = why
            if self._ended.wait(TRY_AGAIN):
                return

    def _build(self, sink: str) -> str:
        """Build and start the runner of a sink. Return why that failed, or ""."""
        try:
            built = runner.build(
                *(self._settings, self._config, sink, self._owner, self._ledger, self._redis), on_due=self._poke
            )
        except Exception as error:  # noqa: BLE001 - of a sink's own code
            return str(error) if isinstance(error, (RunhookError, SinkError)) else error_location(error)
        with self._building:
            stopping = bool(self._stops)
            if not stopping:
                self._runners[sink] = built
                built.start()
                if self._work.dispatches:
                    self._heartbeat.add(f"{deliver(sink)}@{self._place}", deliver(sink))
        if stopping:  # not within the lock, for which the stop waits: a sink's own code may hang
            built.close()
        return ""
