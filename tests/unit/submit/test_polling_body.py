"""The answer to a GET of a run, made of its result in the ledger."""

from __future__ import annotations

import json

import pytest

from receiver.ledger.runs import RunResult, RunStatus
from receiver.submit.polling_body import polling_body


@pytest.mark.parametrize("name", ["\\u0000", "\\ud800"])
def test_member_whose_name_can_not_be_stored_is_shown(name: str) -> None:
    facts = '"run_type":"workflow_run","status":"completed","created_at":"2026-01-01T00:00:00"'
    body = f'{{"run_id":"wr_1",{facts},"modified_at":"2026-01-01T00:00:00","a{name}":[1]}}'.encode()
    status = RunStatus("skyvern", "wr_1", "workflow_run", "completed", "completed", 1, True, "evt_1", "")

    text, said = polling_body(RunResult(status, body, 1.0), body, "", {})

    assert said == "completed"
    assert json.loads(text)["a\ufffd"] == [1]
