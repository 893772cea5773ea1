"""Events over the API: their bodies, and bodies that break readers."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from receiver.api.events import GET_EVENT, GET_EVENT_BODY, LARGEST_VALUE
from receiver.api.service import Actor, Service
from receiver.config.models import Config
from receiver.domain import deduplication
from receiver.domain.event import Event, event_id
from receiver.domain.new_event import NewEvent
from receiver.domain.run import parse
from receiver.errors import Invalid, NotFound
from receiver.ledger import Ledger
from tests.support.ledger import NOW, new_event, record

ACTOR = Actor("key", "app", frozenset({"view"}))


@pytest.fixture
def service(ledger: Ledger) -> Service:
    it = Service.__new__(Service)
    it.ledger = ledger
    it.__dict__["config"] = Config.model_validate({"sources": {"skyvern": {"secrets": ["s"]}}})
    return it


def kept(service: Service, body: bytes) -> str:
    """Record an event with this body; its id."""
    event, run = Event(event_id("skyvern", body), "skyvern", body, NOW), parse(body)
    facts = deduplication.facts_of(event.id, run, run.data, run.data)
    record(service.ledger, NewEvent(event, run, body, facts, disposition="new", newest=True, deliveries=[]))
    return event.id


def told(service: Service, identifier: str, **more: str) -> dict[str, Any]:
    wanted = GET_EVENT.validated({"event_id": identifier, **more})
    found: dict[str, Any] = json.loads(GET_EVENT.call(service, ACTOR, wanted).model_dump_json())
    return found


def body_of(service: Service, identifier: str) -> dict[str, Any]:
    wanted = GET_EVENT_BODY.validated({"event_id": identifier})
    found: dict[str, Any] = json.loads(GET_EVENT_BODY.call(service, ACTOR, wanted).model_dump_json())
    return found


def test_an_event_is_told_as_sinks_get_it(service: Service) -> None:
    body = b'{"run_id": "tsk_1", "status": "completed", "run_type": "task_v2", "output": {"total": 12.50}}'
    identifier = kept(service, body)
    found = told(service, identifier[:10])
    assert found["event"]["id"] == identifier
    assert found["run"]["output"] == {"total": 12.5}
    assert found["run"]["workflow_run_id"] is None  # a member that the body lacks
    assert found["note"] == ""
    assert body_of(service, identifier) == {
        "event_id": identifier,
        "source": "skyvern",
        "size": len(body),
        "encoding": "utf-8",
        "body": body.decode(),
    }


def test_the_token_in_our_callback_url_is_nobodys_business(service: Service) -> None:
    url = f"https://hooks.example/webhooks/skyvern/sub_{'a' * 32}"
    body = json.dumps({"run_id": "tsk_1", "status": "completed", "webhook_callback_url": url, "output": url}).encode()
    identifier = kept(service, body)
    for found in (told(service, identifier), body_of(service, identifier)):
        assert "a" * 32 not in json.dumps(found)


@pytest.mark.parametrize(
    "body",
    [
        b'{"run_id":"tsk_1","status":"completed","output":"\\ud800"}',
        b'{"run_id":"tsk_1","status":"completed","output":NaN}',
        b'{"run_id":"tsk_1","status":"completed","output":1e400}',
        b'{"run_id":"tsk_1","status":"completed","output":' + b"9" * 5000 + b"}",
        b'{"run_id":"tsk_1","status":"completed","output":' + b"[" * 280 + b"]" * 280 + b"}",
        b'{"run_id":"tsk_1","status":"completed","output":"\\u0000"}',
    ],
)
def test_a_body_that_breaks_readers_is_told(service: Service, body: bytes) -> None:
    identifier = kept(service, body)
    assert told(service, identifier)["event"]["id"] == identifier
    assert body_of(service, identifier)["body"] == body.decode()


def test_a_body_that_is_no_text(service: Service) -> None:
    identifier = kept(service, b"\xff\xfe")
    assert told(service, identifier)["run"] is None
    assert told(service, identifier)["note"]
    found = body_of(service, identifier)
    assert found["encoding"] == "base64"
    assert base64.b64decode(found["body"]) == b"\xff\xfe"


def test_a_large_body_is_told_by_its_bytes_alone(service: Service) -> None:
    text = "x" * LARGEST_VALUE
    identifier = kept(service, json.dumps({"run_id": "tsk_1", "status": "completed", "output": text}).encode())
    assert told(service, identifier)["note"] == "the body is over 4 MiB"
    assert json.loads(body_of(service, identifier)["body"])["output"] == text


def test_which_event_must_be_clear(service: Service) -> None:
    record(service.ledger, new_event("tsk_1"), new_event("tsk_2"))
    with pytest.raises(Invalid, match="ambiguous; matches"):
        told(service, "evt_")
    with pytest.raises(NotFound):
        told(service, "evt_none")
    with pytest.raises(NotFound):
        told(service, "evt_", source="other")
