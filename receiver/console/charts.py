"""Charts over time as values, the labels of their axes, and the time that a page looks at, as its URL says it. Pure;
templates/charts.html draws them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NamedTuple
from urllib.parse import urlencode

from receiver.console.page import PATH, Query
from receiver.errors import Invalid

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

    def values(self, by_start: Mapping[float, float]) -> list[float | None]:
        """Return one value for each bucket, by the time at which it begins; 0 where `by_start` has none."""
        return [by_start.get(at, 0.0) for at in self.starts]

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
    text: Callable[[float], str] = "{:,.0f}".format
    stacked: bool = True
    highest: float | None = None

    @property
    def _heights(self) -> list[float]:
        """What reaches highest over each bucket: the sum of a stack, or a point of a line."""
        if self.stacked:
            return [sum(each.values[place] or 0 for each in self.series) for place in range(self.buckets.count)]
        return [value for each in self.series for value in each.values if value is not None]

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show."""
        return not any(self._heights) if self.stacked else not self._heights

    @property
    def y(self) -> Sequence[Tick]:
        """The labels of the values: 1, 2 or 5 times a power of ten apart. The last one is the top of the axis."""
        highest = max(self._heights, default=0.0) if self.highest is None else self.highest
        size = 10.0 ** math.floor(math.log10(max(highest, 1e-6) / _MOST_VALUES))
        step = next((each * size for each in (1, 2, 5) if highest / (each * size) <= _MOST_VALUES), 10 * size)
        step = max(1.0, step)
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
        ticks = [(at, datetime.fromtimestamp((first + number) * step, UTC)) for number, at in enumerate(places)]
        form = "{:%a} {}" if step >= _DAY else "{:%H:%M}"
        return [Tick(round(at, 2), form.format(when, when.day)) for at, when in ticks if _EDGE <= at <= 100 - _EDGE]

    @property
    def summary(self) -> str:
        """What it shows, in one sentence."""
        if self.stacked:
            sums = [(each.name, sum(value or 0 for value in each.values)) for each in self.series]
            return ", ".join(f"{self.text(value)} {name}" for name, value in sums if value)
        latest = [(each.name, [value for value in each.values if value is not None]) for each in self.series]
        return ", ".join(f"{name} {self.text(values[-1])} at last" for name, values in latest if values)


# The name in the query.
NAME: Final = "window"


@dataclass(frozen=True, slots=True)
class Window:
    """`name`: as in the query, and as filters take it for a time ago. `seconds` of each of `count` buckets."""

    name: str
    words: str
    seconds: float
    count: int

    def buckets(self, now: float) -> Buckets:
        """Return the stretches of time up to now."""
        return Buckets.until(now, self.seconds, self.count)


WINDOWS: Final[Sequence[Window]] = (
    Window("1h", "last hour", 60, 60),
    Window("24h", "last 24 hours", 1800, 48),
    Window("7d", "last 7 days", 10_800, 56),
)
_USUAL: Final = WINDOWS[1]


def window_of(query: Query) -> Window:
    """Return the window that a query asks for. Raises Invalid."""
    asked = dict(query).get(NAME) or _USUAL.name
    if (window := next((each for each in WINDOWS if each.name == asked), None)) is None:
        raise Invalid(f"{NAME}: must be {', '.join(each.name for each in WINDOWS)}")
    return window


def window_links(path: str, query: Query, chosen: Window) -> list[dict[str, object]]:
    """Return the links to the same page with each window."""
    rest = [(name, value) for name, value in query if value and name != NAME]
    return [
        {
            "name": each.name,
            "words": each.words,
            "path": f"{PATH}{path}?{urlencode([*rest, (NAME, each.name)])}",
            "chosen": each == chosen,
        }
        for each in WINDOWS
    ]
