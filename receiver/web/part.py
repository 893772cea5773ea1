"""What a module adds to the web application: routes, and what it opens and closes with the application."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Final

from prometheus_client import CollectorRegistry
from starlette.routing import BaseRoute

from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.ingest.group_commit import GroupCommit
from receiver.runtime.background import Background
from receiver.runtime.held_bodies import HeldBodies
from receiver.telemetry.receiver import ReceiverMetrics

# The part of the ASGI scope that aborts the connection, for an answer that must not go on; only our own server has it.
ABORT: Final = "runhook.abort"


@dataclass(frozen=True, slots=True)
class Context:
    """What the application shares with its parts."""

    settings: Settings
    config: Config
    group_commit: GroupCommit
    metrics: ReceiverMetrics
    registry: CollectorRegistry
    bodies: HeldBodies
    background: Background


@dataclass(frozen=True, slots=True)
class WebPart:
    """`routes`, what they need, and how they stop. `lifespan`: entered at start-up, left at shutdown.

    `stop`: called when the server begins to stop, before it waits for requests: those that are held must end now.
    """

    routes: Sequence[BaseRoute] = ()
    lifespan: Callable[[], AbstractAsyncContextManager[Any]] | None = None
    stop: Callable[[], None] = lambda: None
