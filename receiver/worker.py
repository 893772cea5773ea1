"""`runhook worker`: processes for dispatch, for the sinks that share one, and for each other sink, kept alive by a
supervisor.

The supervisor imports everything and opens nothing, so a child costs a fork; a child builds its body, and thereby its
connections, for itself. What a dead child held is released by the one that takes its place, before its first job; what
a whole worker held that is gone, by the next one that starts, or by the clock.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from secrets import token_hex
from typing import Final

from redis.exceptions import RedisError

from handlers import registry
from receiver.config.loader import file_hash
from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.domain.callback import CALLBACK
from receiver.domain.trouble import redis_todo
from receiver.errors import NotStarted, UsageError
from receiver.ledger import Ledger, LedgerUnavailable
from receiver.ledger.deliveries import orphans
from receiver.ledger.migrate import ensure_schema
from receiver.reaper import reap, reap_all, release
from receiver.runtime import liveness
from receiver.runtime.child import REPLACE, ChildContext, ChildMain
from receiver.runtime.handover import Handover
from receiver.runtime.liveness import LivenessLock
from receiver.runtime.process import raise_file_limit
from receiver.runtime.redis_client import check_url, connect, no_entry, unusable
from receiver.runtime.set_apart import SetApart
from receiver.runtime.shared_process import run_shared_process
from receiver.runtime.supervisor import Supervisor, in_child
from receiver.runtime.working_flag import say_working
from receiver.status.heartbeat import Heartbeat
from receiver.wakeups import DISPATCH, TIME_SLICE, JobBody, deliver_queue
from receiver.wakeups.rq_worker import Stop, run_worker
from receiver.wakeups.shared_wait import SharedWait

log = logging.getLogger("runhook.worker")

# Seconds that Redis and the ledger have to answer when the worker starts.
PATIENCE: Final = 120.0


# By queue: builds the body of its jobs, for a worker process of the name given to it.
Bodies = dict[str, Callable[[str], JobBody]]


def bodies(settings: Settings, config: Config) -> Bodies:
    """Return the body of each queue. No server is opened before one of them is built, in the child.

    What the bodies are made of is imported here, before the fork, so that the children share it.
    """
    from handlers.mirror import mirror  # noqa: F401 - sinks import it when they first send, the next when they are built
    from handlers.support import template_sandbox  # noqa: F401
    from receiver.delivery import deliverer
    from receiver.dispatch import dispatcher

    handovers = {sink: Handover() for sink in config.destinations}
    built: Bodies = {DISPATCH: partial(dispatcher.build, settings, config, handovers=handovers)}
    for sink, handover in handovers.items():
        built[deliver_queue(sink)] = partial(deliverer.build, settings, config, sink, handover=handover)
    return built


def sharing(config: Config) -> set[str]:
    """Return the queues of the sinks that share a process until one does harm."""
    return {deliver_queue(sink) for sink in config.destinations if _shares(config, sink)}


def _shares(config: Config, sink: str) -> bool:
    worker = config.callbacks.worker if sink == CALLBACK else config.sinks[sink].worker
    if worker == "auto":
        # What the class says itself: what it inherits says nothing of its own code.
        return sink == CALLBACK or vars(registry.sink_type(config.sinks[sink].type)).get("shares_worker", False)
    return worker == "shared"


def choose_queues(queues: Iterable[str], only: Sequence[str], dispatchers: int) -> dict[str, str]:
    """Return the queue of each child, by its label. `only`: "dispatch", names of sinks or of queues; all when empty.

    Raises UsageError for a name that is not in the config.
    """
    queues = list(queues)
    wanted = []
    for name in only or queues:
        queue = name if name in queues else deliver_queue(name)
        if queue not in queues:
            known = ", ".join(each.removeprefix("deliver:") for each in queues)
            raise UsageError(f"--only {name}: no such sink in the config; there are {known}")
        wanted.append(queue)
    labels = {queue: queue for queue in dict.fromkeys(wanted)}
    if DISPATCH in labels:
        labels.update({f"{DISPATCH}-{number}": DISPATCH for number in range(2, dispatchers + 1)})
    return labels


def serve(queue: str, build: Callable[[str], JobBody], settings: Settings, context: ChildContext) -> int:
    """Run the jobs of `queue` in this process until SIGTERM. Return the exit code.

    Raises RunhookError when its body can't be built.
    """
    details = {"apart": context.apart} if context.apart else {}
    heartbeat = Heartbeat(settings, queue, file_hash(settings.config), name=context.name, details=lambda: details)
    heartbeat.start()
    code = _serve(queue, build, settings, context)
    heartbeat.stop()
    return code


def serve_together(
    queues: Mapping[str, str],
    built: Bodies,
    settings: Settings,
    contexts: Mapping[str, ChildContext],
) -> int:
    """Run the jobs of several queues in this process until SIGTERM. Return the exit code.

    `queues`: by label, of which `contexts` has those that are meant.
    """
    (first, part), *more = [(context.name, queues[label]) for label, context in contexts.items()]
    heartbeat = Heartbeat(settings, part, file_hash(settings.config), name=first, more=dict(more))
    heartbeat.start()
    shared = SharedWait(settings.redis_url, first)
    mains = {label: partial(_serve, queues[label], built[queues[label]], settings, shared=shared) for label in contexts}
    code = run_shared_process(mains, contexts)
    heartbeat.stop()
    return code


def _serve(
    queue: str,
    build: Callable[[str], JobBody],
    settings: Settings,
    context: ChildContext,
    shared: SharedWait | None = None,
) -> int:
    """Release what its predecessors held, then run the jobs of `queue` until a stop. Return the exit code.

    `shared`: in which it waits for jobs, with others of this process.
    """
    stop = Stop(TIME_SLICE)
    context.on_stop(stop.ask)
    for name in context.predecessors:
        if release(settings, queue, name):
            liveness.forget(settings.data, name)
    _lock_as_alive(settings, context.name, queue)
    body = build(context.name)
    if not context.alone:
        body.share(partial(setattr, context.status, "sends"))
    worn_out = run_worker(
        queue,
        body,
        settings.redis_url,
        context.name,
        stop=stop,
        predecessors=context.predecessors,
        on_job=context.on_job,
        on_ready=partial(setattr, context.status, "ready", True),
        alarm=context.alone,
        shared=shared,
    )
    if worn_out:
        context.status.trouble = "a send of it was left behind"
    body.close()
    return REPLACE if worn_out else 0


def _lock_as_alive(settings: Settings, name: str, queue: str) -> None:
    """Make this process's death visible at once. Where that can't be, its claims lapse by time.

    The file stays behind even after an orderly end: a stop while the ledger is away leaves claims as well.
    """
    with suppress(OSError):
        LivenessLock(settings.data, name, queue)


def prepare(settings: Settings, config: Config, patience: float) -> None:
    """Wait as `check`, then release what earlier workers held, and warn of deliveries to sinks that are gone.

    Call it before the first child starts.
    """
    check(settings, config, patience)
    try:
        LivenessLock(settings.data, f"check.{token_hex(4)}", DISPATCH).end()
    except OSError as error:
        log.warning(
            "can't write in %s (%s): what a killed worker has claimed is taken up again 15 s later, not at once",
            settings.data,
            error.strerror,
        )
    reap_all(settings)
    _warn_of_orphans(settings, config.destinations)


def _warn_of_orphans(settings: Settings, sinks: Sequence[str]) -> None:
    ledger = Ledger(settings.database_url)
    try:
        for sentence in orphans.in_words(ledger.read(lambda connection: orphans.count(connection, sinks))):
            log.warning("worker.orphaned %s", sentence)
    except LedgerUnavailable:
        pass  # it was there a moment ago; who needs it says so
    finally:
        ledger.close()


def check(settings: Settings, config: Config, patience: float) -> None:
    """Wait until Redis and the ledger can be used, at most `patience` seconds; one line says so. Raises NotStarted."""
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
        if barred := no_entry(settings.redis_url, error):
            raise NotStarted(barred) from None
        return unusable(settings.redis_url, error, redis_todo(embedded=settings.embedded_redis))
    except NotStarted as error:
        if not isinstance(error.__context__, LedgerUnavailable):
            raise
        return str(error)
    finally:
        client.close()
        ledger.close()
    return ""


def run(
    settings: Settings,
    config: Config,
    *,
    only: Sequence[str] = (),
    dispatchers: int = 1,
    stop_timeout: float = 20.0,
    patience: float = PATIENCE,
    build: Callable[[Settings, Config], Bodies] = bodies,
) -> int:
    """Run the worker until it is asked to stop. Return the exit code: 0 when all ended in time.

    `patience`: see `check`. Raises UsageError, ConfigError for a wrong DATABASE_URL, and NotStarted when Redis or the
    ledger can't be used at the start.
    """
    Ledger(settings.database_url).close()  # raises what a person wrote wrong; opens nothing
    check_url(settings.redis_url)
    raise_file_limit()  # each send may be an open socket
    built = build(settings, config)
    queues = choose_queues(built, only, dispatchers)
    trouble = in_child(lambda: prepare(settings, config, patience))
    if trouble:
        raise NotStarted(trouble)
    children: dict[str, ChildMain] = {
        label: partial(serve, queue, built[queue], settings) for label, queue in queues.items()
    }

    def reap_killed(label: str, name: str) -> None:
        reap(settings, queues[label], name)

    log.info("worker.started queues=%s", ",".join(queues))
    supervisor = Supervisor(
        children,
        stop_timeout=stop_timeout,
        reap=reap_killed,
        sharing=[label for label, queue in queues.items() if queue in sharing(config)],
        together=partial(serve_together, queues, built, settings),
        set_apart=SetApart(settings.data / "workers" / ".apart.json"),
        on_working=say_working,
    )
    code = supervisor.run()
    log.info("worker.stopped code=%d", code)
    return code
