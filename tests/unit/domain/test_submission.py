"""The states of a submission."""

import pytest

from receiver.domain import submission
from receiver.domain.delivery import IllegalMove


def test_illegal_move_of_a_submission_raises() -> None:
    legal = 0
    for state in submission.SubmissionState:
        for move in submission.SubmissionMove:
            if (state, move) in submission.MOVES:
                assert submission.after(state, move) in submission.SubmissionState
                assert state in submission.states_before(move)
                legal += 1
            else:
                with pytest.raises(IllegalMove):
                    submission.after(state, move)
    assert legal == len(submission.MOVES)
