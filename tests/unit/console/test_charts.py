"""Where bars, lines and labels of charts are."""

import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.console.charts import WINDOWS, Buckets, Chart, Values, percent
from receiver.console.rendering import Renderer

NOW = 1_790_000_000.0


def drawn(chart: Chart) -> ET.Element:
    return ET.fromstring(Renderer(()).macro("charts.html", "plot", chart))


def rects(element: ET.Element) -> list[tuple[str, float, float, float, float]]:
    """Tone, x, y, width and height of each bar."""
    names = ("x", "y", "width", "height")
    found = [each for each in element.iter("rect") if each.get("class") != "hit"]
    return [(each.get("class", ""), *(float(each.get(name, "nan")) for name in names)) for each in found]  # type: ignore[misc]


@st.composite
def charts(draw: st.DrawFn) -> Chart:
    buckets = Buckets.until(draw(st.floats(0, 4e9)), draw(st.sampled_from([60.0, 1800.0])), draw(st.integers(1, 60)))
    number = st.one_of(st.none(), st.integers(0, 10**15).map(float), st.floats(0, 1, allow_subnormal=False))
    values = st.lists(number, min_size=buckets.count, max_size=buckets.count)
    series = st.builds(Values, st.sampled_from(["completed", '"><script>']), st.sampled_from(["good", "bad"]), values)
    return Chart("Runs", buckets, draw(st.lists(series, max_size=3)), stacked=draw(st.booleans()))


@given(charts())
def test_everything_drawn_is_inside_the_plot(chart: Chart) -> None:
    found = drawn(chart)
    assert found.tag == "figure"
    assert "script" not in {each.tag for each in found.iter()}
    for _, x, y, width, height in rects(found):
        assert x >= 0
        assert x + width <= 1000.01
        assert y >= -0.01
        assert y + height <= 130.02
    for path in found.iter("path"):
        points = re.findall(r"[ML]([0-9.]+) ([0-9.]+)", path.get("d", ""))
        assert all(0 <= float(x) <= 1000 and 0 <= float(y) <= 130 for x, y in points)
    places = [each.at for each in chart.x]
    assert places == sorted(set(places))
    assert all(0 <= each <= 100 for each in places)
    assert len(places) <= 6
    assert 1 <= len(chart.y) <= 3


def test_empty_chart_shows_a_sentence() -> None:
    buckets = Buckets.until(NOW, 60, 2)
    for chart in (Chart("Runs", buckets, []), Chart("Age", buckets, [Values("x", "good", [None] * 2)], stacked=False)):
        assert "No data in this period." in Renderer(()).macro("charts.html", "plot", chart)


def test_bars_stand_on_each_other_as_high_as_they_count() -> None:
    buckets = Buckets.until(NOW, 60, 2)
    chart = Chart("Runs", buckets, [Values("completed", "good", [30, 0]), Values("failed", "bad", [10, 20])])
    # Then 40 is the top of the axis, in steps of 20
    assert [(tick.label, tick.at) for tick in chart.y] == [("20", 20), ("40", 40)]
    bars = [(tone, y, height) for tone, _, y, _, height in rects(drawn(chart))]
    assert bars == [("good", 32.5, 97.5), ("bad", 0.0, 32.5), ("bad", 65.0, 65.0)]
    assert chart.summary == "30 completed, 30 failed"


def test_line_has_a_gap_where_a_value_is_unknown() -> None:
    values = Values("half", "good", [1, 2, None, 4])
    chart = Chart("Age", Buckets.until(NOW, 60, 4), [values], stacked=False)
    drawings = [re.sub(r"[0-9. ]+", "", path.get("d", "")) for path in drawn(chart).findall(".//path")]
    # Then a value between two gaps is a dot
    assert drawings == ["MLM", "Mh"]
    assert chart.summary == "half 4 at last"


def test_table_has_a_row_for_each_stretch_with_a_value() -> None:
    # Given a success of nothing in the first half, and an unknown one in the second
    chart = Chart("Success", Buckets.until(NOW, 60, 2), [Values("ok", "good", [0.0, None])], percent, stacked=False)
    rows = [[cell.text for cell in row] for row in drawn(chart).findall(".//tbody/tr")]
    assert rows == [[chart.buckets.label(chart.buckets.since), "0 %"]]


@pytest.mark.parametrize(
    ("seconds", "count", "labels"),
    [
        (60, 60, ["13:20", "13:30", "13:40", "13:50", "14:00", "14:10"]),
        (1800, 48, ["18:00", "00:00", "06:00", "12:00"]),
        (10_800, 56, ["Wed 16", "Fri 18", "Sun 20"]),
    ],
)
def test_time_labels_are_at_round_times(seconds: float, count: int, labels: list[str]) -> None:
    # Given a Monday in September 2026, 14:13:20
    assert [tick.label for tick in Chart("Runs", Buckets.until(NOW, seconds, count), []).x] == labels


@pytest.mark.parametrize("window", WINDOWS, ids=lambda window: window.name)
def test_last_bucket_of_a_window_contains_now(window: object) -> None:
    buckets = next(each for each in WINDOWS if each is window).buckets(NOW)
    assert buckets.since % buckets.seconds == 0
    assert buckets.starts[-1] <= NOW < buckets.starts[-1] + buckets.seconds
    assert buckets.values({buckets.since: 2.0})[:2] == [2.0, 0.0]
