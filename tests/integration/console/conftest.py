"""A console over a real receiver.

console_server   a receiver whose console has the password PASSWORD
browser          a client without JavaScript that keeps cookies, as a browser's forms would act
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import httpx2
import pytest

from receiver.console.passwords import hash_password
from tests.servers.submitting import Submitting

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


@pytest.fixture(scope="session")
def hashed_password() -> str:
    return hash_password(PASSWORD)


@pytest.fixture
def console_server(submitting: Callable[..., Submitting], hashed_password: str) -> Submitting:
    people = {
        "ana": {"password": hashed_password, "scopes": ["view"], "source": "other"},
    }
    return submitting(
        "http://127.0.0.1:9", dispatching=False, console_password=hashed_password, console={"users": people}
    )


@pytest.fixture
def browser(console_server: Submitting) -> Iterator[Browser]:
    it = Browser(console_server.url)
    yield it
    it.session.close()
