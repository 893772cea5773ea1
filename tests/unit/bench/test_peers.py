"""`python -m bench.peers`: a side that loses events, or finds no time, is reported, and the others are compared."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.peers import __main__ as peers
from bench.peers.__main__ import FLAT_OUT, Figures

ALL_ROUNDS = argparse.Namespace(rounds=2, limit=1e9, rates="100", seconds=1.0, flat_out=1.0)


def round_of(name: str, _folder: Path, rates: list[str], _seconds: float, _flat_out: float) -> Iterator[Figures]:
    yield Figures(name, rates[0], 1.0, 2.0, 100.0, 500.0)
    if name == "rq":
        raise SystemExit("flat out: 3 of 200 events never came")
    yield Figures(name, FLAT_OUT, 1.0, 2.0, 1000.0 if name == "runhook" else 250.0, 500.0)


def test_what_a_side_lost_is_reported_and_the_rest_is_compared(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peers, "one_round", round_of)
    names, failures = ["runhook", "rq", "arq"], list[str]()

    found = peers.rounds(names, ALL_ROUNDS, failures)

    shown = peers.table(found, names)
    assert failures == [f"rq failed in round {n}: 'flat out: 3 of 200 events never came'" for n in (1, 2)]
    assert "| 100/s | rq | 1.0 | 2.0 |" in shown
    assert "| flat out | rq |" not in shown
    assert "| flat out | arq |  |  | 250 (250–250) | 500 | 4.00 |" in shown
    lines = [line.split()[4] for line in capsys.readouterr().out.splitlines() if line.startswith("round")]
    assert lines == ["runhook", "rq", "arq", "arq", "rq", "runhook"]


def test_no_round_begins_that_would_end_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "one_round", round_of)
    failures: list[str] = []

    found = peers.rounds(["runhook"], argparse.Namespace(**vars(ALL_ROUNDS) | {"limit": -1.0}), failures)

    assert found == []
    assert failures == [f"runhook was left out of round {n}, for there was no time left" for n in (1, 2)]
