"""All pages of a console that links lead to, and the forms in them."""

from __future__ import annotations

import re
from html import unescape
from typing import NamedTuple

from starlette.routing import compile_path

from receiver.console.catalogue import PAGES
from tests.support.console import Browser


class Form(NamedTuple):
    """A form that does something. `action`: the name of what it does; `fields`: as the page has them."""

    action: str
    fields: list[tuple[str, str]]


def crawl(browser: Browser, most: int = 160) -> dict[str, str]:
    """Return the pages to which something leads, by path: one with each path of the catalogue, and further ones."""
    found: dict[str, str] = {}
    paths = [f"/console{each.path}" for each in PAGES if "{" not in each.path]
    while paths and len(found) < most:
        path = paths.pop(0)
        if path in found:
            continue
        answer = browser.session.get(path)
        if answer.status_code != 200 or not answer.headers["content-type"].startswith("text/html"):
            continue
        found[path] = answer.text
        links = re.findall(r'href="(/console/[^"]*)"', answer.text)
        further = [unescape(each).partition("#")[0] for each in links if "/static/" not in each]
        # What only a page of one kind leads to comes first: each kind is then among them.
        seen = {kind_of(each) for each in found}
        paths = [*(each for each in further if kind_of(each) not in seen), *paths, *further]
    return found


def kind_of(path: str) -> str:
    """Return the path of the catalogue that this one is of; "" for none."""
    plain = path.partition("?")[0].removeprefix("/console")
    return next((each.path for each in PAGES if compile_path(each.path)[0].match(plain)), "")


def forms_in(html: str) -> list[Form]:
    """Return the forms of a page that do something."""
    found = []
    for name, content in re.findall(r'<form[^>]* action="/console/do/(\w+)"[^>]*>(.*?)</form>', html, re.DOTALL):
        fields = re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)"', content)
        found.append(Form(name, [(unescape(field), unescape(value)) for field, value in fields]))
    return found
