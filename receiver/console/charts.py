"""Charts as values: where each bar, line and tick is. Pure; templates/charts.html draws them, and a table beside each.

A plot is WIDTH wide, whatever the screen makes of that, and HEIGHT pixels high; ticks are in per cent of the width, so
that their labels are not stretched with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

WIDTH: Final = 1000
HEIGHT: Final = 130
SPARK_HEIGHT: Final = 24
# Part of a bar's place that is left free.
_GAP: Final = 0.18
# Maximum labels of an axis.
_MOST_TIMES: Final = 6
_MOST_VALUES: Final = 3
# A highest value below this is nothing.
_LEAST: Final = 1e-6
# No value above it is drawn: sums of several must be finite.
_LARGEST = 1e300
# Seconds between two labels of the time, and of those that have a date.
_STEPS: Final = (60, 300, 600, 900, 1800, 3600, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800, 2_592_000)
_DAY: Final = 86_400
# Labels nearer to an edge than this would be cut off, in per cent.
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

    def place(self, at: float) -> int | None:
        """Return the number of the one that a time is in; None for a time before or after all of them."""
        number = math.floor((at - self.since) / self.seconds)
        return number if 0 <= number < self.count else None


@dataclass(frozen=True, slots=True)
class Values:
    """What is drawn in one colour. `tone`: good, bad, wait, soft or accent. `values`: one a bucket; None: unknown."""

    name: str
    tone: str
    values: Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Tick:
    """A label of an axis. `at`: from the left in per cent, or from the top in pixels."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Bar:
    """A rectangle in the plot."""

    tone: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Line:
    """A line in the plot, in pieces where there is nothing between. `pieces`: "x,y x,y …" each."""

    tone: str
    pieces: Sequence[str]


