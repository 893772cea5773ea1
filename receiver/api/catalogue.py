"""All calls of the API."""

from __future__ import annotations

from typing import Any, Final

from receiver.api import runs, status
from receiver.api.endpoint import Endpoint

ENDPOINTS: Final[tuple[Endpoint[Any, Any], ...]] = (*runs.ENDPOINTS, *status.ENDPOINTS)
