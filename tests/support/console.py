"""A browser without JavaScript, and all pages of a console with their forms."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import unescape
from html.parser import HTMLParser
from typing import NamedTuple

import httpx2
from starlette.requests import Request
from starlette.routing import compile_path

from receiver.console.catalogue import PAGES
from receiver.console.sign_in import COOKIE
from tests.support.waiting import PATIENCE

PASSWORD = "a-password-of-the-tests"

# Texts that would run or load something, were a page to have them unescaped.
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'onmouseover='alert(1)",
    "</title><svg onload=alert(1)>",
    "</textarea><script>alert(1)</script>",
    "javascript:alert(1)",
    "{{ 7 * 7 }}{% include 'base.html' %}",
    "&lt;script&gt;",
    "\u202egnp.exe",
]
_TAG = re.compile(r"<(script|img|svg|iframe|object|embed|a|form)\b[^>]*>", re.IGNORECASE)


def tags(page: str) -> set[str]:
    """Each tag that could run or load something, without the values of its attributes."""
    return {re.sub(r'="[^"]*"', "", each.group(0)) for each in _TAG.finditer(page)}


@dataclass
class PageForm:
    """A form of a page, with what its fields hold as the page came. `buttons`: where each leads, by what it says;
    `values`: what each sends of its own."""

    action: str
    fields: list[tuple[str, str]] = field(default_factory=list)
    buttons: dict[str, str] = field(default_factory=dict)
    values: dict[str, dict[str, str]] = field(default_factory=dict)


class _Forms(HTMLParser):
    """Reads the forms of a page, as a browser would send them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[PageForm] = []
        self._open: PageForm | None = None
        self._select: tuple[str, list[tuple[str | None, bool]]] | None = None
        self._text: tuple[str, str] | None = None
        self._button: tuple[str, str] | None = None
        self._value: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self._open = PageForm(given.get("action", ""))
            self.found.append(self._open)
        elif self._open is None:
            return
        elif tag == "input" and given.get("name") and (given.get("type") != "checkbox" or "checked" in given):
            self._open.fields.append((given["name"], given.get("value", "")))
        elif tag == "button":
            self._button = given.get("formaction", self._open.action), ""
            self._value = {given["name"]: given.get("value", "")} if given.get("name") else {}
        elif tag == "select":
            self._select = given.get("name", ""), []
        elif tag == "option" and self._select is not None:
            self._select[1].append((given.get("value"), "selected" in given))
        elif tag == "textarea":
            self._text = given.get("name", ""), ""

    def handle_data(self, data: str) -> None:
        if self._text is not None:
            self._text = self._text[0], self._text[1] + data
        elif self._button is not None:
            self._button = self._button[0], self._button[1] + data
        elif self._select is not None and self._select[1] and self._select[1][-1][0] is None:
            self._select[1][-1] = data.strip(), self._select[1][-1][1]

    def handle_endtag(self, tag: str) -> None:
        if self._open is None:
            return
        if tag == "form":
            self._open = None
        elif tag == "button" and self._button is not None:
            self._open.buttons[self._button[1].strip()] = self._button[0]
            self._open.values[self._button[1].strip()] = self._value
            self._button = None
        elif tag == "select" and self._select is not None:
            name, options = self._select
            chosen = [value for value, selected in options if selected] or [value for value, _ in options[:1]]
            self._open.fields += [(name, value or "") for value in chosen]
            self._select = None
        elif tag == "textarea" and self._text is not None:
            self._open.fields.append((self._text[0], self._text[1].removeprefix("\n")))
            self._text = None


def request_with(token: str | None) -> Request:
    """Return a request with the cookie of a session."""
    return Request({"type": "http", "headers": [(b"cookie", f"{COOKIE}={token}".encode())]})


def forms(page: str) -> list[PageForm]:
    """Return the forms of a page."""
    reader = _Forms()
    reader.feed(page)
    return reader.found


class Browser:
    """`session`: cookies and all. A form is sent as a browser does: from its own site, with what the page had."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.session = httpx2.Client(
            base_url=url, trust_env=False, timeout=PATIENCE, headers={"sec-fetch-site": "same-origin"}
        )

    def get(self, path: str) -> httpx2.Response:
        return self.session.get(f"/console{path}")

    def post(self, path: str, headers: dict[str, str] | None = None, **form: str | Sequence[str]) -> httpx2.Response:
        return self.session.post(f"/console{path}", data=form, headers=headers)

    def sign_in(self, name: str = "admin", password: str = PASSWORD, where: str = "") -> httpx2.Response:
        return self.post("/login", name=name, password=password, next=where)

    def act(self, action: str, **form: str | Sequence[str]) -> httpx2.Response:
        """Send a form that no page has, of this session."""
        return self.post(f"/do/{action}", form_token=self.form_token, **form)

    def press(self, path: str, action: str, **filled: str | Sequence[str]) -> httpx2.Response:
        """Send the first form of a page that does this, with the fields that somebody has filled."""
        return self.answer(self.get(path), action, **filled)

    def answer(self, page: httpx2.Response, action: str = "", **filled: str | Sequence[str]) -> httpx2.Response:
        """Send the first form of this page that does `action`: of a question, the one that says yes."""
        form = next(each for each in forms(page.text) if each.action.startswith("/console/do/" + action))
        return self._send(form, form.action, filled)

    def click(self, page: httpx2.Response, label: str, **filled: str | Sequence[str]) -> httpx2.Response:
        """Click the first button of this page that says so. Where the answer leads to a page, that one is returned."""
        form = next(each for each in forms(page.text) if label in each.buttons)
        answer = self._send(form, form.buttons[label], {**form.values[label], **filled})
        return self.session.get(answer.headers["location"]) if answer.status_code == 303 else answer

    def _send(self, form: PageForm, action: str, filled: Mapping[str, str | Sequence[str]]) -> httpx2.Response:
        sent: dict[str, str | Sequence[str]] = {}
        for name, value in form.fields:
            sent[name] = [*sent.get(name, []), value]
        return self.post(action.removeprefix("/console"), **{**sent, **filled})

    @property
    def form_token(self) -> str:
        """What the forms of this session hold."""
        found = re.search(r'name="form_token" value="([0-9a-f]+)"', self.get("/runs").text)
        assert found
        return found[1]


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
