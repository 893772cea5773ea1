"""What a sink is given of a claim."""

import copy
import json
import pickle
import time
from dataclasses import FrozenInstanceError, fields, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from handlers import Delivery
from receiver.config.destinations import RetryPolicy
from receiver.delivery import send_task
from receiver.domain.run import parse
from receiver.ledger.deliveries.claimed import Claimed
from tests.support.events import count_parses, press

CLAIMED = Claimed(
    *("dlv_1", "evt_1", "ops", "ops", "all", 1, 0, False, "skyvern", "tsk_1", "completed", "webhook", "", 1.0, {}, ()),
    body=b'{"task_id": "tsk_1", "status": "completed"}',
)


def to_delivery(claimed: Claimed, **policy: Any) -> Delivery:
    return send_task.to_delivery(claimed, RetryPolicy(**policy))


@pytest.mark.parametrize(
    ("spent", "attempts", "last"), [(0, 3, False), (1, 3, False), (2, 3, True), (5, 3, True), (0, 1, True)]
)
@pytest.mark.parametrize(("since", "over"), [(None, False), (50, False), (70, True)])
def test_sink_is_told_which_attempt_is_the_last(
    spent: int, attempts: int, last: bool, since: float | None, over: bool
) -> None:
    tried_at = None if since is None else time.time() - since
    claimed = replace(CLAIMED, spent=spent, tried_at=tried_at)

    assert to_delivery(claimed, attempts=attempts, give_up_after=60).last_attempt == (last or over)


def test_sink_is_given_what_was_claimed() -> None:
    body = b'{"run_id": "wr_1", "run_type": "new", "status": "failed"}'
    receipts = {"archive": {"id": "1"}}
    claimed = Claimed(
        *("dlv_1", "evt_1", "counting", "lane", "route", 7, 2, False, "source", "wr_1", "completed", "webhook", "of"),
        *(1.5, {"team": "a"}, ("archive",)),
        body=body,
        completion='{"summary": "s"}',
        receipts=receipts,
    )

    delivery = to_delivery(claimed, attempts=3)

    given = {field.name: getattr(delivery, field.name) for field in fields(Delivery)}
    assert given == {
        "key": "dlv_1", "event_id": "evt_1", "sink": "counting", "attempt": 7, "source": "source", "run_id": "wr_1",
        "run_type": "new", "status": "completed", "body": body, "payload": body,
        "received_at": datetime(1970, 1, 1, 0, 0, 1, 500_000, UTC),
        "run": given["run"] | {"run_id": "wr_1", "run_type": "new", "status": "failed", "summary": "s"},
        "via": "webhook", "route": "route", "problem": "", "labels": {"team": "a"}, "receipts": receipts,
        "test": False, "last_attempt": True,
    }  # fmt: skip
    assert isinstance(delivery, Delivery)
    with pytest.raises(FrozenInstanceError):
        delivery.key = "other"  # type: ignore[misc]
    assert copy.copy(delivery) == replace(delivery) == pickle.loads(pickle.dumps(delivery)) == delivery


@pytest.mark.parametrize("kind", ["task", "workflow"])
def test_sink_is_told_that_a_test_webhook_is_one(kind: str) -> None:
    assert to_delivery(replace(CLAIMED, body=press(kind))).test
    assert not to_delivery(CLAIMED).test


def test_sink_is_told_what_is_wrong_with_a_body() -> None:
    unreadable = to_delivery(replace(CLAIMED, body=b"no JSON"))

    assert "JSON" in unreadable.problem
    assert (unreadable.run, unreadable.run_type) == ({}, "")


@pytest.mark.parametrize("handed_on", [True, False], ids=["with its run", "from the ledger"])
def test_only_the_callback_sink_sees_runhooks_callback_url(handed_on: bool) -> None:
    token = "sub_0123456789abcdef0123456789abcdef"
    ours = f"https://hooks.example/webhooks/skyvern/{token}"
    run = {"run_id": "wr_1", "status": "failed", "webhook_callback_url": ours, "run_request": {"webhook_url": ours}}
    body = json.dumps(run).encode()
    claimed = replace(CLAIMED, body=body, run=parse(body) if handed_on else None)

    seen = to_delivery(claimed)
    assert json.loads(seen.body) == seen.run
    assert (seen.run["webhook_callback_url"], seen.run["run_request"]) == (None, {"webhook_url": None})
    assert to_delivery(replace(claimed, sink="callback")).body == claimed.body


def test_body_that_was_parsed_before_is_not_parsed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    claimed = replace(CLAIMED, run=parse(CLAIMED.body))
    parsed = count_parses(monkeypatch)

    assert to_delivery(claimed).run == parse(CLAIMED.body).data
    assert len(parsed) == 1, "by the test itself"
