"""What is kept of a request that is submitted."""

from __future__ import annotations

import json
from typing import Any

import pytest

from receiver.domain.redaction import Redactor
from receiver.domain.run import MAX_DEPTH
from receiver.submit.request.endpoints import ENDPOINTS, SubmitCall
from receiver.submit.request.kept import kept_request


def kept(levels: int) -> dict[str, Any] | None:
    """What is kept of a task whose schema has so many levels."""
    schema = json.loads('{"a":' * levels + "1" + "}" * levels)
    fields = {"prompt": "p", "data_extraction_schema": schema}
    body = json.dumps(fields).encode()
    call = SubmitCall(ENDPOINTS[0], "/v1/run/tasks", "", body, {})
    return kept_request(call, fields, Redactor(["**.password", "*.a.*.z"]))


@pytest.mark.parametrize("levels", [1, MAX_DEPTH - 2])
def test_a_request_is_kept_that_a_body_can_hold(levels: int) -> None:
    assert (kept(levels) or {})["prompt"] == "p"


@pytest.mark.parametrize("levels", [MAX_DEPTH - 1, 700, 900])
def test_too_deeply_nested_request_is_not_kept(levels: int) -> None:
    assert kept(levels) is None
