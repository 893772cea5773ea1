"""Parts of pages that follow what happens: what is rendered how often, for whom, and until when."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from urllib.parse import quote

import pytest

from receiver.console import live, sign_in
from receiver.console.catalogue import PAGES
from receiver.console.http import _Console
from receiver.console.rendering import Renderer
from receiver.ledger import schema
from receiver.submit import streams
from receiver.web import sse
from tests.servers.submitting import Submitting
from tests.support.console import Browser
from tests.support.ledger import new_event, record
from tests.support.waiting import PATIENCE, eventually


class Stream:
    """One that is read in a thread. `parts`: the texts that came."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.comments = 0
        self.ended = threading.Event()

    @property
    def last(self) -> str:
        return self.parts[-1] if self.parts else ""


@pytest.fixture
def person(console_server: Submitting) -> Iterator[Callable[..., Browser]]:
    """Signs somebody in, with a browser of their own."""
    browsers: list[Browser] = []

    def signed_in(name: str = "admin") -> Browser:
        browsers.append(Browser(console_server.url))
        assert browsers[-1].sign_in(name).status_code == 303
        return browsers[-1]

    yield signed_in
    for each in browsers:
        each.session.close()


@pytest.fixture
def following(person: Callable[..., Browser]) -> Iterator[Callable[[Browser, str], Stream]]:
    """Reads the stream of a page in a thread."""
    assert person is not None  # whose browsers are closed after the streams
    threads: list[threading.Thread] = []
    stop = threading.Event()

    def read(browser: Browser, page: str, stream: Stream, begun: threading.Event) -> None:
        path = f"/console/live?page={quote('/console' + page, safe='')}"
        with browser.session.stream("GET", path, timeout=PATIENCE) as answer:
            assert answer.status_code == 200, answer.read()
            begun.set()
            lines: list[str] = []
            for line in answer.iter_lines():
                if stop.is_set():
                    return
                if line.startswith("data: "):
                    lines.append(line.removeprefix("data: "))
                elif line.startswith(":"):
                    stream.comments += 1
                elif not line and lines:
                    stream.parts.append("\n".join(lines))
                    lines = []
        stream.ended.set()

    def follow(browser: Browser, page: str) -> Stream:
        stream, begun = Stream(), threading.Event()
        threads.append(threading.Thread(target=read, args=(browser, page, stream, begun), daemon=True))
        threads[-1].start()
        assert begun.wait(PATIENCE)
        return stream

    yield follow
    stop.set()
    for each in threads:
        each.join(PATIENCE)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes seconds takes less, and streams say often that they live, so that they see when they are to end."""
    monkeypatch.setattr(live, "OFTEN", 0.2)
    monkeypatch.setattr(live, "LOOK", 0.05)
    monkeypatch.setattr(live, "REST", 0.0)
    monkeypatch.setattr(live, "SESSIONS_EVERY", 0.1)
    monkeypatch.setattr(sse, "KEEP_ALIVE", 0.2)


@pytest.fixture(autouse=True)
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The address of each rendering."""
    found: list[str] = []
    before = _Console._live_part

    async def counted(self: _Console, shown: live.Shown) -> live.Rendered:
        found.append(shown.url)
        return await before(self, shown)

    monkeypatch.setattr(_Console, "_live_part", counted)
    return found


def test_a_page_follows_what_happens(
    console_server: Submitting, person: Callable[..., Browser], following: Callable[..., Stream]
) -> None:
    # Given somebody who looks at the list of failed runs
    stream = following(person(), "/runs?status=failed")
    eventually(lambda: "No run matches" in stream.last)
    # When one fails
    record(console_server.ledger, new_event("tsk_1", status="failed", title="<b>Fetch</b>"))
    # Then the part shows it, escaped, and is a part only
    eventually(lambda: "tsk_1" in stream.last)
    assert "&lt;b&gt;Fetch" in stream.last
    assert "<html" not in stream.last
    assert "<nav" not in stream.last


