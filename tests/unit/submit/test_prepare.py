"""Which requests count as the same."""

from __future__ import annotations

from typing import Any

import pytest

from receiver.domain.redaction import Redactor
from receiver.ledger.api_keys import Key
from receiver.submit.request.endpoints import ENDPOINTS, SubmitCall
from receiver.submit.request.prepare import prepare
from receiver.submit.request.source import Source

NO_API: Any = None
KEY = Key("k1", "app", "", "", frozenset({"submit"}), "skyvern", None, 1.0)


def request_hash(**headers: str) -> str:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    source = Source("skyvern", NO_API, "https://us.example/webhooks/skyvern")
    call = SubmitCall(ENDPOINTS[0], ENDPOINTS[0].path, "", b'{"prompt":"p"}', named)
    return prepare(source, KEY, call, Redactor([])).new.request_hash


@pytest.mark.parametrize(
    "headers",
    [
        {"content_type": "application/json"},
        {"content_type": "Application/JSON; charset=utf-8"},
        {"accept": "*/*", "accept_language": "de", "x_request_id": "1", "user_agent": "x", "x_odd": "1"},
    ],
)
def test_headers_that_change_nothing_make_no_other_request(headers: dict[str, str]) -> None:
    assert request_hash(**headers) == request_hash()


@pytest.mark.parametrize(
    "headers",
    [
        {"content_type": "text/plain"},
        {"x_user_agent": "skyvern-ui"},
        {"x_max_steps_override": "5"},
        {"x_max_iterations_override": "5"},
        {"x_runhook_labels": "a=b"},
    ],
)
def test_relevant_header_makes_another_request(headers: dict[str, str]) -> None:
    assert request_hash(**headers) != request_hash()
