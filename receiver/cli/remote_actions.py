"""Actions on many of a remote service: counted, asked for, and guarded by the count."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from receiver.api.actions.chosen import TakenResult
from receiver.api.endpoint import Endpoint
from receiver.api.operations import ENDPOINTS as OPERATIONS
from receiver.api.operations import OperationRow
from receiver.cli.client import Client, endpoint_called
from receiver.cli.listing import named_options
from receiver.cli.options import confirm
from receiver.cli.output import out
from receiver.cli.progress import ProgressLine
from receiver.errors import RunhookError

# Seconds between two looks at an operation.
_LOOK: Final = 0.5
_GET = endpoint_called("get_operation", OPERATIONS)


def act(
    client: Client,
    endpoint: Endpoint[Any, TakenResult],
    given: Mapping[str, Any],
    what: str,
    *,
    dry_run: bool = False,
    yes: bool = False,
    wait: bool = False,
    for_good: bool = True,
) -> None:
    """Call an action on what is chosen: with ids at once, with a filter once it was counted, with that count.

    `given`: its parameters; `what`: what it does to deliveries, such as "replay"; `for_good`: as of `confirm`. Raises
    RunhookError for nothing, and what the call raises.
    """
    asked = {name: value for name, value in given.items() if value not in ("", None, [], (), False)}
    with named_options(asked):
        parameters = endpoint.validated(asked)  # once: "2h ago" is the same moment in both calls
    if dry_run or not asked.get("ids"):
        counted = client.call(endpoint, parameters.model_copy(update={"dry_run": True}))
        if dry_run:
            out().print(f"{counted.count} deliveries to {what}")
            return
        if not counted.count:
            raise RunhookError(f"nothing to {what}: no delivery matches")
        confirm(counted.count, f"{what.capitalize()} {counted.count} deliveries?", yes=yes, for_good=for_good)
        parameters = parameters.model_copy(update={"expect": counted.count, "until": counted.until})
    operation = client.call(endpoint, parameters).operation
    assert operation is not None
    out().print(f"{operation.id}: {operation.total} deliveries to {what}")
    if wait:
        _watch(client, operation)


def _watch(client: Client, operation: OperationRow) -> None:
    """Show the progress of an operation until it has ended."""
    with ProgressLine(operation.id, operation.total, every=True) as progress:
        while True:
            progress.show(operation.done)
            if operation.state != "running":
                return
            time.sleep(_LOOK)
            operation = client.call(_GET, _GET.validated({"id": operation.id}))
