"""All calls of the API: the endpoints of the modules that are listed here, in their order."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

from receiver.api.endpoint import Endpoint

_MODULES: Final = """
    runs events deliveries erasure submissions incidents account artifacts artifact_content tail status operations
    audit sinks sink_samples routes keys quarantine totals reroutes
"""
ENDPOINTS: Final[tuple[Endpoint[Any, Any], ...]] = tuple(
    each
    for name in _MODULES.split()
    for each in vars(import_module(f"receiver.api.{name}")).values()
    if isinstance(each, Endpoint)
)
