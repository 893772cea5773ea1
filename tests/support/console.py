"""A browser without JavaScript: what its forms send, with its cookies."""

from __future__ import annotations

import re

import httpx2

PASSWORD = "a-password-of-the-tests"


class Browser:
    """`session`: cookies and all. A form is sent as a browser does: from its own site, with what the page had."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.session = httpx2.Client(base_url=url, trust_env=False, headers={"sec-fetch-site": "same-origin"})

    def get(self, path: str) -> httpx2.Response:
        return self.session.get(f"/console{path}")

    def post(self, path: str, headers: dict[str, str] | None = None, **form: str) -> httpx2.Response:
        return self.session.post(f"/console{path}", data=form, headers=headers)

    def sign_in(self, name: str = "admin", password: str = PASSWORD, where: str = "") -> httpx2.Response:
        return self.post("/login", name=name, password=password, next=where)

    @property
    def form_token(self) -> str:
        """What the forms of this session hold."""
        found = re.search(r'name="form_token" value="([0-9a-f]+)"', self.get("/runs").text)
        assert found
        return found[1]
