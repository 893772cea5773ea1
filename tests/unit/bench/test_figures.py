"""The table that the benchmarks print."""

from __future__ import annotations

import pytest

from bench.figures import Figure, at_most, compared, table

HEAD = ["| figure | value | peer | ratio | floor | result |", "|---|---|---|---|---|---|"]


@pytest.mark.parametrize(
    ("value", "peer", "ratio", "result"), [(6.0, 3.0, "2.00", "pass"), (6.3, 3.0, "2.10", "**miss**")]
)
def test_latency_floor_is_a_ratio_to_the_peer(value: float, peer: float, ratio: str, result: str) -> None:
    lines = table([compared("p50", value, peer, "{:.1f} ms", at_most=2)]).splitlines()

    assert lines == [*HEAD, f"| p50 | {value} ms | {peer} ms | {ratio} × | ≤ 2 × | {result} |"]


@pytest.mark.parametrize(("value", "ratio", "result"), [(2500, "2.50", "pass"), (2400, "2.40", "**miss**")])
def test_rate_floor_is_a_ratio_to_the_peer(value: float, ratio: str, result: str) -> None:
    lines = table([compared("rows", value, 1000, "{:.0f}/s", at_least=2.5)]).splitlines()

    assert lines == [*HEAD, f"| rows | {value}/s | 1000/s | {ratio} × | ≥ 2.5 × | {result} |"]


def test_figure_without_a_floor_neither_passes_nor_misses() -> None:
    lines = table([Figure("loop", "0.44 s"), compared("cpu", 5, 2, "{:.0f} ms")]).splitlines()

    assert lines == [*HEAD, "| loop | 0.44 s |  |  |  |  |", "| cpu | 5 ms | 2 ms | 2.50 × |  |  |"]


def test_absolute_floor_has_no_peer() -> None:
    assert table([at_most("memory", 260, 250, "{:.0f} MB")]).splitlines()[-1] == (
        "| memory | 260 MB |  |  | ≤ 250 MB | **miss** |"
    )
