"""`runhook worker`: one process for dispatch and all sinks that share it, and one for each sink that has its own.

A supervisor forks them and starts them again. It imports everything and opens nothing, so a process costs a fork; each
opens its connections for itself. What a dead process held is released by the one that takes its place, in this worker
or in another one with the same data directory.
"""

from __future__ import annotations

import logging
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from secrets import token_hex
from typing import Final

from redis.exceptions import RedisError

from handlers import registry
from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.domain.callback import CALLBACK
from receiver.domain.liveness import DISPATCH, deliver, sink_of
from receiver.domain.time_limits import LAST_STEPS
from receiver.domain.trouble import redis_todo
from receiver.errors import NotStarted, UsageError
from receiver.ledger import Ledger, LedgerUnavailable, stats
from receiver.ledger.migrate import LedgerAway, ensure_schema
from receiver.runtime.child import in_child, report_ready
from receiver.runtime.process import raise_file_limit
from receiver.runtime.redis_client import auth_error, check_url, connect, unusable
from receiver.runtime.reload import Reload
from receiver.runtime.supervisor import Program, Supervisor, program
from receiver.worker_process import Work, WorkerProcess, take_place

log = logging.getLogger("runhook.worker")

# Maximum seconds to wait for Redis and the ledger when the worker starts.
PATIENCE: Final = 120.0
# Name of the process for dispatch and the sinks that share it.
MAIN: Final = "main"
# Unexplained ends of that process, and the seconds they fall within, after which each of its sinks gets its own.
_DEATHS: Final = 3
_WITHIN: Final = 600.0


def plan(config: Config, only: Sequence[str] = ()) -> dict[str, Work]:
    """Return the work of each process by name. `only`: "dispatch" and names of sinks; empty for all.

    Raises UsageError for a name that is not in the config.
    """
    known = [DISPATCH, *map(deliver, config.destinations)]
    roles = [name if name in known else deliver(name) for name in only] or known
    if unknown := [sink_of(role) for role in roles if role not in known]:
        names = ", ".join([DISPATCH, *config.destinations])
        raise UsageError(f"--only {unknown[0]}: no such sink in the config; there are {names}")
    sinks = [sink_of(role) for role in dict.fromkeys(roles) if role != DISPATCH]
    dispatches = DISPATCH in roles
    shared = [sink for sink in sinks if dispatches and _shares(config, sink)]
    works = {MAIN: Work(tuple(shared), dispatches=True)} if dispatches else {}
    works.update({deliver(sink): Work((sink,)) for sink in sinks if sink not in shared})
    return works


def _shares(config: Config, sink: str) -> bool:
    worker = config.callbacks.worker if sink == CALLBACK else config.sinks[sink].worker
    if worker == "auto":
        # What the class itself declares: an inherited value says nothing about its own code.
        return sink == CALLBACK or vars(registry.sink_type(config.sinks[sink].type)).get("shares_worker", False)
    return worker == "shared"


def check(settings: Settings, config: Config, patience: float) -> None:
    """Wait until Redis and the ledger can be used, at most `patience` seconds, and log that. Raises NotStarted."""
    until = time.monotonic() + patience
    logged = ""
    while trouble := _trouble(settings, config):
        if time.monotonic() >= until:
            raise NotStarted(trouble)
        if trouble != logged:
            log.warning("%s; waiting for it, at most %.0f s", trouble, until - time.monotonic())
        logged = trouble
        time.sleep(0.5)


def _trouble(settings: Settings, config: Config) -> str:
    """Return why Redis or the ledger can't be used now, or "". Raises NotStarted for what waiting does not fix."""
    client = connect(settings.redis_url, timeout=2.0, connect_timeout=2.0, retries=0)
    ledger = Ledger(settings.database_url, require_durability=config.durable_ledger)
    try:
        client.ping()
        ensure_schema(ledger)
    except RedisError as error:
        if barred := auth_error(settings.redis_url, error):
            raise NotStarted(barred) from None
        return unusable(settings.redis_url, error, redis_todo(embedded=settings.embedded_redis))
    except LedgerAway as error:
        return str(error)
    finally:
        client.close()
        ledger.close()
    return ""


