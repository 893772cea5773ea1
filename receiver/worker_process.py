"""Run one process of a worker, which dispatches, sends to its sinks, or both.

Its main thread runs RQ's loop: for dispatch, or for the queue of the one sink that has the process to itself. Each sink
has its own threads (receiver/delivery/runner.py). Once a second a thread looks for what needs no wake-up to be found:
due deliveries, events in the inbox, claims to renew.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from secrets import token_hex
from typing import Final

import redis

from receiver import wakeups
from receiver.config.loader import file_hash
from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.delivery import runner
from receiver.delivery.runner import SinkRunner
from receiver.dispatch import dispatcher
from receiver.dispatch.dispatcher import IDLE_WAIT
from receiver.domain.parts import DISPATCH, deliver
from receiver.domain.time_limits import CLAIM, JOB_FOR, JOB_HANGS, RENEW_EVERY, SIGN_EVERY
from receiver.errors import NotStarted, RunhookError
from receiver.inbox.recovery import hand_back
from receiver.inbox.stream import STREAM
from receiver.ledger import Connection, Ledger, LedgerUnavailable
from receiver.ledger.deliveries import claims
from receiver.ledger.deliveries.recovery import release_claims
from receiver.runtime.background import keep_thread
from receiver.runtime.child import REPLACE, UNFINISHED, own_status, say_working
from receiver.runtime.liveness import LivenessLock, release_dead
from receiver.runtime.process import StopRequests, drain, error_location, readable, stop_signals
from receiver.runtime.redis_client import connect
from receiver.status.heartbeat import Heartbeat
from receiver.wakeups import worker as wakeup_worker

# Whether a job must end: the process stops, or the job's time is used up.
Stop = Callable[[], bool]

log = logging.getLogger("runhook.worker")

# Seconds for which a thread may compute while another one waits for the interpreter: an event passes three threads, and
# with Python's 0.005 each of them may wait that long.
SWITCH: Final = 0.0005
# Seconds between two looks for work, flushes of counters, and tries to build a sink.
LOOK_EVERY: Final = 1.0
FLUSH_EVERY: Final = 2.0
TRY_AGAIN: Final = 10.0
# The job of a sink with its own process: seconds between two looks, and without work until it ends.
_LINGER_LOOK: Final = 0.02
_QUIET: Final = 2.0
# Seconds that the main thread has to handle a signal.
_SIGNAL: Final = 0.02


@dataclass(frozen=True, slots=True)
class Work:
    """The work of one process. `apart`: why it does not share a process although it could, or ""."""

    sinks: tuple[str, ...]
    dispatches: bool = False
    apart: str = ""


class WorkerProcess:
    """A process called `name`, in that process. `stop_within`: seconds that sends under way have to end after a stop.

    Making it starts nothing.
    """

    def __init__(self, settings: Settings, config: Config, name: str, work: Work, stop_within: float) -> None:
        self._settings = settings
        self._config = config
        self._name = name
        self._work = work
        self._stop_within = stop_within
        self._suffix = f"@{socket.gethostname()}.{token_hex(4)}"
        self._owner = name + self._suffix
        self._stops = StopRequests()
        self._ended = threading.Event()
        self._replace = False
        self._job_until = 0.0
        self._redis = connect(settings.redis_url, timeout=IDLE_WAIT + 5, connect_timeout=2.0, retries=1)
        self._look = connect(settings.redis_url, timeout=2.0, connect_timeout=2.0, retries=0)
        self._ledger = Ledger(settings.database_url, require_durability=config.durable_ledger)
        self._heartbeat = Heartbeat(
            settings,
            DISPATCH if work.dispatches else deliver(work.sinks[0]),
            file_hash(settings.config),
            name=self._owner,
            details=lambda: {"apart": work.apart} if work.apart else {},
        )
        self._lock: LivenessLock | None = None
        with suppress(OSError):  # the worker has warned of it; claims lapse by time then
            self._lock = LivenessLock(settings.data, self._owner)
        self._runners: dict[str, SinkRunner] = {}
        self._not_built: dict[str, str] = {}

    def run(self) -> int:
        """Work until SIGTERM. Return the exit code: REPLACE when a fresh process is to take over, UNFINISHED when a
        send did not end in time. Raises NotStarted when the one sink that it is for can't be built."""
        sys.setswitchinterval(SWITCH)
        with stop_signals(self._stops) as reader:  # before the first send
            threads = [
                keep_thread("signs of life", lambda: self._give_signs(reader), self._ended),
                keep_thread("renewals", self._renew_claims, self._ended),
                keep_thread("counters", self._flush_counters, self._ended),
            ]
            try:
                self._work_until_stop(threads)
                settled = self._finish_sends()
            finally:
                self._ended.set()
                signal.raise_signal(signal.SIGCHLD)  # ends the wait for signals before its descriptor is closed
                for thread in threads:
                    thread.join(1.0)
        for each in self._runners.values():
            each.close()
        self._heartbeat.stop()
        self._ledger.close()
        self._redis.close()
        if settled and self._lock is not None:
            self._lock.end()
        if self._replace:
            return REPLACE
        return 0 if settled else UNFINISHED

    def _work_until_stop(self, threads: list[threading.Thread]) -> None:
        release_dead(self._settings.data, partial(release_owner, self._settings))
        self._build_runners()
        if not self._work.dispatches and self._not_built:
            (sink,) = self._work.sinks
            raise NotStarted(f"the sink {sink} can't be built: {self._not_built[sink]}")
        self._heartbeat.start()
        threads.append(keep_thread("each second", self._each_second, self._ended))
        threads.append(keep_thread("tries", self._try_again, self._ended))
        if self._work.dispatches:
            build = partial(dispatcher.build, self._settings, self._config, self._owner, self._redis)
            dispatch = build(ledger=self._ledger, runners=self._runners)
            self._serve(DISPATCH, dispatch.run, dispatch.run_while_full)
        else:
            self._serve(wakeups.deliver_queue(self._work.sinks[0]), self._linger, lambda _: None)

    def _finish_sends(self) -> bool:
        """Wait until the sends under way have ended and are settled, but not after the stop's time. Return whether."""
        until = (self._stops.first_at or time.monotonic()) + self._stop_within
        runners = list(self._runners.values())
        for each in runners:
            each.stop()  # also one that was built at the moment of the stop
        return all(each.join(until) for each in runners)

    def _serve(self, queue: str, work: Callable[[Stop], None], work_anyway: Callable[[Stop], None]) -> None:
        """Run RQ's loop until a stop. Each job may take JOB_FOR, and a little more for its last batch."""

        def job(each: Callable[[Stop], None]) -> None:
            now = time.monotonic()
            self._job_until = now + JOB_HANGS
            try:
                each(lambda: bool(self._stops) or time.monotonic() - now > JOB_FOR)
            finally:
                self._job_until = 0.0

        say_working()
        wakeup_worker.serve(
            *(queue, self._settings.redis_url, self._owner),
            *(partial(job, work), partial(job, work_anyway), self._stops),
        )

    def _linger(self, stop: Stop) -> None:
        """The job of a sink with its own process: look for due deliveries until there have been none for a while."""
        found_at = time.monotonic()
        with suppress(LedgerUnavailable):  # the runner reports it; once a second there is another look
            while not stop() and time.monotonic() - found_at < _QUIET:
                if self._poke_due():
                    found_at = time.monotonic()
                time.sleep(_LINGER_LOOK)
            wakeups.finish(self._redis, wakeups.deliver_queue(self._work.sinks[0]), self._poke_due)

    def _give_signs(self, reader: int) -> None:
        """Give signs of life to the supervisor while no job hangs, and pass a stop on at once."""
        stopped = False
        while not self._ended.is_set():
            if (status := own_status()) is not None and time.monotonic() < (self._job_until or math.inf):
                status.pulse()
            if self._stops and not stopped:
                stopped = True
                for each in list(self._runners.values()):
                    each.stop()
                log.info("worker.stopping process=%s", self._name)
            if readable([reader], SIGN_EVERY):
                drain(reader)
                time.sleep(_SIGNAL)

    def _each_second(self) -> None:
        """Find work that no wake-up reported, and end a process that has too many hung sends."""
        self._redis_trouble = ""
        while not self._ended.wait(LOOK_EVERY):
            with suppress(LedgerUnavailable):
                if not self._stops:
                    self._poke_due()
            if self._work.dispatches and not self._stops:
                self._look_into_the_inbox()
            if not self._replace and any(each.worn_out for each in list(self._runners.values())):
                self._replace = True
                os.kill(os.getpid(), signal.SIGTERM)

    def _try_again(self) -> None:
        """Release what dead processes held, and build what could not be built. A constructor may hang here."""
        while not self._ended.wait(TRY_AGAIN):
            release_dead(self._settings.data, partial(release_owner, self._settings))
            self._build_runners()

    def _look_into_the_inbox(self) -> None:
        trouble = ""
        try:
            if self._look.xlen(STREAM):
                wakeups.wake(self._look, DISPATCH)
        except (redis.ConnectionError, redis.TimeoutError) as error:
            trouble = type(error).__name__
        except redis.RedisError:
            pass  # Redis is full, or something else wrote that key: the main thread sees it and reports it
        if trouble and not self._redis_trouble:
            log.warning("%s: Redis can't be used now (%s); trying again", self._name, trouble)
        if self._redis_trouble and not trouble:
            log.warning("%s: Redis is back", self._name)
        self._redis_trouble = trouble

    def _renew_claims(self) -> None:
        """Renew the claims on what the runners own. This thread does nothing else: what hangs must not delay it."""
        while not self._ended.wait(RENEW_EVERY):
            runners = list(self._runners.values())
            owned = [each for runner in runners for each in runner.owned()]
            at = time.monotonic()
            with suppress(LedgerUnavailable):
                renewed = set(self._ledger.write(partial(self._renew, owned)) if owned else ())
                for runner in runners:
                    runner.renewed(renewed, at)

    def _renew(self, owned: Collection[str], connection: Connection) -> list[str]:
        return claims.renew(connection, self._owner, owned, self._ledger.now() + CLAIM)

    def _flush_counters(self) -> None:
        """Flush the counters until the end, and once then: a Redis that hangs delays only this thread."""
        ended = False
        while not ended:
            ended = self._ended.wait(FLUSH_EVERY)
            for each in list(self._runners.values()):
                each.counter.flush()

    def _poke_due(self) -> bool:
        """Poke the runners whose sinks have something due. Return whether there are any."""
        names = [name for name in self._work.sinks if name in self._runners]
        now = self._ledger.now()
        due = self._ledger.read(lambda connection: claims.due_sinks(connection, names, now), transaction=False)
        self._poke(due)
        return bool(due)

    def _poke(self, sinks: Collection[str]) -> None:
        for sink in sinks:
            if sink in self._runners:
                self._runners[sink].poke()

    def _build_runners(self) -> None:
        """Build and start the runner of each sink that has none. One that can't be built stops no other."""
        for sink in self._work.sinks:
            if sink in self._runners or self._stops:
                continue
            try:
                built = runner.build(
                    *(self._settings, self._config, sink, self._owner, self._ledger, self._redis), on_due=self._poke
                )
            except Exception as error:  # noqa: BLE001 - of a sink's own code
                why = str(error) if isinstance(error, RunhookError) else error_location(error)
                if self._work.dispatches and self._not_built.get(sink) != why:
                    log.error("deliver.not_built sink=%s %s: tried again every %.0f s", sink, why, TRY_AGAIN)
                self._not_built[sink] = why
                continue
            if self._stops:  # those that are to end may be counted already
                built.close()
                return
            self._not_built.pop(sink, None)
            self._runners[sink] = built
            built.start()
            if self._work.dispatches:
                self._heartbeat.add(deliver(sink) + self._suffix, deliver(sink))


def release_owner(settings: Settings, owner: str) -> bool:
    """Release the claims and inbox entries of a dead process. Return False when that failed, as without Redis or the
    ledger, so that some may be left; they lapse later."""
    ledger = Ledger(settings.database_url)
    client = connect(settings.redis_url, timeout=1.0, connect_timeout=2.0, retries=0)
    released = 0
    try:
        while some := ledger.write(lambda connection: release_claims(connection, owner, ledger.now())):
            released += some
        entries = hand_back(client, owner)
    except Exception as error:  # noqa: BLE001 - what a dead process left must not keep this one from its work
        log.warning("worker.not_released owner=%s error=%s", owner, error_location(error))
        return False
    finally:
        ledger.close()
        client.close()
    if released or entries:
        log.info("worker.released owner=%s claims=%d entries=%d", owner, released, entries)
    return True
