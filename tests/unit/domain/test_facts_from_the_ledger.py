"""Facts that are computed of what was recorded are those that could have been computed before it was."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from receiver.domain.event import Event, event_id
from receiver.domain.parsed_event import (
    ParsedEvent,
    complete,
    completion_text,
    parse_event,
    recorded_facts,
    to_compare,
)
from receiver.domain.redaction import Redactor
from receiver.domain.run import parse
from receiver.domain.shape import completion_of
from simulator import samples
from tests.support import roads
from tests.support.button import RUN_IDS, press
from tests.support.hostile import hostile_bodies

NOW = 1_790_000_000.0
ARTIFACTS = "https://api.skyvern.com/v1/artifacts"
# What is masked is kept with other bytes: names of facts, of files, of members that others follow from.
PATHS = [
    "**.secret",
    "output.*",
    "failure_reason",
    "**.filename",
    "run_request",
    "**.prompt",
    "screenshot_urls",
    "errors",
]


def parsed_as(body: bytes, *paths: str, details: dict[str, Any] | None = None) -> ParsedEvent:
    return parse_event(Event(event_id("s", body), "s", body, NOW), Redactor(paths), details=details or {})


def assert_same_from_the_ledger(parsed: ParsedEvent) -> None:
    """The event with `parsed.facts` was recorded, and is compared only then."""
    there = parsed.facts
    assert there is not None
    whole = to_compare(parsed).facts
    assert whole is not None
    assert whole.whole
    assert whole.extent

    assert recorded_facts(there, parsed.run.status, parsed.body, completion_text(parsed.completion)) == whole


def captured() -> list[bytes]:
    """Bodies as Skyvern sends and answers them, by each road."""
    found = [samples.build(name, now=NOW, artifacts=ARTIFACTS) for name in samples.names()]
    for name in samples.names():
        webhook = roads.webhook(name, NOW)
        found += [json.dumps(road(webhook)).encode() for road in (roads.poll, roads.early_poll, roads.sent_again)]
    return [*found, *(press(each) for each in RUN_IDS)]


def readable(bodies: list[bytes]) -> list[bytes]:
    return [body for body in bodies if (run := parse(body)).run_id and not run.problem]


@pytest.mark.parametrize("paths", [(), *((path,) for path in PATHS), tuple(PATHS)], ids=str)
def test_of_what_skyvern_sends(paths: tuple[str, ...]) -> None:
    for body in captured():
        assert_same_from_the_ledger(parsed_as(body, *paths))


@pytest.mark.parametrize("paths", [(), tuple(PATHS), ("**",), ("**.*",)], ids=str)
def test_of_what_no_skyvern_sends(paths: tuple[str, ...]) -> None:
    bodies = readable(hostile_bodies("127.0.0.2:80", "http://127.0.0.2/"))
    assert bodies

    for body in bodies:
        assert_same_from_the_ledger(parsed_as(body, *[path for path in paths if path != "**"]))


@pytest.mark.parametrize("name", samples.names())
def test_facts_of_an_event_completed_from_elsewhere(name: str) -> None:
    webhook = roads.webhook(name, NOW)
    redactor = Redactor(["**.prompt"])
    parsed = parsed_as(json.dumps(roads.sent_again(webhook)).encode(), "**.prompt")

    by_request = complete(parsed, redactor, completion_of(parsed.run.data, request=roads.request_of(webhook)))
    whole = complete(by_request, redactor, completion_of(by_request.run.data, same_result=webhook))

    assert_same_from_the_ledger(by_request)
    assert_same_from_the_ledger(whole)


@pytest.mark.parametrize("name", samples.names())
def test_facts_before_and_after_completion_are_equal(name: str) -> None:
    webhook = roads.webhook(name, NOW)
    parsed = parsed_as(json.dumps(roads.early_poll(webhook)).encode())
    more = completion_of(parsed.run.data, same_result=webhook)

    early, late = complete(to_compare(parsed), Redactor([]), more), complete(parsed, Redactor([]), more)

    assert early.facts == to_compare(late).facts
    assert late.facts == parsed.facts


NAMES = ["a", "secret", "url", "checksum", "filename", "downloaded_files", "recording_url", "prompt", "failure_reason"]
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["", "\ud800", "\0", "é"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | st.text(), inner, max_size=5),
    max_leaves=12,
)
bodies = st.fixed_dictionaries(
    {"run_id": st.just("r"), "status": st.sampled_from(["completed", "failed", "canceled"]), "output": values},
    optional={
        "run_type": st.sampled_from(["task_v1", "task_v2", "workflow_run"]),
        "errors": values,
        "failure_reason": values | st.just("Failed to send webhook"),
        "downloaded_files": values | st.lists(st.fixed_dictionaries({"filename": values, "checksum": values})),
        "screenshot_urls": values,
        "recording_url": values,
        "run_request": values,
        "extra": values,
    },
)


@given(bodies, st.sets(st.sampled_from(PATHS)), st.booleans(), st.none() | st.dictionaries(st.text(), values))
@example(
    {"run_id": "r", "status": "failed", "failure_reason": "Failed to send webhook", "output": 1}, set(PATHS), True, None
)
def test_of_any_body(body: dict[str, Any], paths: set[str], escaped: bool, details: dict[str, Any] | None) -> None:
    text = json.dumps(body, ensure_ascii=escaped).encode("utf-8", "surrogatepass")

    assert_same_from_the_ledger(parsed_as(text, *sorted(paths), details=parse(json.dumps(details or {}).encode()).data))


@pytest.mark.parametrize(
    ("path", "output"),
    [
        ("**.secret", b'{"secret":"x","rest":[' + b"[]," * 3_000_000 + b"1]}"),
        ("errors.*", b"[" + b"[]," * 3_000_000 + b"1]"),
        ("**.secret", b'{"secret":[' + b"1," * 2_500_000 + b"1]}"),
    ],
    ids=["left out", "left out, and masked elsewhere", "left out once masked"],
)
def test_facts_that_masking_changes_are_computed_at_once(path: str, output: bytes) -> None:
    parsed = parsed_as(b'{"run_id":"r","status":"completed","errors":{"a":"x"},"output":' + output + b"}", path)

    assert parse(parsed.body).data != parsed.data
    assert parsed.facts is not None
    assert parsed.facts.whole
