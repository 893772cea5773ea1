"""The figures of a benchmark and their table: value, peer, ratio of the two, floor, and whether it is met."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the table, as text for people. `is_met` is None for a figure without a floor."""

    name: str
    value: str
    floor: str = ""
    is_met: bool | None = None
    peer: str = ""
    ratio: str = ""


def at_least(name: str, value: float, floor: float, form: str = "{:,.2f}", note: str = "") -> Figure:
    """Return a figure that must not fall below `floor`. `form`: how both numbers are written."""
    return Figure(name, form.format(value) + note, f"≥ {form.format(floor)}", value >= floor)


def at_most(name: str, value: float, floor: float, form: str = "{:,.2f}", note: str = "") -> Figure:
    """Return a figure that must not exceed `floor`. `form`: how both numbers are written."""
    return Figure(name, form.format(value) + note, f"≤ {form.format(floor)}", value <= floor)


def compared(
    name: str,
    value: float,
    peer: float,
    form: str = "{:,.2f}",
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    note: str = "",
) -> Figure:
    """Return a figure compared with a peer in the same run. The floor, if any, applies to their ratio."""
    ratio = value / peer
    row = Figure(name, form.format(value) + note, peer=form.format(peer), ratio=f"{ratio:.2f} ×")
    if at_least is not None:
        return replace(row, floor=f"≥ {at_least} ×", is_met=ratio >= at_least)
    if at_most is not None:
        return replace(row, floor=f"≤ {at_most} ×", is_met=ratio <= at_most)
    return row


def median(values: Iterable[float]) -> float:
    """Return the median. Raises StatisticsError when there are no values."""
    return statistics.median(values)


def spread(values: Sequence[float], form: str = "{:,.0f}") -> str:
    """Return the median with the smallest and the largest value, as text."""
    return f"{form.format(median(values))} ({form.format(min(values))}–{form.format(max(values))})"


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` percent of the values lie."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share / 100))]


def table(figures: Iterable[Figure]) -> str:
    """Return the figures as a Markdown table."""
    lines = ["| figure | value | peer | ratio | floor | result |", "|---|---|---|---|---|---|"]
    results = {True: "pass", False: "**miss**", None: ""}
    for each in figures:
        cells = (each.name, each.value, each.peer, each.ratio, each.floor, results[each.is_met])
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def machine() -> str:
    """Return what the figures depend on: processor, load, versions and date."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    return (
        f"{os.cpu_count()} cores ({models[0] if models else platform.machine()}), load {load} at the start, "
        f"Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}"
    )
