"""Content types, and which of them a browser may show."""

import pytest

from handlers.mirror.names import content_type, is_inline_safe


@pytest.mark.parametrize(
    ("name", "kind", "shown"),
    [
        ("a.PDF", "application/pdf", True),
        ("recording.webm", "video/webm", True),
        ("page.html", "text/html", False),
        ("drawing.svg", "image/svg+xml", False),
        ("feed.xml", "application/xml", False),
        ("script.js", "application/octet-stream", False),
        ("nothing", "application/octet-stream", False),
    ],
)
def test_what_could_run_in_a_browser_is_not_shown_in_place(name: str, kind: str, shown: bool) -> None:
    assert content_type(name) == kind
    assert is_inline_safe(kind) is shown
