"""Events as they are recorded, as a stream and asked for again and again: nothing is missed, nobody else's is seen."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa

from receiver.api import tail_stream
from receiver.api.tail import PAGE
from receiver.ledger.access import api_keys
from receiver.ledger.schema import events
from tests.servers.http import ScriptedServer
from tests.servers.submitting import Submitting
from tests.support.api import get, problem
from tests.support.ledger import new_event, record
from tests.support.waiting import PATIENCE, eventually


class Stream:
    """A stream that is read in a thread. `events`: (kind, id, data); `ids`: all that were said, of comments too."""

    def __init__(self, answer: httpx2.Response) -> None:
        self.answer = answer
        self.events: list[tuple[str, str, Any]] = []
        self.ids: list[str] = []
        self.comments = 0
        self.ended = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        kind, said, data = "", "", ""
        try:
            for line in self.answer.iter_lines():
                name, _, value = line.partition(": ")
                if name == "event":
                    kind = value
                elif name == "id":
                    said = value
                    self.ids.append(value)
                elif name == "data":
                    data = value
                elif line.startswith(":"):
                    self.comments += 1
                elif not line:
                    if data:
                        self.events.append((kind, said, json.loads(data)))
                    kind, said, data = "", "", ""
        except httpx2.HTTPError:
            pass
        self.ended.set()

    def runs(self) -> list[str]:
        return [data["run_id"] for kind, _, data in self.events if kind == "event"]

    def wait_for(self, *runs: str) -> None:
        eventually(lambda: self.runs() == list(runs), what=lambda: f"{self.runs()}")

    def begun(self) -> Stream:
        """Wait until it has its first place to come back to."""
        eventually(lambda: bool(self.ids), what=lambda: "no id yet")
        return self


@contextmanager
def stream(server: Submitting, key: str, query: str = "", last: str = "") -> Iterator[Stream]:
    headers = {"authorization": f"Bearer {key}", "accept": "text/event-stream"}
    headers |= {"last-event-id": last} if last else {}
    with (
        httpx2.Client(base_url=server.url, trust_env=False, timeout=PATIENCE) as client,
        client.stream("GET", f"/api/v1/tail{query}", headers=headers) as answer,
    ):
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield Stream(answer)


def test_stream_has_each_recorded_event_that_matches(api_server: Submitting) -> None:
    record(api_server.ledger, new_event("tsk_0", "alerts"))
    other = new_event("tsk_other")
    object.__setattr__(other.event, "source", "other")
    every, own = api_server.key("view", source="*"), api_server.key("view")
    with (
        stream(api_server, every) as everything,
        stream(api_server, own) as mine,
        stream(api_server, own, "?status=failed&title=T") as failed,
    ):
        for each in (everything, mine, failed):
            each.begun()
        record(api_server.ledger, new_event("tsk_1", "results"), other)
        record(api_server.ledger, new_event("tsk_2", "alerts", status="failed", failure_reason="why", title="T"))
        everything.wait_for("tsk_1", "tsk_other", "tsk_2")
        mine.wait_for("tsk_1", "tsk_2")
        failed.wait_for("tsk_2")
        kind, said, told = failed.events[0]
        assert (kind, bool(said)) == ("event", True)
        assert (told["failure_reason"], told["title"], told["sinks"]) == ("why", "T", ["alerts"])


def test_reader_that_reconnects_gets_missed_events_in_order(api_server: Submitting) -> None:
    key = api_server.key("view")
    with stream(api_server, key) as first:
        first.begun()
        record(api_server.ledger, new_event("tsk_0"))
        first.wait_for("tsk_0")
        last = first.ids[-1]
    # Given more than one read takes
    missed = [f"tsk_{number}" for number in range(1, PAGE + 11)]
    record(api_server.ledger, *map(new_event, missed))
    with stream(api_server, key, last=last) as second:
        second.wait_for(*missed)
        record(api_server.ledger, new_event("tsk_new"))
        second.wait_for(*missed, "tsk_new")
    with stream(api_server, key, f"?after={first.ids[0]}&title=nothing", last=second.ids[-2]) as third:
        # what is not wanted moves the place on as well
        eventually(lambda: second.ids[-1] in third.ids, what=lambda: f"{third.ids}")
        assert third.runs() == []


def test_a_stream_says_that_it_is_alive_and_where_it_is(api_server: Submitting) -> None:
    with stream(api_server, api_server.key("view"), "?run=tsk_9") as quiet:
        quiet.begun()
        record(api_server.ledger, new_event("tsk_1"))
        eventually(lambda: quiet.comments > 2 and quiet.ids[-1] != quiet.ids[0], what=lambda: f"{quiet.ids}")
        assert quiet.events == []


def test_since_tells_what_was_recorded_from_then_on(api_server: Submitting) -> None:
    now = time.time()
    record(api_server.ledger, new_event("tsk_1"), now=now - 7200)
    record(api_server.ledger, new_event("tsk_2"), now=now - 60)
    with stream(api_server, api_server.key("view"), "?since=1h") as told:
        told.wait_for("tsk_2")


def test_what_retention_may_have_removed_is_said(submitting: Callable[..., Submitting]) -> None:
    api_server = submitting("http://127.0.0.1:9", dispatching=False, retention={"events": "30d"})
    key = api_server.key("view")
    record(api_server.ledger, new_event("tsk_1"), now=1_000_000.0)
    record(api_server.ledger, new_event("tsk_2"), now=1_000_001.0)
    page = get(api_server, "/tail?since=1970-01-12&limit=1", key, accept="application/json").json()
    api_server.ledger.write(lambda connection: connection.execute(sa.delete(events).where(events.c.run_id == "tsk_2")))
    record(api_server.ledger, new_event("tsk_3"))
    with stream(api_server, key, last=page["next"]) as told:
        told.wait_for("tsk_3")
        kind, said, gap = told.events[0]
    assert (kind, said, gap["since"]) == ("gap", "", "1970-01-12T13:46:40Z")
    assert get(api_server, f"/tail?after={page['next']}", key, accept="application/json").json()["gap"] is not None


def test_a_stream_ends_when_its_key_is_revoked(api_server: Submitting) -> None:
    key, other = api_server.key("view"), api_server.key("view")
    with stream(api_server, key) as revoked, stream(api_server, other) as goes_on:
        revoked.begun(), goes_on.begun()
        key_id = key.split("_")[1]
        assert api_server.ledger.write(lambda connection: api_keys.revoke(connection, key_id, 1.0))
        assert revoked.ended.wait(PATIENCE)
        record(api_server.ledger, new_event("tsk_1"))
        goes_on.wait_for("tsk_1")
        assert revoked.runs() == []


def test_slow_reader_delays_nobody_and_misses_nothing(api_server: Submitting) -> None:
    host, _, port = api_server.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), 60) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        key = api_server.key("view")
        client.sendall(f"GET /api/v1/tail HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n".encode())
        got = b""
        while b": still here" not in got:
            got += client.recv(1 << 20)
        with stream(api_server, key) as quick_one:
            quick_one.begun()
            # more than all buffers between the two take
            for batch in range(40):
                title = "x" * 100_000
                record(api_server.ledger, *(new_event(f"tsk_{batch}_{n}", title=title) for n in range(2)))
            eventually(lambda: len(quick_one.runs()) == 80, what=lambda: f"{len(quick_one.runs())}")
        while b"tsk_39_1" not in got:
            piece = client.recv(1 << 20)
            assert piece, "it was broken off"
            got += piece
    ids = [line.split(b'"run_id":"')[1].split(b'"')[0] for line in got.split(b"\n") if line.startswith(b"data: {")]
    assert ids == [f"tsk_{batch}_{n}".encode() for batch in range(40) for n in range(2)]


def test_key_may_not_take_all_streams(api_server: Submitting) -> None:
    key, other = api_server.key("view"), api_server.key("view")
    with contextlib.ExitStack() as stack:
        for _ in range(tail_stream.MAX_STREAMS // 2):
            stack.enter_context(stream(api_server, key)).begun()
        refused = get(api_server, "/tail", key)
        assert (refused.status_code, bool(refused.headers["retry-after"])) == (503, True)
        stack.enter_context(stream(api_server, other)).begun()


def test_asked_for_again_and_again_it_is_a_list_that_goes_on(api_server: Submitting) -> None:
    key = api_server.key("view")
    now = get(api_server, "/tail", key, accept="application/json").json()
    assert (now["items"], bool(now["next"])) == ([], True)
    record(api_server.ledger, *(new_event(f"tsk_{number}") for number in range(3)))
    page = get(api_server, f"/tail?after={now['next']}&limit=2", key, accept="application/json").json()
    assert [each["run_id"] for each in page["items"]] == ["tsk_0", "tsk_1"]
    rest = get(api_server, f"/tail?after={page['next']}", key, accept="application/json").json()
    assert [each["run_id"] for each in rest["items"]] == ["tsk_2"]
    assert get(api_server, f"/tail?after={rest['next']}", key, accept="application/json").json()["items"] == []


@pytest.mark.parametrize("given", ["x", "WyJydW5zIiwxLDFd"])
def test_what_is_no_place_in_the_stream_is_refused(api_server: Submitting, given: str) -> None:
    key = api_server.key("view")
    for answer in (
        get(api_server, f"/tail?after={given}", key),
        get(api_server, "/tail", key, **{"last-event-id": given}),
    ):
        assert answer.status_code == 422
        assert "not a cursor" in problem(answer)["detail"]


def test_filter_that_no_database_can_store_begins_no_stream(
    submitting: Callable[..., Submitting], scripted_server: ScriptedServer, postgres_url: str
) -> None:
    it = submitting(scripted_server.url, dispatching=False, database_url=postgres_url)
    with pytest.raises(AssertionError, match="such as NUL"), stream(it, it.key("view"), "?title=a%00b"):
        pass
