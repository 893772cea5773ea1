"""What callers get for each of Skyvern's answers."""

import json

import pytest

from receiver.skyvern.responses import Answered, Unreachable
from receiver.submit import replies
from receiver.submit.idempotency import keeps_key
from receiver.submit.replies import NO_SECRETS, SecretScan


def answered(status: int, body: bytes, **headers: str) -> Answered:
    return Answered(status, body, {"content-type": "application/json", **headers})


def test_the_callers_own_webhook_stands_where_ours_was_sent() -> None:
    ours, theirs = b'"https://us/webhooks/s/sub_1"', b'"https://them/hook"'
    body = b'{"run_id":"tsk_1","run_request":{"webhook_url":"https://us/webhooks/s/sub_1"}}'

    reply = replies.submit_reply(answered(200, body), NO_SECRETS, {ours: theirs})

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
        (answered(200, b'{"run_id":"tsk_1"}', etag="the-key"), 502),
        (answered(200, b'{"run_id":"tsk_1"}', **{"content-encoding": "gzip"}), 502),
        (Unreachable(False, "x", invalid=True), 400),
        (Unreachable(False, "can't connect"), 503),
        (Unreachable(True, "x did not respond in time"), 504),
        (Unreachable(True, "the connection broke"), 502),
    ],
)
def test_what_a_caller_is_told_of_a_submit(answer: Answered | Unreachable, status: int) -> None:
    reply = replies.for_submission(replies.submit_reply(answer, SecretScan(["the-key"]), {}), "sub_1")

    assert reply.status == status
    assert json.loads(reply.body)["submission_id"] == reply.headers["x-runhook-submission-id"] == "sub_1"
    assert b"the-key" not in reply.body


def test_retry_after_only_where_nothing_was_created() -> None:
    busy = answered(503, b'{"detail":"busy"}', **{"retry-after": "7", "set-cookie": "a"})

    assert replies.relay(busy).headers == {"content-type": "application/json", "retry-after": "7"}
    assert "retry-after" in replies.unreachable(Unreachable(False, "x")).headers
    assert "retry-after" not in replies.unreachable(Unreachable(True, "x")).headers


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
def test_idempotency_key_stays_with_repeatable_responses(answer: Answered, held: bool) -> None:
    assert keeps_key(answer) is held
