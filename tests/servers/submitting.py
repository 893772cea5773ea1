"""A receiver with both APIs, JSON and submit, in front of a simulated Skyvern, in threads of the test's own process.

submitting   makes one: submitting(sim) → .url, .key("submit", …), .ledger; its webhooks reach the ledger by themselves;
             with polling=True a clock's polls are made too
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa

from receiver.api.http import api
from receiver.api.tail_stream import TailStreams
from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.console.http import console
from receiver.console.sign_in import PER_NETWORK
from receiver.delivery import runner
from receiver.dispatch import dispatcher
from receiver.dispatch.dispatcher import Dispatcher
from receiver.domain import api_key
from receiver.domain.callback import CALLBACK
from receiver.ledger import Ledger
from receiver.ledger.access import api_keys
from receiver.ledger.access.api_keys import Key
from receiver.ledger.schema import submissions
from receiver.reconcile import poller
from receiver.reconcile.poller import Reconciler
from receiver.runtime import redis_client
from receiver.submit.api import submit
from receiver.submit.limits import LIMITS, SubmitLimits
from receiver.web.app import HELD_BYTES, create_app
from receiver.web.component import Context, WebComponent
from receiver.web.health import health
from simulator.server import Serving
from tests.servers.skyvern import KEY
from tests.servers.valkey import free_port
from tests.support.ledger import with_tables
from tests.support.waiting import PATIENCE

# A thread that streams events lets its connection go only when something comes.
QUICK = partial(TailStreams, interval=0.05, keep_alive=0.3)
MASTER = "a-master-secret-of-the-tests"


class Submitting:
    """`url`: where it listens; `ledger`: to look at; `client`: one with a key that may do everything. `held`: how many
    requests wait for a run's end."""

    def __init__(self, url: str, settings: Settings, ledger: Ledger, serving: Serving, held: Callable[[], int]) -> None:
        self.url = url
        self.held = held
        self.serving = serving
        self.settings = settings
        self.ledger = ledger
        self.whole_key = self.key(*api_key.SCOPES)
        self.client = httpx2.Client(
            base_url=url, headers={"x-api-key": self.whole_key}, trust_env=False, timeout=PATIENCE
        )

    def key(self, *scopes: str, rate: str | None = None, source: str = "skyvern") -> str:
        """A new key with these scopes."""
        key_id = os.urandom(6).hex()
        whole = api_key.derive(MASTER, key_id)
        row = Key(
            key_id, "app", api_key.digest(whole), api_key.hint(whole), frozenset(scopes), source, rate, time.time()
        )
        self.ledger.write(lambda connection: api_keys.create(connection, row))
        return whole

    def rows(self) -> list[dict[str, Any]]:
        """All submissions, the oldest first."""
        query = sa.select(submissions).order_by(submissions.c.created_at)
        return self.ledger.read(lambda connection: [dict(row._mapping) for row in connection.execute(query)])

    def task(self, prompt: str = "p", headers: dict[str, str] | None = None, **fields: Any) -> httpx2.Response:
        """Submit a task."""
        return self.client.post("/v1/run/tasks", json={"prompt": prompt, "title": prompt, **fields}, headers=headers)


Make = Callable[..., Submitting]


@pytest.fixture
def submitting(redis_url: str, tmp_path: Path, stopping_simulators: list[Serving]) -> Iterator[Make]:
    with ExitStack() as stack:

        def make(
            base: str,
            *,
            database_url: str = "",
            redis: str = "",
            dispatching: bool = True,
            delivering: bool = False,
            polling: bool = False,
            console_password: str = "",
            console_token: str = "",
            sign_ins: tuple[float, float] = PER_NETWORK,
            limits: SubmitLimits = LIMITS,
            ledger_wait: float = PATIENCE / 4,  # a busy machine is no ledger that hangs
            held_bytes: int = HELD_BYTES,
            components: Sequence[Callable[[Context], WebComponent]] = (),
            **config: Any,
        ) -> Any:
            port = free_port()
            url = f"http://127.0.0.1:{port}"
            public = config.pop("public_url", url)
            environ = {"REDIS_URL": redis or redis_url, "RUNHOOK_DATA": str(tmp_path), "RUNHOOK_SECRET": MASTER}
            environ |= {"RUNHOOK_CONSOLE_PASSWORD": console_password, "RUNHOOK_CONSOLE_TOKEN": console_token}
            settings = Settings.from_env({**environ, "DATABASE_URL": database_url, "PUBLIC_URL": public})
            source = {"secrets": ["other"], "api_base": base, "api_key": KEY}
            loaded = Config.model_validate({"sources": {"skyvern": source}, "spool": {"reserve_bytes": 0}, **config})
            ledger = with_tables(Ledger(settings.database_url))
            stack.callback(ledger.close)
            app = create_app(
                settings,
                loaded,
                [
                    *components,
                    health,
                    partial(api, tail=QUICK),
                    partial(console, per_network=sign_ins),
                    partial(submit, limits=limits),
                ],
                ledger_wait=ledger_wait,
                held_bytes=held_bytes,
            )
            serving = Serving(app, port=port).__enter__()
            stopping_simulators.append(serving)
            stack.callback(serving.stop)
            if dispatching:
                stack.callback(_working(dispatcher.build(settings, loaded, "test", Ledger(settings.database_url))))
            if delivering:
                stack.callback(_delivering(settings, loaded))
            if polling:
                stack.callback(_ticking(poller.build(settings, loaded)))
            rig = Submitting(url, settings, ledger, serving, lambda: app.metrics.held())
            stack.enter_context(rig.client)
            return rig

        yield make


def _in_thread(work: Callable[[threading.Event], object], *closing: Callable[[], object]) -> Callable[[], None]:
    """Work in a thread until the event is set; return what sets it and closes what was used."""
    ended = threading.Event()
    thread = threading.Thread(target=work, args=[ended])
    thread.start()

    def end() -> None:
        ended.set()
        thread.join(120)
        for close in closing:
            close()

    return end


def _ticking(reconciler: Reconciler) -> Callable[[], None]:
    """Poll as the clock would."""

    def work(ended: threading.Event) -> None:
        while not ended.wait(0.1):
            reconciler.tick()

    return _in_thread(work, reconciler.close)


def _delivering(settings: Settings, config: Config) -> Callable[[], None]:
    """Deliver callers' webhooks as a worker would."""
    ledger = Ledger(settings.database_url)
    connection = redis_client.connect(settings.redis_url, timeout=5.0, connect_timeout=2.0, retries=1)
    sink = runner.build(settings, config, CALLBACK, "test", ledger, connection)
    sink.start()

    def work(ended: threading.Event) -> None:
        while not ended.wait(0.1):
            sink.poke()

    stop = (sink.stop, lambda: sink.join(time.monotonic() + 120))
    return _in_thread(work, *stop, sink.close, ledger.close, connection.close)


def _working(worker: Dispatcher) -> Callable[[], None]:
    """Dispatch as the worker would."""

    def work(ended: threading.Event) -> None:
        while not ended.is_set():
            worker.run(ended.is_set)

    return _in_thread(work, worker.close)
