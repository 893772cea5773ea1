"""A console over a real receiver.

console_server   a receiver whose console has the password PASSWORD
browser          a client without JavaScript that keeps cookies, as a browser's forms would act
operated         a receiver with two sources and the sinks results and ops. admin may do everything, ana may view, and
                 bo may do everything with the source other
as_person        as_person("bo") → a browser in which somebody of these is signed in
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from argon2 import PasswordHasher

from tests.servers.submitting import Submitting
from tests.support.console import PASSWORD, Browser


@pytest.fixture(scope="session")
def hashed_password() -> str:
    """One that is checked at once, where those of people take 50 ms of a core, and 64 MiB."""
    return PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)


@pytest.fixture
def console_server(submitting: Callable[..., Submitting], hashed_password: str, tmp_path: Path) -> Submitting:
    people = {
        "ana": {"password": hashed_password, "scopes": ["view"], "source": "other"},
        "olga": {"password": hashed_password, "scopes": ["view", "operate"], "source": "skyvern"},
    }
    return submitting(
        "http://127.0.0.1:9",
        dispatching=False,
        console_password=hashed_password,
        console={"users": people},
        sinks={"results": {"type": "files", "path": str(tmp_path / "results")}},
    )


@pytest.fixture
def browser(console_server: Submitting) -> Iterator[Browser]:
    it = Browser(console_server.url)
    yield it
    it.session.close()


@pytest.fixture
def operated(submitting: Callable[..., Submitting], hashed_password: str, tmp_path: Path) -> Submitting:
    people = {
        "ana": {"password": hashed_password, "scopes": ["view"]},
        "bo": {"password": hashed_password, "scopes": ["view", "operate"], "source": "other"},
    }
    return submitting(
        "http://127.0.0.1:9",
        dispatching=False,
        console_password=hashed_password,
        console={"users": people},
        sources={"skyvern": {"secrets": ["s"]}, "other": {"secrets": ["o"]}},
        sinks={name: {"type": "files", "path": str(tmp_path / name)} for name in ("results", "ops")},
        routes=[{"name": "everything", "to": ["results"]}],
    )


@pytest.fixture
def as_person(operated: Submitting) -> Iterator[Callable[[str], Browser]]:
    with ExitStack() as stack:

        def sign_in(name: str) -> Browser:
            it = Browser(operated.url)
            stack.callback(it.session.close)
            assert it.sign_in(name).status_code == 303
            return it

        yield sign_in
