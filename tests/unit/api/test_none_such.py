"""What is said of a thing that there is not: why it may be so, and when the id is one of something else."""

import pytest

from receiver.api.names import none_such


@pytest.mark.parametrize(
    ("kind", "identifier", "said"),
    [
        (
            "run",
            "tsk_1",
            "run tsk_1: not found; what is older than retention.events has been removed. `run",
        ),
        ("run", "evt_1", "run evt_1: not found; it is the id of an event"),
        ("event", "dlv_1", "event dlv_1: not found; it is the id of a delivery"),
        ("event", "evt_1", "event evt_1: not found; what is older than retention.events has been removed"),
        ("operation", "op_1", "operation op_1: not found"),
    ],
)
def test_where_to_look(kind: str, identifier: str, said: str) -> None:
    assert str(none_such(kind, identifier)).startswith(said)


def test_nothing_is_made_up_where_no_reason_is_known() -> None:
    assert str(none_such("operation", "op_1")) == "operation op_1: not found"
