"""A person at a browser: signed in, with all that the browser complains about."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, expect

from tests.support.console import PASSWORD
from tests.support.waiting import PATIENCE

expect.set_options(timeout=PATIENCE * 1000)  # milliseconds; of its own it would wait for 5 s


@dataclass
class Visitor:
    """`page`: what is looked at. `complaints`: errors of the page, broken policies, dialogs, failed loads; `asked`: for
    what the browser asked elsewhere."""

    page: Page
    url: str
    complaints: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def open(self, path: str) -> None:
        """Open a page of the console; `path` begins with /console."""
        self.page.goto(self.url.removesuffix("/console") + path)

    def sign_in(self, name: str = "admin") -> None:
        self.open("/console/login")
        self.page.fill("[name=name]", name)
        self.page.fill("[name=password]", PASSWORD)
        with self.page.expect_navigation():  # a click does not wait for the page that it leads to
            self.page.click("button.main")


@contextmanager
def visitor(
    chromium: Browser, url: str, scheme: Literal["light", "dark"] = "light", **options: Any
) -> Iterator[Visitor]:
    """Somebody at a browser of their own, not signed in yet."""
    context = chromium.new_context(color_scheme=scheme, viewport={"width": 1440, "height": 900}, **options)
    context.set_default_timeout(PATIENCE * 1000)
    it = Visitor(context.new_page(), url)
    home = urlsplit(url).netloc

    def told(message: Any) -> None:
        if message.type in ("error", "warning"):
            it.complaints.append(f"{message.type}: {message.text} {message.location.get('url', '')}")

    def dialog(found: Any) -> None:
        it.complaints.append(f"dialog: {found.message}")
        found.dismiss()

    def request(found: Any) -> None:
        if urlsplit(found.url).netloc != home:
            it.asked.append(found.url)

    it.page.on("console", told)
    it.page.on("pageerror", lambda error: it.complaints.append(f"script: {error}"))
    it.page.on("dialog", dialog)
    it.page.on("request", request)
    try:
        yield it
    finally:
        context.close()
