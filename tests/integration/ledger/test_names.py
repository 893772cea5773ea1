"""What names the ledger knows is found without reading more of a large ledger than of a small one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from receiver.ledger import Connection, Ledger, names
from tests.support.backlog import analyze, effort
from tests.support.listed import RARE, fill

QUESTIONS: dict[str, tuple[Callable[[Connection], object], object]] = {
    "an unknown run": (lambda it: names.has_run(it, "tsk_x"), False),
    "a run": (lambda it: names.has_run(it, "tsk_77"), True),
    "a beginning of runs": (lambda it: names.run_beginning(it, "tsk_77")[:6], "tsk_77"),
    "an unknown beginning": (lambda it: names.run_beginning(it, "wr_"), ""),
    "an unknown status": (lambda it: names.has_status(it, "exploded"), False),
    "a status": (lambda it: names.has_status(it, RARE), True),
    "success": (lambda it: names.has_status(it, "completed"), True),
    "statuses": (names.statuses, ["failed", RARE, "timed_out"]),
    "an unknown source": (lambda it: names.has_source(it, "none"), False),
    "sources": (names.sources, ["main", "other", RARE]),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_name_is_looked_up_by_an_index(ledger: Ledger, question: str) -> None:
    ask, answer = QUESTIONS[question]
    efforts = []
    for count in (400, 6000):
        fill(ledger, count)
        analyze(ledger)
        assert ledger.read(ask) == answer
        efforts.append(effort(ledger, ask))
    assert efforts[1] <= 2 * efforts[0] + 10