@dataclass(frozen=True, slots=True)
class Stretch:
    """One bucket in words. `at`: when it begins. `bars`: those over it; `texts`: the value of each series."""

    at: float
    label: str
    bars: Sequence[Bar]
    texts: Sequence[str]


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart over time. `x`, `y`: labels. `stretches`: each bucket; `lines`: over all of them. `summary`: what it
    shows, in one sentence. `empty`: there is nothing to show."""

    name: str
    summary: str
    series: Sequence[Values]
    buckets: Buckets
    x: Sequence[Tick]
    y: Sequence[Tick]
    stretches: Sequence[Stretch]
    lines: Sequence[Line]
    empty: bool


@dataclass(frozen=True, slots=True)
class Sparkline:
    """A chart without axes. `summary`: what it shows."""

    summary: str
    bars: Sequence[Bar]


def count_text(value: float) -> str:
    """Return a count for people."""
    return f"{value:,.0f}"


def stacked(name: str, buckets: Buckets, series: Sequence[Values]) -> Chart:
    """Return a chart of counts, one above the other. Negative values are left out."""
    sums = [sum(_known(each.values, place) or 0 for each in series) for place in range(buckets.count)]
    top, y = _scale(max(sums, default=0.0), count_text, whole=True)
    bars = _bars(buckets.count, series, top, WIDTH, HEIGHT)
    totals = ", ".join(f"{count_text(_sum(each))} {each.name}" for each in series if _sum(each))
    return Chart(
        name,
        totals or "nothing in this time",
        series,
        buckets,
        time_ticks(buckets),
        y,
        _stretches(buckets, series, count_text, bars),
        (),
        not any(sums),
    )


def lines(
    name: str, buckets: Buckets, series: Sequence[Values], text: Callable[[float], str], top: float | None = None
) -> Chart:
    """Return a chart of lines. `text`: a value in words. `top`: the highest value of the axis, by default by the
    values."""
    known = [
        value for each in series for place in range(buckets.count) if (value := _known(each.values, place)) is not None
    ]
    top, y = _scale(max(known, default=0.0) if top is None else top, text, whole=False)
    drawn = [Line(each.tone, _pieces(buckets, each.values, top)) for each in series]
    latest = [(each.name, _latest(each, buckets.count)) for each in series]
    summary = ", ".join(f"{said} {text(value)} at last" for said, value in latest if value is not None)
    return Chart(
        name,
        summary or "nothing in this time",
        series,
        buckets,
        time_ticks(buckets),
        y,
        _stretches(buckets, series, text, [()] * buckets.count),
        drawn,
        not known,
    )


def sparkline(series: Sequence[Values], summary: str) -> Sparkline:
    """Return bars of counts, one above the other, as high as the highest of them lets them be."""
    count = max((len(each.values) for each in series), default=0)
    sums = [sum(_known(each.values, place) or 0 for each in series) for place in range(count)]
    bars = _bars(count, series, max(sums, default=0.0) or 1.0, WIDTH, SPARK_HEIGHT)
    return Sparkline(summary, [bar for each in bars for bar in each])


def time_ticks(buckets: Buckets) -> list[Tick]:
    """Return labels at whole times, in UTC: few enough that they have room on a telephone."""
    whole = buckets.seconds * buckets.count
    step = next((each for each in _STEPS if whole / each <= _MOST_TIMES), _STEPS[-1])
    number = math.ceil(buckets.since / step)
    found: list[Tick] = []
    while number * step < buckets.since + whole and len(found) <= _MOST_TIMES:
        at = (number * step - buckets.since) / whole * 100
        if _EDGE <= at <= 100 - _EDGE:
            found.append(Tick(round(at, 2), _time_label(number * step, step)))
        number += 1
    return found


def _time_label(at: float, step: float) -> str:
    moment = datetime.fromtimestamp(at, UTC)
    return f"{moment:%a} {moment.day}" if step >= _DAY else f"{moment:%H:%M}"


def _stretch_label(at: float, seconds: float) -> str:
    begin, end = datetime.fromtimestamp(at, UTC), datetime.fromtimestamp(at + seconds, UTC)
    return f"{begin:%a} {begin.day}, {begin:%H:%M} to {end:%H:%M}"


def _scale(highest: float, text: Callable[[float], str], *, whole: bool) -> tuple[float, list[Tick]]:
    """Return the highest value of an axis, and its labels: 1, 2 or 5 times a power of ten apart."""
    if highest < _LEAST:
        return 1.0, []
    size = 10.0 ** math.floor(math.log10(highest / _MOST_VALUES))
    step = next((each * size for each in (1, 2, 5) if highest / (each * size) <= _MOST_VALUES), 10 * size)
    step = max(1.0, step) if whole else step
    count = max(1, math.ceil(highest / step - 1e-9))
    top = step * count
    return top, [Tick(round(_y(step * number, top, HEIGHT), 2), text(step * number)) for number in range(1, count + 1)]


def _y(value: float, top: float, height: float) -> float:
    return height * (1 - min(1.0, value / top))


def _known(values: Sequence[float | None], place: int) -> float | None:
    """Return a value; None if it is missing or cannot be drawn."""
    value = values[place] if place < len(values) else None
    return value if value is not None and 0 <= value <= _LARGEST else None


def _sum(series: Values) -> float:
    return sum(_known(series.values, place) or 0 for place in range(len(series.values)))


def _latest(series: Values, count: int) -> float | None:
    known = (_known(series.values, place) for place in reversed(range(count)))
    return next((value for value in known if value is not None), None)


def _bars(count: int, series: Sequence[Values], top: float, width: float, height: float) -> list[list[Bar]]:
    """Return the bars over each bucket, from the bottom up."""
    place = width / max(1, count)
    found: list[list[Bar]] = []
    for number in range(count):
        below, bars = 0.0, []
        for each in series:
            value = _known(each.values, number)
            if not value:
                continue
            low, high = _y(below, top, height), _y(below + value, top, height)
            x = place * (number + _GAP / 2)
            bars.append(Bar(each.tone, round(x, 2), round(high, 2), round(place * (1 - _GAP), 2), round(low - high, 2)))
            below += value
        found.append(bars)
    return found


def _pieces(buckets: Buckets, values: Sequence[float | None], top: float) -> list[str]:
    """Return a line through the middle of each bucket. A value alone is a short stroke."""
    place = WIDTH / max(1, buckets.count)
    pieces: list[list[tuple[float, float]]] = [[]]
    for number in range(buckets.count):
        value = _known(values, number)
        if value is None:
            pieces.append([])
        else:
            pieces[-1].append((place * (number + 0.5), _y(value, top, HEIGHT)))
    strokes = (
        each if len(each) > 1 else [(each[0][0] - place / 4, each[0][1]), (each[0][0] + place / 4, each[0][1])]
        for each in pieces
        if each
    )
    return [" ".join(f"{x:.2f},{y:.2f}" for x, y in each) for each in strokes]


def _stretches(
    buckets: Buckets, series: Sequence[Values], text: Callable[[float], str], bars: Sequence[Sequence[Bar]]
) -> list[Stretch]:
    def said(each: Values, number: int) -> str:
        value = _known(each.values, number)
        return "" if value is None else text(value)

    return [
        Stretch(at, _stretch_label(at, buckets.seconds), bars[number], [said(each, number) for each in series])
        for number, at in enumerate(buckets.starts)
    ]


def values_of(buckets: Buckets, found: Mapping[float, float]) -> list[float | None]:
    """Return the values of series that are known by the time at which their bucket begins; or 0."""
    values: list[float | None] = [0.0] * buckets.count
    for at, value in found.items():
        if (place := buckets.place(at)) is not None:
            values[place] = (values[place] or 0.0) + value
    return values
