"""The figures of a benchmark and their table: name, floor, value."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the table. `value` is text for people; `is_met` is None for a figure without a floor."""

    name: str
    value: str
    floor: str = ""
    is_met: bool | None = None


def at_least(name: str, value: float, floor: float, form: str = "{:,.2f}", note: str = "") -> Figure:
    """Return a figure that must not fall below `floor`. `form`: how both numbers are written."""
    return Figure(name, form.format(value) + note, f"≥ {form.format(floor)}", value >= floor)


def at_most(name: str, value: float, floor: float, form: str = "{:,.2f}", note: str = "") -> Figure:
    """Return a figure that must not exceed `floor`. `form`: how both numbers are written."""
    return Figure(name, form.format(value) + note, f"≤ {form.format(floor)}", value <= floor)


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
    """Return the figures as a Markdown table. A floor that is missed is marked."""
    lines = ["| figure | floor | value |", "|---|---|---|"]
    for each in figures:
        missed = " **(missed)**" if each.is_met is False else ""
        lines.append(f"| {each.name} | {each.floor} | {each.value}{missed} |")
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
