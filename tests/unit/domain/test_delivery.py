"""The delivery states are a table: each legal move is listed here once more, and all others raise."""

import pytest

from receiver.domain.delivery import (
    ENDED,
    MOVES,
    DeliveryMove,
    DeliveryState,
    IllegalMove,
    after,
    state_after,
    states_before,
)

LEGAL = {
    ("held", "release"): "queued",
    ("held", "cancel"): "cancelled",
    ("queued", "claim"): "sending",
    ("queued", "cancel"): "cancelled",
    ("queued", "accept"): "delivered",
    ("sending", "accept"): "delivered",
    ("sending", "defer"): "waiting",
    ("sending", "die"): "dead",
    ("sending", "hand back"): "queued",
    ("sending", "lapse"): "queued",
    ("queued", "expire"): "dead",
    ("cancelled", "restore"): "held",
    ("waiting", "due"): "queued",
    ("waiting", "cancel"): "cancelled",
    ("dead", "replay"): "queued",
    ("delivered", "replay"): "queued",
}


@pytest.mark.parametrize("state", list(DeliveryState))
@pytest.mark.parametrize("move", list(DeliveryMove))
def test_only_the_moves_in_the_table_are_legal(state: DeliveryState, move: DeliveryMove) -> None:
    if (state, move) in LEGAL:
        assert after(state, move) == LEGAL[state, move]
    else:
        with pytest.raises(IllegalMove, match=f"{state} can't {move}"):
            after(state, move)


def test_each_move_leads_to_one_state_from_the_states_it_names() -> None:
    for move in DeliveryMove:
        assert {after(state, move) for state in states_before(move)} == {state_after(move)}


def test_what_has_ended_moves_only_by_an_operator() -> None:
    assert {move for state, move in MOVES if state in ENDED} == {DeliveryMove.REPLAY, DeliveryMove.RESTORE}
