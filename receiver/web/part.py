"""What a part of the web application is: its routes, and what it opens and closes with the application."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry
from starlette.routing import BaseRoute

from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.ingest.group_commit import GroupCommit
from receiver.telemetry.receiver import ReceiverMetrics


@dataclass(frozen=True, slots=True)
class Context:
    """What the application lends to its parts."""

    settings: Settings
    config: Config
    group_commit: GroupCommit
    metrics: ReceiverMetrics
    registry: CollectorRegistry


@dataclass(frozen=True, slots=True)
class WebPart:
    """`routes` of one entrance. `lifespan`: opened at start-up, closed at shutdown. `stop`: called when a stop begins,
    while requests are still being answered: whatever is held must now come to its end."""

    routes: Sequence[BaseRoute] = ()
    lifespan: Callable[[], AbstractAsyncContextManager[Any]] | None = None
    stop: Callable[[], None] = lambda: None