def test_what_many_look_at_is_rendered_once(
    console_server: Submitting,
    person: Callable[..., Browser],
    following: Callable[..., Stream],
    rendered: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given three sessions that look at the same
    monkeypatch.setattr(live, "SELDOM", 3600.0)
    streams = [following(person(), "/runs") for _ in range(3)]
    eventually(lambda: all(each.parts for each in streams))
    before = len(rendered)
    # When something happens
    record(console_server.ledger, new_event("tsk_1"))
    eventually(lambda: all("tsk_1" in each.last for each in streams))
    # Then they were all told the same, of one rendering, or of two when it happened while that was made; of none more
    # when one was on its way that had not read the ledger yet
    assert len({each.last for each in streams}) == 1
    assert len(rendered) - before <= 2


def test_nothing_is_rendered_more_often_than_is_allowed(
    console_server: Submitting,
    person: Callable[..., Browser],
    following: Callable[..., Stream],
    rendered: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given views that may be rendered once in an hour
    monkeypatch.setattr(live, "OFTEN", 3600.0)
    monkeypatch.setattr(live, "SELDOM", 3600.0)
    browser = person()
    first = following(browser, "/runs")
    eventually(lambda: first.parts)
    # When much happens, and others come to look at the same and at something else
    for number in range(3):
        record(console_server.ledger, new_event(f"tsk_{number}"))
    second, other = following(browser, "/runs"), following(browser, "/missing")
    eventually(lambda: second.parts and other.parts)
    # Then who came later got what the first one has
    assert second.last == first.last
    assert rendered == ["/console/runs", "/console/missing"]


def test_each_sees_what_they_may_see(
    console_server: Submitting, person: Callable[..., Browser], following: Callable[..., Stream]
) -> None:
    record(console_server.ledger, new_event("tsk_1"))
    browser = person()
    of_all, of_another = following(browser, "/runs"), following(person("ana"), "/runs")
    eventually(lambda: of_all.parts and of_another.parts)
    assert "tsk_1" in of_all.last
    assert "tsk_1" not in of_another.last
    # Nor has a part anything of a session
    token = browser.form_token
    sinks = following(browser, "/sinks")
    eventually(lambda: 'name="form_token"' in sinks.last)
    assert 'name="form_token" value=""' in sinks.last
    assert token not in sinks.last


@pytest.mark.parametrize("how", ["signs out", "expires"])
def test_a_stream_ends_with_its_session(
    console_server: Submitting, person: Callable[..., Browser], following: Callable[..., Stream], how: str
) -> None:
    # Given two sessions that look at the same
    browser = person()
    stream, lasting = following(browser, "/runs"), following(person(), "/runs")
    eventually(lambda: stream.parts and lasting.parts)
    # When one ends
    if how == "signs out":
        browser.post("/logout", form_token=browser.form_token)
    else:
        rows = schema.console_sessions
        digest = sign_in._digest(browser.session.cookies.get(sign_in.COOKIE, path="/console") or "")
        console_server.ledger.write(
            lambda it: it.execute(rows.update().where(rows.c.hash == digest).values(expires_at=1.0))
        )
    # Then its stream does, and the other one goes on
    assert stream.ended.wait(PATIENCE)
    record(console_server.ledger, new_event("tsk_1"))
    eventually(lambda: "tsk_1" in lasting.last)
    assert not lasting.ended.is_set()


def test_what_nobody_may_follow(browser: Browser) -> None:
    # Who is not signed in
    assert browser.get("/live?page=/console/runs").status_code == 401
    browser.sign_in()
    # And what is no page, or has no such part
    for page in ("", "/console/nowhere", "/v1/runs", "//evil.example/console/runs", "/console/static/live.js"):
        assert browser.get(f"/live?page={quote(page, safe='')}").status_code == 404


@pytest.fixture
def one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_STREAMS", 1)


@pytest.mark.usefixtures("one_place")
def test_there_are_so_many_streams_at_the_most(
    person: Callable[..., Browser], following: Callable[..., Stream]
) -> None:
    browser = person()
    stream = following(browser, "/missing")
    eventually(lambda: stream.comments)
    assert browser.get("/live?page=/console/runs").status_code == 503


def test_a_stream_says_that_it_lives(person: Callable[..., Browser], following: Callable[..., Stream]) -> None:
    stream = following(person(), "/missing")
    eventually(lambda: stream.comments > 1)


def test_a_part_needs_nothing_of_the_rest_of_its_page() -> None:
    renderer = Renderer(PAGES)
    templates = {each.template for each in PAGES if renderer.has_live(each.template)}
    assert {"overview.html", "runs.html", "incidents.html", "missing.html"} <= templates
