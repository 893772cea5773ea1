"""All calls of the API: the endpoints of the modules that are listed here, in their order."""

from __future__ import annotations

from types import ModuleType
from typing import Any, Final

from receiver.api import (
    account,
    artifact_content,
    artifacts,
    audit,
    deliveries,
    erasure,
    events,
    incidents,
    keys,
    operations,
    quarantine,
    reroutes,
    routes,
    runs,
    sink_moves,
    sink_samples,
    sinks,
    status,
    submissions,
    tail,
    totals,
    trial,
    views,
)
from receiver.api.endpoint import Endpoint

_MODULES: Final[tuple[ModuleType, ...]] = (
    runs,
    events,
    deliveries,
    erasure,
    submissions,
    incidents,
    account,
    artifacts,
    artifact_content,
    tail,
    status,
    operations,
    audit,
    sinks,
    sink_samples,
    sink_moves,
    routes,
    keys,
    quarantine,
    trial,
    totals,
    views,
    reroutes,
)
ENDPOINTS: Final[tuple[Endpoint[Any, Any], ...]] = tuple(
    each for module in _MODULES for each in vars(module).values() if isinstance(each, Endpoint)
)
