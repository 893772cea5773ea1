"""The pure parts of submitting: the editing of JSON, labels, keys and scopes, answers, states."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.domain import api_key, submission
from receiver.domain.delivery import IllegalMove
from receiver.skyvern import Answered, Unreachable
from receiver.submit import auth, replies
from receiver.submit.json_edit import NotAnObject, edit_members, parse_object
from receiver.submit.request.labels import LabelError, labels_of

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(["webhook_url", "labels", "prompt", "a", 'quo"te', "back\\slash", "ü", "}"])
SPACE = st.text(" \t\n\r", max_size=2)


@st.composite
def members(draw: st.DrawFn) -> list[tuple[str, Any, str]]:
    """Members of an object, duplicates too, each with its text."""
    found = []
    for name, value in draw(st.lists(st.tuples(NAMES, VALUES), max_size=6)):
        s = [draw(SPACE) for _ in range(4)]
        ascii_only = draw(st.booleans())
        text = json.dumps(name, ensure_ascii=ascii_only), json.dumps(value, indent=draw(st.sampled_from([None, 1])))
        found.append((name, value, f"{s[0]}{text[0]}{s[1]}:{s[2]}{text[1]}{s[3]}"))
    return found


def join(texts: list[str]) -> bytes:
    return ("{" + ",".join(texts) + "}").encode("utf-8", "surrogatepass")


@given(members())
def test_editing_nothing_changes_no_byte(found: list[tuple[str, Any, str]]) -> None:
    text = join([each[2] for each in found])

    assert edit_members(text, {}) == text


@given(members(), NAMES)
def test_dropping_a_member_leaves_the_others_byte_for_byte(found: list[tuple[str, Any, str]], name: str) -> None:
    text = join([each[2] for each in found])

    assert edit_members(text, {name: None}) == (join([each[2] for each in found if each[0] != name]) if found else text)


@given(members(), NAMES, VALUES)
def test_a_changed_member_is_read_back_and_all_others_are_as_before(
    found: list[tuple[str, Any, str]], name: str, value: Any
) -> None:
    text = join([each[2] for each in found])

    changed = edit_members(text, {name: json.dumps(value).encode()})

    before, after = json.loads(text), json.loads(changed)
    assert after == {**before, name: value}
    for other, _, piece in found:
        assert other == name or piece.encode() in changed


def test_an_edit_keeps_what_a_parser_would_lose() -> None:
    text = b'{ "n": 12345678901234567890.0, "a":1.0,"a":2, "webhook_url" : null ,"z":"\\u00fc\xc3\xbc"}\n'

    assert edit_members(text, {"webhook_url": b'"x"', "labels": None}) == text.replace(b"null", b'"x"')
    assert edit_members(b"{ }", {"a": b"1"}) == b'{"a":1 }'
    assert edit_members(b'{"a":1}', {"b": b"2"}) == b'{"b":2,"a":1}'
    assert edit_members(b'{"webhook_\\u0075rl":"evil"}', {"webhook_url": b'"ours"'}) == b'{"webhook_\\u0075rl":"ours"}'


@pytest.mark.parametrize("text", [b"", b"[]", b"null", b"{", b'{"a":1}x', b"\xff{}", b"[" * 100_000, b"{'a':1}"])
def test_what_is_no_object_is_said_to_be_none(text: bytes) -> None:
    with pytest.raises(NotAnObject) as raised:
        parse_object(text)

    assert replies.malformed(raised.value).status == 422


def test_labels_come_from_header_and_body() -> None:
    assert labels_of("team=billing, order=42,note=a%2Cb") == {"team": "billing", "order": "42", "note": "a,b"}
    assert labels_of("team=a", {"team": "b", "n": 1, "ok": True}) == {"n": "1", "ok": "true", "team": "b"}
    assert labels_of("") == {}


def test_a_submission_with_all_labels_that_there_may_be_can_be_tried_again() -> None:
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


def test_a_key_is_derived_from_the_master_and_its_id() -> None:
    key = api_key.derive("master", "0a1b")

    assert key == api_key.derive("master", "0a1b")
    assert key.startswith("rhk_0a1b_")
    assert (
        len({api_key.digest(each) for each in (key, api_key.derive("other", "0a1b"), api_key.derive("master", "0a1c"))})
        == 3
    )
    assert key.startswith(api_key.hint(key))
    assert len(api_key.hint(key)) < 20


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("POST", "/v1/run/tasks", "submit"),
        ("POST", "/v1/run/agents/", "submit"),
        ("POST", "/v1/run/workflows", "submit"),
        ("POST", "/api/v1/tasks", "submit"),
        ("POST", "/v1/run/tasks/login", "submit"),
        ("POST", "/api/v1/workflows/wpid_1/run", "submit"),
        ("GET", "/v1/runs/tsk_1", "read"),
        ("HEAD", "/v1/artifacts/a_1/content", "read"),
        ("POST", "/v1/runs/tsk_1/cancel", "operate"),
        ("POST", "/v1/runs/cancel", "operate"),
        ("POST", "/v1/runs/tsk_1/retry_webhook", "operate"),
        ("DELETE", "/v1/browser_sessions/x", "operate"),
        ("GET", "/api/v1/organizations/o_1/apikeys", None),
        ("GET", "/api/v1/organizations/o_1/APIKEYS/", None),
        ("GET", "/api/v1/organizations/o_1/%61pikeys", None),
        ("GET", "/api/v1/organizations/o_1/%2561pikeys", None),
        ("POST", "/v1/ui-session", None),
        ("POST", "/api/v1/UI-session/", None),
        ("GET", "/v1/credentials/onepassword/get", None),
        ("GET", "/v1/credentials/azure_credential/get/", None),
        ("POST", "/v1/credentials/custom_credential/create", None),
        ("GET", "/v1/credentials/cred_1/totp-code", "operate"),
        ("GET", "/v1/credentials/totp/", "operate"),
        ("GET", "/v1/credentials/cred_1", "read"),
        ("POST", "/v1/credentials/cred_1/update", "operate"),
        ("GET", "/v1/../internal/x", None),
        ("GET", "/v1/%2e%2e/x", None),
        ("GET", "/v1//runs", None),
        ("GET", "/internal/auth", None),
        ("GET", "/v1", None),
        ("GET", "/metrics", None),
        ("TRACE", "/v1/runs", None),
    ],
)
def test_the_scope_of_a_call(method: str, path: str, scope: str | None) -> None:
    assert auth.scope_of(method, path) == scope


def answered(status: int, body: bytes, **headers: str) -> Answered:
    return Answered(status, body, {"content-type": "application/json", **headers})


def test_the_callers_own_webhook_stands_where_ours_was_sent() -> None:
    ours, theirs = b'"https://us/webhooks/s/sub_1"', b'"https://them/hook"'
    body = b'{"run_id":"tsk_1","run_request":{"webhook_url":"https://us/webhooks/s/sub_1"}}'

    reply = replies.submit_reply(answered(200, body), [], {ours: theirs})

    assert json.loads(reply.body)["run_request"]["webhook_url"] == "https://them/hook"


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (answered(200, b"<html>"), 502),
        (answered(200, b"[]"), 502),
        (answered(307, b""), 502),
        (answered(408, b"{}"), 504),
        (answered(403, b'{"detail":"Invalid credentials"}'), 403),
        (answered(500, b'{"error":"x"}'), 500),
        (answered(503, b"<html>"), 503),
        (answered(200, b'{"run_id":"the-key"}'), 502),
        (Unreachable(False, "can't connect"), 503),
        (Unreachable(True, "x did not answer in time"), 504),
        (Unreachable(True, "the connection broke"), 502),
    ],
)
def test_what_a_caller_is_told_of_a_submit(answer: Answered | Unreachable, status: int) -> None:
    reply = replies.submit_reply(answer, [b"the-key"], {}).for_submission("sub_1")

    assert reply.status == status
    assert json.loads(reply.body)["submission_id"] == reply.headers["x-runhook-submission-id"] == "sub_1"
    assert b"the-key" not in reply.body


def test_an_error_keeps_its_retry_after_and_only_what_creates_nothing_says_later() -> None:
    busy = answered(503, b'{"detail":"busy"}', **{"retry-after": "7", "set-cookie": "a"})

    assert replies.relay(busy).headers == {"content-type": "application/json", "retry-after": "7"}
    assert "retry-after" in replies.unreachable(Unreachable(False, "x")).headers
    assert "retry-after" not in replies.unreachable(Unreachable(True, "x")).headers


def test_a_secret_so_short_that_it_stands_everywhere_hides_no_answer() -> None:
    assert replies.relay(answered(200, b'{"run_id":"tsk_1"}'), [b"s", b""]).status == 200


@pytest.mark.parametrize(
    ("answer", "held"),
    [
        (answered(200, b'{"run_id":"tsk_1"}'), True),
        (answered(422, b"{}"), True),
        (answered(429, b"{}"), False),
        (answered(403, b"{}"), False),
        (answered(503, b"{}", **{"retry-after": "1"}), False),
        (answered(503, b"{}"), True),
        (Unreachable(True, ""), True),
        (Unreachable(False, ""), False),
    ],
)
def test_an_idempotency_key_stays_with_what_would_be_answered_the_same(answer: Answered, held: bool) -> None:
    assert replies.keeps_idempotency_key(answer) is held


def test_every_move_of_a_submission_that_is_not_in_the_table_raises() -> None:
    legal = 0
    for state in submission.SubmissionState:
        for move in submission.SubmissionMove:
            if (state, move) in submission.MOVES:
                assert submission.after(state, move) in submission.SubmissionState
                assert state in submission.sources(move)
                legal += 1
            else:
                with pytest.raises(IllegalMove):
                    submission.after(state, move)
    assert legal == len(submission.MOVES)
