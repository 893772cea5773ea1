"""What an action on many is guarded by between counting and doing."""

from typing import Any, cast

import pytest

from receiver.api.deliveries import REPLAY_DELIVERIES
from receiver.api.operations import OperationRow, TakenResult
from receiver.cli.actions import How, act
from receiver.cli.client import Client
from receiver.errors import RunhookError

NOW = 1_795_529_602.0
DELIVERY = "dlv_000000000001"


class Service:
    """Counts seven, and keeps what it is asked for."""

    announce = False

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def call(self, _endpoint: Any, parameters: Any) -> TakenResult:
        self.asked.append(parameters)
        if parameters.dry_run:
            return TakenResult(dry_run=True, count=7, examples=[], until=NOW, operation=None)
        operation = OperationRow(
            id="op_1", kind="replay", state="done", source="", sink="", selection={}, force=False, rate=0.0,
            total=7, done=7, actor="me", created_at=NOW, updated_at=NOW,
        )  # fmt: skip
        return TakenResult(dry_run=False, count=7, examples=[], until=NOW, operation=operation)


def replay(service: Service, ids: list[str], how: How) -> bool:
    asked = {} if ids else {"sink": "results"}
    return act(cast("Client", service), REPLAY_DELIVERIES, ids, asked, how)


def test_what_came_after_counting_is_not_taken() -> None:
    service = Service()
    assert replay(service, [], How(dry_run=False, expect=None, wait=False, yes=True))
    counted, done = service.asked
    assert counted.dry_run
    assert (done.expect, done.until, done.sink) == (7, NOW, "results")


@pytest.mark.parametrize("expect", [None, 7])
def test_ids_are_guarded_by_the_count_that_was_given(expect: int | None) -> None:
    service = Service()
    assert replay(service, [DELIVERY], How(dry_run=False, expect=expect, wait=False, yes=True))
    assert service.asked[1].expect == expect


def test_another_count_than_expected_changes_nothing() -> None:
    for ids in ([], [DELIVERY]):
        service = Service()
        with pytest.raises(RunhookError, match="7 match now; nothing changed"):
            replay(service, ids, How(dry_run=False, expect=6, wait=False, yes=True))
        assert [each.dry_run for each in service.asked] == [True]


def test_counting_alone_changes_nothing() -> None:
    service = Service()
    assert not replay(service, [], How(dry_run=True, expect=7, wait=False, yes=False))
    assert [each.dry_run for each in service.asked] == [True]
