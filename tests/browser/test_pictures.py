"""The pictures in README.md and docs. `UPDATE=1 pytest -m long tests/browser/test_pictures.py` takes new ones."""

import os
import re
from typing import Literal

import pytest
from playwright.sync_api import Browser

from tests.servers.console import ConsoleDeployment
from tests.support.browser_pages import visitor
from tests.support.paths import ROOT

pytestmark = pytest.mark.long

FOLDER = ROOT / "docs" / "pictures"
# By name: the page, what must be seen on it before it is taken, and the height in pixels of a window 1280 wide.
PICTURES = {
    "overview": ("/console", "svg", 960),
    "run": ("/console/runs/wr_512004417?source=skyvern", "video", 800),
    "incidents": ("/console/incidents", "td form.action button", 800),
}
Scheme = Literal["light", "dark"]


def test_pages_show_each_picture() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    shown = re.findall(r"pictures/(\S+?\.png)", "".join(page.read_text() for page in pages))
    made = {f"console-{name}-{scheme}.png" for name in PICTURES for scheme in ("light", "dark")}
    assert set(shown) == made == {path.name for path in FOLDER.iterdir()}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_each_page_that_is_pictured_is_there(chromium: Browser, deployment: ConsoleDeployment, scheme: Scheme) -> None:
    with visitor(chromium, deployment.url, scheme) as it:
        it.sign_in()
        for name, (path, seen, height) in PICTURES.items():
            it.page.set_viewport_size({"width": 1280, "height": height})
            it.open(path)
            it.page.locator(seen).first.wait_for()
            place = it.page.locator(f"main {seen}").first.bounding_box()
            assert place is not None
            assert place["y"] < height, f"{name}: {seen} is out of sight"
            if os.environ.get("UPDATE"):
                it.page.screenshot(path=FOLDER / f"console-{name}-{scheme}.png")
