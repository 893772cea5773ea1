"""What a module adds to the web application: routes, and what it opens and closes with the application."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.ingest.group_commit import GroupCommit
from receiver.runtime.background import Background
from receiver.runtime.held_bodies import HeldBodies
from receiver.telemetry.receiver import ReceiverMetrics
from receiver.web.access import OperatorAccess

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

# The part of the ASGI scope that aborts the connection, for an answer that must not go on; only our own server has it.
ABORT: Final = "runhook.abort"
# Served on each port.
HEALTH: Final = ("/healthz", "/readyz")


class Context(NamedTuple):
    """What the application shares with its parts."""

    settings: Settings
    config: Config
    group_commit: GroupCommit
    metrics: ReceiverMetrics
    bodies: HeldBodies
    background: Background
    access: OperatorAccess


class WebPart(NamedTuple):
    """`routes`, what they need, and how they stop. `lifespan`: entered at start-up, left at shutdown.

    `admin`: routes for operators. Where there is an admin port they are there alone.

    `stop`: called when the server begins to stop, before it waits for requests: those that are held must end now.
    """

    routes: Sequence[BaseRoute] = ()
    lifespan: Callable[[], AbstractAsyncContextManager[Any]] | None = None
    stop: Callable[[], None] = lambda: None
    admin: Sequence[BaseRoute] = ()
