"""All calls of the API."""

from __future__ import annotations

from typing import Any, Final

from receiver.api import (
    account,
    ages,
    artifact_content,
    artifacts,
    audit,
    deliveries,
    events,
    examination,
    explain,
    incidents,
    keys,
    lists,
    missing,
    operations,
    quarantine,
    routes,
    runs,
    sinks,
    status,
    submissions,
    tail,
    totals,
    trial,
    views,
)
from receiver.api.actions import agents as agent_actions
from receiver.api.actions import deliveries as delivery_actions
from receiver.api.actions import keys as key_actions
from receiver.api.actions import moves, reroutes
from receiver.api.actions import operations as operation_actions
from receiver.api.actions import quarantine as quarantine_actions
from receiver.api.actions import sinks as sink_actions
from receiver.api.endpoint import Endpoint

ENDPOINTS: Final[tuple[Endpoint[Any, Any], ...]] = (
    *runs.ENDPOINTS,
    *lists.ENDPOINTS,
    *submissions.ENDPOINTS,
    *deliveries.ENDPOINTS,
    *events.ENDPOINTS,
    *missing.ENDPOINTS,
    *incidents.ENDPOINTS,
    *account.ENDPOINTS,
    *artifacts.ENDPOINTS,
    *artifact_content.ENDPOINTS,
    *tail.ENDPOINTS,
    *status.ENDPOINTS,
    *examination.ENDPOINTS,
    *operations.ENDPOINTS,
    *audit.ENDPOINTS,
    *sinks.ENDPOINTS,
    *routes.ENDPOINTS,
    *keys.ENDPOINTS,
    *quarantine.ENDPOINTS,
    *explain.ENDPOINTS,
    *trial.ENDPOINTS,
    *totals.ENDPOINTS,
    *views.ENDPOINTS,
    *ages.ENDPOINTS,
    *delivery_actions.ENDPOINTS,
    *operation_actions.ENDPOINTS,
    *sink_actions.ENDPOINTS,
    *moves.ENDPOINTS,
    *reroutes.ENDPOINTS,
    *key_actions.ENDPOINTS,
    *agent_actions.ENDPOINTS,
    *quarantine_actions.ENDPOINTS,
)