def prepare(settings: Settings, config: Config, patience: float) -> None:
    """Wait as `check`, then warn of deliveries to sinks that are not in the config."""
    check(settings, config, patience)
    ledger = Ledger(settings.database_url)
    try:
        for sink, states in stats.orphaned(ledger.read(stats.counts), config.destinations).items():
            log.warning(
                "worker.orphaned removed sink %s has pending deliveries: %s; `runhook sink move %s NAME` moves them to "
                "another sink, `runhook cancel --sink %s` cancels them",
                *(sink, ", ".join(f"{count} {state}" for state, count in states.items()), sink, sink),
            )
    except LedgerUnavailable:
        pass  # it was there a moment ago; what needs it reports it
    finally:
        ledger.close()


def preload(config: Config) -> None:
    """Import what the processes need, before the fork, so that they share it."""
    from handlers.mirror import transfer  # noqa: F401 - sinks import these when they are built, or first send
    from handlers.support import template_sandbox  # noqa: F401
    from receiver.wakeups import worker  # noqa: F401

    for sink in config.sinks.values():
        registry.sink_type(sink.type)


class _Split:
    """Gives each sink and dispatch its own process after repeated unexplained ends of the one that they share."""

    def __init__(self, make: Callable[[str, Work], Program]) -> None:
        self._make = make
        self._deaths: deque[float] = deque(maxlen=_DEATHS)

    def __call__(self, ended: Program, reason: str, work: Work) -> list[Program]:
        """Return the programs that take the place of `ended`."""
        now = time.monotonic()
        if ended.status is not None and ended.status.working:
            self._deaths.append(now)
        if not work.sinks or len(self._deaths) < _DEATHS or now - self._deaths[0] > _WITHIN:
            return [ended]
        why = f"the process that they shared ended {_DEATHS} times within {_WITHIN / 60:.0f} minutes: {reason}"
        log.error("worker.split dispatch and each sink get their own process until the worker restarts: %s", why)
        roles = {deliver(sink): replace(work, sinks=(sink,), dispatches=False, apart=why) for sink in work.sinks}
        return [
            self._make(name, each) for name, each in {DISPATCH: replace(work, sinks=(), apart=why), **roles}.items()
        ]


def run(
    settings: Settings,
    config: Config,
    *,
    only: Sequence[str] = (),
    stop_timeout: float = 20.0,
    patience: float = PATIENCE,
    reload: Reload | None = None,
) -> int:
    """Run the worker until a stop or a reload. Return the exit code: 0 when all processes ended in time.

    `patience`: see `check`. `reload`: see Supervisor. Raises UsageError, ConfigError for a wrong DATABASE_URL, and
    NotStarted when Redis or the ledger can't be used at the start.
    """
    Ledger(settings.database_url).close()  # raises what a person wrote wrong; opens nothing
    check_url(settings.redis_url)
    raise_file_limit()  # each send may be an open socket
    limits = " ".join(f"--only {name}" for name in only)
    works = {name: replace(work, only=limits) for name, work in plan(config, only).items()}
    preload(config)
    if trouble := in_child(lambda: prepare(settings, config, patience)):
        raise NotStarted(trouble)

    place = f"{socket.gethostname()}.{token_hex(4)}"
    before = take_place(settings.data, place)

    def make(name: str, work: Work) -> Program:
        dead = [f"{each}@{it}" for it in (place, *before) for each in {name, MAIN if work.apart else name}]
        stop_within = max(0.0, stop_timeout - LAST_STEPS)
        process = partial(WorkerProcess, settings, config, f"{name}@{place}", work, stop_within, dead)
        return program(name, lambda: process().run(), stop_timeout, piped=False)

    split = _Split(make)
    log.info("worker.started processes=%s", ",".join(works))
    served = {sink for work in works.values() for sink in work.sinks}
    if left := [sink for sink in config.destinations if sink not in served]:
        log.warning("worker.limited not_served=%s", ",".join(left))
    supervisor = Supervisor(
        [make(name, work) for name, work in works.items()],
        lambda name, text: log.error("%s: %s", name, text),
        on_death=lambda ended, why: split(ended, why, works[MAIN]) if ended.name == MAIN else [ended],
        reload=reload,
    )
    code = supervisor.run(on_ready=report_ready)
    log.info("worker.stopped code=%d", code)
    return code
