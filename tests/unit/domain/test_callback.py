"""Which lane a caller's address belongs to."""

from __future__ import annotations

import pytest

from receiver.domain.callback import lane_of


@pytest.mark.parametrize(
    ("url", "lane"),
    [
        ("https://app.example/hooks?token=secret#x", "callback https://app.example"),
        ("https://APP.example:443/", "callback https://app.example"),
        ("https://app.example./", "callback https://app.example"),
        ("http://user:pw@app.example:8080/a", "callback http://app.example:8080"),
        ("http://[fd00::1]:80/a", "callback http://[fd00::1]"),
        (" https://app.example/ ", "callback https://app.example"),
        ("ftp://app.example/", "callback nowhere"),
        ("https://app.example:99999/", "callback nowhere"),
        ("https:///path", "callback nowhere"),
        ("http://[fd00", "callback nowhere"),
        ("", "callback nowhere"),
    ],
)
def test_a_lane_is_an_origin_and_holds_nothing_secret(url: str, lane: str) -> None:
    assert lane_of(url) == lane
