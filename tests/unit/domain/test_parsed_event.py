"""What follows from a body's members is masked by its own name as well, however few names are in the body itself."""

import json
from typing import Any

import pytest

from receiver.domain.event import Event
from receiver.domain.parsed_event import complete, completion_of_text, completion_text, parse_event
from receiver.domain.redaction import MASK, Redactor
from receiver.domain.shape import completed, completion_of

TASK = {"run_id": "tsk_1", "run_type": "task_v1", "status": "completed", "output": {"pin": "s3cret", "n": 1}}


def members(path: str, **more: Any) -> dict[str, Any]:
    body = json.dumps({**TASK, **more}, separators=(",", ":")).encode()
    return parse_event(Event("evt_1", "skyvern", body, 0.0), Redactor([path])).run.data


@pytest.mark.parametrize("path", ["extracted_information", "**.extracted_information", "**.**.extracted_information"])
def test_derived_member_is_masked_by_its_name(path: str) -> None:
    data = members(path)

    assert data["extracted_information"] == {"pin": MASK, "n": MASK}
    assert data["output"] == TASK["output"], "a path that names one names not the other"


def test_path_into_a_derived_member_is_masked() -> None:
    data = members("extracted_information.pin")

    assert data["extracted_information"] == {"pin": MASK, "n": 1}


def test_a_name_in_the_body_is_masked_wherever_it_is_found_again() -> None:
    data = members("**.pin")

    assert data["output"] == data["extracted_information"] == {"pin": MASK, "n": 1}


def test_details_are_masked_like_the_body() -> None:
    body = json.dumps(TASK).encode()
    details = {"failure_category": [{"token": "s3cret"}]}

    parsed = parse_event(Event("evt_1", "skyvern", body, 0.0), Redactor(["**.token"]), details=details)

    assert parsed.completion["failure_category"] == [{"token": MASK}]
    assert parsed.run.data["failure_category"] == [{"token": MASK}]


@pytest.mark.parametrize("status", [{"status": "failed"}, {}], ids=["understood", "without a status"])
def test_the_texts_of_a_run_are_those_of_its_masked_body(status: dict[str, str]) -> None:
    told = {"run_id": "wr_1", "workflow_title": "Prices", "failure_reason": "s3cret", "workflow_id": "w_1"}
    asked = {"run_request": {"prompt": "s3cret"}}
    body = json.dumps({**told, **asked, **status, "retried_by_workflow_run_id": "wr_2"}, separators=(",", ":")).encode()

    run = parse_event(Event("evt_1", "skyvern", body, 0.0), Redactor(["failure_reason", "run_request.prompt"])).run

    assert (run.title, run.failure_reason, run.workflow_id, run.retried_by) == ("Prices", MASK, "w_1", "wr_2")
    assert run.prompt == MASK


def test_what_is_kept_of_a_request_is_all_that_was_told_of_it() -> None:
    # Given a task whose prompt an earlier event told, and whose submission is known later
    redactor = Redactor([])
    parsed = parse_event(Event("evt_1", "skyvern", json.dumps(TASK).encode(), 0.0), redactor)
    parsed = complete(parsed, redactor, {"run_request": {"prompt": "Get the price", "url": "https://example.com"}})

    parsed = complete(parsed, redactor, completion_of(parsed.run.data, request={"prompt": "other", "title": "Prices"}))

    # Then what is read again of what is kept is what is known now
    kept = completed(parsed.data, completion_of_text(completion_text(parsed.completion)))
    assert kept == parsed.run.data
    assert (kept["prompt"], kept["run_request"]["title"]) == ("Get the price", "Prices")


def test_a_request_that_is_no_object_is_no_trouble() -> None:
    redactor = Redactor([])
    parsed = parse_event(Event("evt_1", "skyvern", json.dumps(TASK).encode(), 0.0), redactor)
    parsed = complete(parsed, redactor, {"run_request": "odd"})

    parsed = complete(parsed, redactor, completion_of(parsed.run.data, request={"prompt": "Get the price"}))

    assert parsed.run.data["run_request"] == "odd"
