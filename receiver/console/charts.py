"""Charts over time as values, and the labels of their axes. Pure; templates/charts.html draws them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NamedTuple

# Maximum labels of an axis.
_MOST_TIMES: Final = 6
_MOST_VALUES: Final = 3
# Seconds between two labels of the time.
_STEPS: Final = (60, 300, 600, 900, 1800, 3600, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800, 2_592_000)
_DAY: Final = 86_400
# Labels nearer to an edge than this would be cut off, in per cent of the width.
_EDGE: Final = 4.0


@dataclass(frozen=True, slots=True)
class Buckets:
    """Stretches of time: `count` of `seconds` each, the first from `since` on (seconds since the epoch)."""

    since: float
    seconds: float
    count: int

    @classmethod
    def until(cls, now: float, seconds: float, count: int) -> Buckets:
        """Return `count` buckets, the last of which contains `now`. They begin at multiples of `seconds`."""
        return cls((math.floor(now / seconds) - count + 1) * seconds, seconds, count)

    @property
    def starts(self) -> list[float]:
        """When each begins."""
        return [self.since + number * self.seconds for number in range(self.count)]

    def values(self, found: Mapping[float, float]) -> list[float | None]:
        """Return one value for each bucket, by the time at which it begins; 0 where `found` has none."""
        return [found.get(at, 0.0) for at in self.starts]

    def label(self, at: float) -> str:
        """Return the bucket that begins then, in words."""
        begin, end = (datetime.fromtimestamp(each, UTC) for each in (at, at + self.seconds))
        return f"{begin:%a} {begin.day}, {begin:%H:%M} to {end:%H:%M}"


class Values(NamedTuple):
    """What is drawn in one colour. `tone`: good, bad, wait, soft or accent. `values`: one a bucket; None: unknown."""

    name: str
    tone: str
    values: Sequence[float | None]


class Tick(NamedTuple):
    """A label of an axis. `at`: from the left in per cent, or the value at this height."""

    at: float
    label: str


def count_text(value: float) -> str:
    """Return a count for people."""
    return f"{value:,.0f}"


def percent(value: float) -> str:
    """Return a percentage for people, with at most one decimal."""
    return f"{value:.0f} %" if value == round(value) else f"{value:.1f} %"


@dataclass(frozen=True)
class Chart:
    """A chart over time: bars that stand on each other, or a line for each series.

    `text`: a value in words. `highest`: the top of the axis; None: by the values.
    """

    name: str
    buckets: Buckets
    series: Sequence[Values]
    text: Callable[[float], str] = count_text
    stacked: bool = True
    highest: float | None = None

    @property
    def _known(self) -> list[float]:
        """What reaches highest over each bucket: the sum of a stack, or a point of a line."""
        if self.stacked:
            return [sum(each.values[place] or 0 for each in self.series) for place in range(self.buckets.count)]
        return [value for each in self.series for value in each.values if value is not None]

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show."""
        return not any(self._known) if self.stacked else not self._known

    @property
    def y(self) -> Sequence[Tick]:
        """The labels of the values: 1, 2 or 5 times a power of ten apart. The last one is the top of the axis."""
        highest = max(self._known, default=0.0) if self.highest is None else self.highest
        size = 10.0 ** math.floor(math.log10(max(highest, 1e-6) / _MOST_VALUES))
        step = next((each * size for each in (1, 2, 5) if highest / (each * size) <= _MOST_VALUES), 10 * size)
        step = max(1.0, step) if self.stacked else step
        count = max(1, math.ceil(highest / step - 1e-9))
        return [Tick(step * number, self.text(step * number)) for number in range(1, count + 1)]

    @property
    def x(self) -> Sequence[Tick]:
        """The labels of the time, in UTC: few enough that they have room on a telephone."""
        whole = self.buckets.seconds * self.buckets.count
        step = next((each for each in _STEPS if whole / each <= _MOST_TIMES), _STEPS[-1])
        first = math.ceil(self.buckets.since / step)
        places = [
            (number * step - self.buckets.since) / whole * 100 for number in range(first, first + _MOST_TIMES + 1)
        ]
        found = [(at, datetime.fromtimestamp((first + number) * step, UTC)) for number, at in enumerate(places)]
        form = "{:%a} {}" if step >= _DAY else "{:%H:%M}"
        return [Tick(round(at, 2), form.format(when, when.day)) for at, when in found if _EDGE <= at <= 100 - _EDGE]

    @property
    def summary(self) -> str:
        """What it shows, in one sentence."""
        if self.stacked:
            sums = [(each.name, sum(value or 0 for value in each.values)) for each in self.series]
            return ", ".join(f"{self.text(value)} {name}" for name, value in sums if value)
        latest = [(each.name, [value for value in each.values if value is not None]) for each in self.series]
        return ", ".join(f"{name} {self.text(values[-1])} at last" for name, values in latest if values)
