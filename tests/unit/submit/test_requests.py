"""What a submit's request becomes: its labels, what is kept of it, and which requests are the same."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.support.address_policy import AllowedAddresses
from receiver.domain.redaction import Redactor
from receiver.domain.run import MAX_DEPTH
from receiver.ledger.access.api_keys import Key
from receiver.ledger.runs import RunResult, RunStatus
from receiver.submit import replies
from receiver.submit.endpoints import ENDPOINTS, SubmitCall
from receiver.submit.json_object import NotAnObject, parse_object, to_bytes, with_members
from receiver.submit.labels import LabelError, labels_of
from receiver.submit.polling_body import polling_body
from receiver.submit.prepare import prepare
from receiver.submit.request_record import request_record
from receiver.submit.source import Caller, Source
from receiver.web.responses import Refusal


def test_labels_come_from_header_and_body() -> None:
    assert labels_of("team=billing, order=42,note=a%2Cb") == {"team": "billing", "order": "42", "note": "a,b"}
    assert labels_of("team=a", {"team": "b", "n": 1, "ok": True}) == {"n": "1", "ok": "true", "team": "b"}
    assert labels_of("") == {}


def test_full_labels_leave_room_for_the_chain() -> None:
    full = {f"n{number}": "1" for number in range(32)}

    assert len(labels_of("", full | {"runhook-chain": "tsk_1", "runhook-try": "2"})) == 34


@pytest.mark.parametrize(
    ("header", "member"),
    [
        ("team", None),
        ("Team=a", None),
        ("=a", None),
        ("a=" + "x" * 257, None),
        (",".join(f"n{n}=1" for n in range(33)), None),
        ("", []),
        ("", {"a": {}}),
        ("", {"a": None}),
        ("", {"a": "x\n"}),
        ("", {"a": "\ud800"}),
        ("", {"": "x"}),
    ],
)
def test_labels_that_cannot_be_kept_are_refused(header: str, member: Any) -> None:
    with pytest.raises(LabelError):
        labels_of(header, member)


def kept(levels: int) -> dict[str, Any] | None:
    """What is kept of a task whose schema has so many levels."""
    schema = json.loads('{"a":' * levels + "1" + "}" * levels)
    fields = {"prompt": "p", "data_extraction_schema": schema}
    body = json.dumps(fields).encode()
    call = SubmitCall(ENDPOINTS[0], "/v1/run/tasks", "", body, {})
    return request_record(call, fields, Redactor(["**.password", "*.a.*.z"]))


@pytest.mark.parametrize("levels", [1, MAX_DEPTH - 2])
def test_a_request_is_kept_that_a_body_can_hold(levels: int) -> None:
    assert (kept(levels) or {})["prompt"] == "p"


@pytest.mark.parametrize("levels", [MAX_DEPTH - 1, 700, 900])
def test_too_deeply_nested_request_is_not_kept(levels: int) -> None:
    assert kept(levels) is None


NO_API: Any = None
KEY = Key("k1", "app", "", "", frozenset({"submit"}), "skyvern", None, 1.0)


def request_hash(**headers: str) -> str:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    source = Source("skyvern", NO_API, "https://us.example/webhooks/skyvern")
    call = SubmitCall(ENDPOINTS[0], ENDPOINTS[0].path, "", b'{"prompt":"p"}', named)
    return prepare(Caller(source, KEY), call, Redactor([])).new.request_hash


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


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=4), VALUES, max_size=4), VALUES)
def test_changed_object_keeps_other_members_and_their_order(members: dict[str, Any], value: Any) -> None:
    changed = with_members(json.dumps(members, indent=1).encode(), status=value)
    assert list(json.loads(changed).items()) == list({**members, "status": value}.items())


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"null", b"{", b'{"a":1}x', b"\xff{}", b"[" * 100_000, b"{'a':1}", b'{"a":1e400}', b"9" * 5000]
)
def test_anything_else_is_not_an_object(text: bytes) -> None:
    with pytest.raises(NotAnObject) as raised:
        parse_object(text)
    assert replies.malformed(raised.value).status == 422


@pytest.mark.parametrize("name", ["\\u0000", "\\ud800"])
def test_member_whose_name_can_not_be_stored_is_shown(name: str) -> None:
    facts = '"run_type":"workflow_run","status":"completed","created_at":"2026-01-01T00:00:00"'
    body = f'{{"run_id":"wr_1",{facts},"modified_at":"2026-01-01T00:00:00","a{name}":[1]}}'.encode()
    status = RunStatus("skyvern", "wr_1", "workflow_run", "completed", "completed", True, "evt_1", "")

    text, said = polling_body(RunResult(status, body, 1.0), body, "", {}) or (b"", "")

    assert said == "completed"
    assert json.loads(text)["a\ufffd"] == [1]


@pytest.mark.parametrize(
    "text",
    [
        b'{"n":12345678901234567890123}',
        b'{"a":1.0,"b":-0.0}',
        b'{"z":1,"a":2}',
        b'{"half":"\\ud800"}',
        b'{"a":{"b":[{},[],""]}}',
    ],
)
def test_object_is_written_as_it_was_read(text: bytes) -> None:
    assert to_bytes(parse_object(text)) == text


def test_last_value_of_a_duplicate_key_is_written() -> None:
    assert to_bytes(parse_object(b'{"a":1,"b":2,"a":3}')) == b'{"a":3,"b":2}'


BAD = [
    ("ftp://app.example/", "Invalid URL: "),
    ("app.example:8080/hook", "Invalid URL: "),
    ("http://", "Invalid URL: "),
    ("https:///hook", "Invalid URL: "),
    ("http://[::1/", "Invalid URL: "),
    ("https://app.example:99999/", "Invalid URL: "),
    ("https://app\n.example/", "Invalid URL: "),
    ("https://app.example/" + "x" * 9000, "Invalid URL: "),
    ("https://app.example/\0", "Invalid URL: "),
    ("https://app.example/\ud800", "Invalid URL: "),
    ("https://" + "x" * 300 + ".example/", "Invalid URL: "),
    ("https://exa mple.com/h", "Invalid URL: "),
    ("https://example.com /h", "Invalid URL: "),
    ("https://exa%20mple.com/h", "Invalid URL: "),
    ("https://a..example/h", "Invalid URL: "),
    ("http://127.0.0.1/", "The host in your url is blocked: 127.0.0.1"),
    ("http://user:pw@10.0.0.1:80/x", "The host in your url is blocked: 10.0.0.1"),
    ("http://169.254.169.254/latest", "The host in your url is blocked: 169.254.169.254"),
    ("http://[::ffff:7f00:1]/", "The host in your url is blocked: ::ffff:7f00:1"),
    ("http://0x7f.1/", "The host in your url is blocked: 0x7f.1"),
    ("http://2130706433/", "The host in your url is blocked: 2130706433"),
    ("http://0/", "The host in your url is blocked: 0"),
    ("http://LocalHost.:9/", "The host in your url is blocked: localhost."),
    ("http://a.localhost/", "The host in your url is blocked: a.localhost"),
    ("192.168.1.1/hook", "The host in your url is blocked: 192.168.1.1"),
]


def source_with(*allowed: str) -> Source:
    return Source("skyvern", NO_API, "https://us.example/webhooks/skyvern", allowed=AllowedAddresses(allowed))


@pytest.mark.parametrize(("url", "words"), BAD)
def test_webhook_url_that_can_never_be_called_is_refused(url: str, words: str) -> None:
    with pytest.raises(Refusal) as refused:
        source_with().webhook_url(url)

    reply = refused.value.reply
    assert reply.status == 400
    assert json.loads(reply.body)["detail"].startswith(words)
    assert b"pw" not in reply.body


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("", ""),
        ("  ", ""),
        (" https://app.example/h\n", "https://app.example/h"),
        ("app.example/h", "https://app.example/h"),  # as Skyvern has it
        ("https://bücher.example/", "https://bücher.example/"),
        ("http://8.8.8.8:8080/h#f", "http://8.8.8.8:8080/h#f"),
        ("http://10.1.2.3/h", "http://10.1.2.3/h"),  # listed
        ("https://minio.internal/h", "https://minio.internal/h"),  # a name is judged when it is called
        ("https://US.example:443/webhooks/skyvern/sub_1", ""),  # Runhook's own
        ("https://us.example/webhooks/skyvern2", "https://us.example/webhooks/skyvern2"),
    ],
)
def test_webhook_url_is_kept_as_it_can_be_called(given: str, kept: str) -> None:
    assert source_with("10.1.0.0/16").webhook_url(given) == kept
