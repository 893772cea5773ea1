"""Where bars, lines and labels of charts are, whatever the numbers."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from receiver.console import charts
from receiver.console.charts import Buckets, Chart, Values, lines, sparkline, stacked, time_ticks, values_of
from receiver.console.rendering import Renderer
from receiver.console.window import WINDOWS

TONES = ["good", "bad", "wait"]
NOW = 1_790_000_000.0

any_number = st.one_of(
    st.none(), st.integers(0, 10**15).map(float), st.floats(), st.floats(0, 1), st.sampled_from([0.0, -1.0, 5e-324])
)
some_buckets = st.builds(
    Buckets.until, st.floats(0, 4e9), st.sampled_from([1.0, 60.0, 1800.0, 10_800.0, 86_400.0]), st.integers(1, 60)
)
some_series = st.lists(
    st.builds(
        Values,
        st.sampled_from(["completed", '"><script>', "\u202e"]),
        st.sampled_from(TONES),
        st.lists(any_number, max_size=70),
    ),
    max_size=4,
)


def check_ticks(chart: Chart) -> None:
    """Labels are within the plot, in order, and few."""
    assert [each.at for each in chart.x] == sorted({each.at for each in chart.x})
    assert all(0 <= each.at <= 100 for each in chart.x)
    assert len(chart.x) <= 6
    assert all(0 <= each.at <= charts.HEIGHT for each in chart.y)
    assert len(chart.y) <= 3


def check_bars(bars: list[charts.Bar], height: int) -> None:
    for bar in bars:
        assert all(map(math.isfinite, (bar.x, bar.y, bar.width, bar.height)))
        assert bar.x >= -0.01
        assert bar.x + bar.width <= charts.WIDTH + 0.01
        assert bar.y >= -0.01
        assert bar.y + bar.height <= height + 0.02
        assert bar.width > 0
        assert bar.height >= 0


@given(some_buckets, some_series)
@example(Buckets.until(0.0, 1.0, 1), [Values("a", "good", [1e308]), Values("b", "bad", [1e308])])
def test_all_bars_are_in_the_plot(buckets: Buckets, series: list[Values]) -> None:
    chart = stacked("Runs", buckets, series)
    check_ticks(chart)
    check_bars([bar for each in chart.stretches for bar in each.bars], charts.HEIGHT)
    assert chart.empty == (not any(each.bars for each in chart.stretches))
    check_bars(list(sparkline(series, "").bars), charts.SPARK_HEIGHT)


@given(some_buckets, some_series, st.sampled_from([None, 100.0]))
def test_all_lines_are_in_the_plot(buckets: Buckets, series: list[Values], top: float | None) -> None:
    chart = lines("Success", buckets, series, charts.count_text, top)
    check_ticks(chart)
    for line in chart.lines:
        for piece in line.pieces:
            points = [tuple(map(float, each.split(","))) for each in piece.split(" ")]
            assert len(points) > 1
            assert all(0 <= x <= charts.WIDTH and 0 <= y <= charts.HEIGHT for x, y in points)
            assert [x for x, _ in points] == sorted(x for x, _ in points)


@given(some_buckets, some_series)
def test_what_is_drawn_is_well_formed(buckets: Buckets, series: list[Values]) -> None:
    # Given charts whose series have hostile names
    renderer = Renderer(())
    for chart in (stacked("Runs", buckets, series), lines("Age", buckets, series, charts.count_text)):
        # Then each is one element, with nothing of a name as markup
        found = ET.fromstring(renderer.macro("charts.html", "plot", chart))
        assert found.tag == "figure"
        assert "script" not in {each.tag for each in found.iter()}
        assert "NaN" not in ET.tostring(found, encoding="unicode")


def test_nothing_is_an_empty_chart_that_says_so() -> None:
    buckets = Buckets.until(NOW, 60, 10)
    for chart in (stacked("Runs", buckets, []), lines("Age", buckets, [Values("x", "good", [])], charts.count_text)):
        assert chart.empty
        assert chart.summary == "nothing in this time"
        assert "Nothing in this time." in Renderer(()).macro("charts.html", "plot", chart)


def test_bars_stand_on_each_other_as_high_as_they_count() -> None:
    buckets = Buckets.until(NOW, 60, 2)
    chart = stacked("Runs", buckets, [Values("completed", "good", [30, 0]), Values("failed", "bad", [10, 20])])
    # Then 40 is the top of the axis, in steps of 20
    assert [(tick.label, tick.at) for tick in chart.y] == [("20", 65.0), ("40", 0.0)]
    first, second = (each.bars for each in chart.stretches)
    assert [(bar.tone, bar.y, bar.height) for bar in first] == [("good", 32.5, 97.5), ("bad", 0.0, 32.5)]
    assert [(bar.tone, bar.y, bar.height) for bar in second] == [("bad", 65.0, 65.0)]
    assert chart.summary == "30 completed, 30 failed"
    assert [each.texts for each in chart.stretches] == [["30", "10"], ["0", "20"]]


def test_a_line_has_a_gap_where_nothing_is_known() -> None:
    chart = lines("Age", Buckets.until(NOW, 60, 4), [Values("half", "good", [1, 2, None, 4])], charts.count_text)
    assert [len(each.split(" ")) for each in chart.lines[0].pieces] == [2, 2]
    assert chart.summary == "half 4 at last"


@pytest.mark.parametrize(
    ("seconds", "count", "labels"),
    [
        (60, 60, ["13:20", "13:30", "13:40", "13:50", "14:00", "14:10"]),
        (1800, 48, ["18:00", "00:00", "06:00", "12:00"]),
        (10_800, 56, ["Wed 16", "Fri 18", "Sun 20"]),
    ],
)
def test_labels_stand_at_times_that_people_name(seconds: float, count: int, labels: list[str]) -> None:
    # Given a Monday in September 2026, 14:13:20
    assert [tick.label for tick in time_ticks(Buckets.until(NOW, seconds, count))] == labels


@pytest.mark.parametrize("window", WINDOWS)
def test_stretches_of_time_are_those_of_totals(window: object) -> None:
    buckets = next(each for each in WINDOWS if each is window).buckets(NOW)
    assert buckets.since % buckets.seconds == 0
    assert buckets.place(NOW) == buckets.count - 1
    assert buckets.place(buckets.since - 1) is None
    assert values_of(buckets, {buckets.since: 2.0, NOW: 3.0, NOW + 2 * buckets.seconds: 4.0}) == [
        2.0,
        *[0.0] * (buckets.count - 2),
        3.0,
    ]
