"""What names the ledger knows is found without reading more of a large ledger than of a small one."""

from __future__ import annotations

from collections.abc import Callable

from receiver.ledger import Connection, Ledger
from receiver.ledger.lists import names
from tests.support.backlog import analyze, effort
from tests.support.listed import RARE, fill

QUESTIONS: dict[str, tuple[Callable[[Connection], object], object]] = {
    "an unknown run": (lambda it: names.has_run(it, "tsk_x"), False),
    "a run": (lambda it: names.has_run(it, "tsk_77"), True),
    "a beginning of runs": (lambda it: names.run_beginning(it, "tsk_77")[:6], "tsk_77"),
    "an unknown beginning": (lambda it: names.run_beginning(it, "wr_"), ""),
    "an unknown status": (lambda it: names.has_status(it, "exploded"), False),
    "an unknown sink": (lambda it: names.has_sink(it, "none"), False),
    "a status": (lambda it: names.has_status(it, RARE), True),
}


def test_a_name_is_looked_up_by_an_index(ledger: Ledger) -> None:
    efforts: dict[str, list[int]] = {question: [] for question in QUESTIONS}
    for count in (1000, 6000):
        fill(ledger, count)
        analyze(ledger)
        for question, (ask, answer) in QUESTIONS.items():
            assert ledger.read(ask) == answer, question
            efforts[question].append(effort(ledger, ask))
    assert {question: both for question, both in efforts.items() if both[1] > 2 * both[0] + 10} == {}
