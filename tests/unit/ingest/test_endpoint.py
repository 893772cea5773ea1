"""What ingest does with a request, without a server: order of the checks, bounds on memory and time."""

import asyncio
import json
import threading
from collections.abc import Iterator, MutableMapping, Sequence
from typing import Any

import pytest

from receiver.domain.event import Event
from receiver.domain.signature import HEADER, sign
from receiver.errors import Busy
from receiver.ingest import endpoint
from receiver.ingest.held_bodies import HeldBodies
from receiver.telemetry.receiver import ReceiverMetrics

SECRET = "secret"
MAX_BODY = 4 << 20


class FakeGroupCommit:
    """Commits events in a list, or refuses them all."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.error: Exception | None = None

    async def commit(self, event: Event) -> None:
        if self.error:
            raise self.error
        self.events.append(event)


class PollHints:
    def __init__(self) -> None:
        self.runs: list[tuple[str, str]] = []

    def take(self) -> bool:
        return True

    async def add(self, source: str, run_id: str) -> None:
        self.runs.append((source, run_id))


class Bench:
    """An Ingest and what stands around it."""

    def __init__(self, room: int = 1 << 30, body_timeout: float = endpoint.BODY_TIMEOUT) -> None:
        self.group_commit, self.poll_hints, self.metrics = FakeGroupCommit(), PollHints(), ReceiverMetrics()
        sources = {"skyvern": (SECRET,)}
        self.bodies = HeldBodies(room)
        self.app = endpoint.Ingest(
            sources, MAX_BODY, lambda event: self.group_commit.commit(event), lambda *refused: None, self.poll_hints,
            self.metrics, self.bodies, body_timeout,
        )  # fmt: skip

    async def post(
        self,
        pieces: Sequence[Any],
        path: str = "/webhooks/skyvern",
        secret: str = SECRET,
        several: Sequence[tuple[bytes, bytes]] = (),
        **headers: str,
    ) -> tuple[int, dict[str, Any], dict[str, str]]:
        """(status, JSON, headers) of the answer to a body that comes in these pieces; each is bytes, an ASGI message
        or something to await first. (0, {}, {}) when there is no answer. `several`: headers in place of all others."""
        whole = b"".join(piece for piece in pieces if isinstance(piece, bytes))
        headers = {HEADER: sign(whole, secret), **headers}
        scope = {"type": "http", "method": "POST", "path": path, "headers": list(several) or _encoded(headers)}
        sent: list[MutableMapping[str, Any]] = []
        messages = self._messages(pieces)

        async def receive() -> MutableMapping[str, Any]:
            message = next(messages, GONE)
            return message if isinstance(message, dict) else await message

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        if not sent:
            return 0, {}, {}
        start, body, *drained = sent
        assert all(message == {"type": "http.response.body", "body": b""} for message in drained)
        answered = {name.decode(): value.decode() for name, value in start["headers"]}
        assert int(answered["content-length"]) == len(body["body"])
        return start["status"], json.loads(body["body"]), answered

    @staticmethod
    def _messages(pieces: Sequence[Any]) -> Iterator[Any]:
        for number, piece in enumerate(pieces, 1):
            more = number < len(pieces)
            yield {"type": "http.request", "body": piece, "more_body": more} if isinstance(piece, bytes) else piece


def _encoded(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def never() -> MutableMapping[str, Any]:
    await asyncio.Event().wait()
    raise AssertionError


GONE = {"type": "http.disconnect"}


@pytest.mark.parametrize("announced", [True, False])
async def test_oversized_body_leaves_the_id_of_its_run(bench: Bench, announced: bool) -> None:
    beginning = b'{"workflow_id":"wpid_1","workflow_run_id":"wr_7","status":"completed","outputs":{"run_id":"tsk_no"'
    pieces = [beginning, *[b"x" * (1 << 20)] * 5]
    headers = {"content-length": str(MAX_BODY + 1)} if announced else {}

    assert (await bench.post(pieces, **headers))[0] == 413

    assert bench.poll_hints.runs == [("skyvern", "wr_7")]


@pytest.mark.parametrize(
    "beginning",
    [b"", b"x" * 5000, b'{"run_id": "../../v1"', b'{"run_id": 7', b" " * 5000 + b'{"run_id": "tsk_1"', GONE],
)
async def test_oversized_body_without_a_run_id_is_refused(bench: Bench, beginning: Any) -> None:
    assert (await bench.post([beginning, b"x"], **{"content-length": str(MAX_BODY + 1)}))[0] == 413
    assert bench.poll_hints.runs == []


async def test_large_bodies_are_hashed_off_the_loop(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[tuple[int, bool]] = []
    real, loop_thread = endpoint.verify, threading.get_ident()

    def noted(body: bytes, signature: str, secrets: Sequence[str]) -> bool:
        hashed.append((len(body), threading.get_ident() == loop_thread))
        return real(body, signature, secrets)

    monkeypatch.setattr(endpoint, "verify", noted)
    small, large = b"x" * endpoint.OFF_LOOP, b"x" * (endpoint.OFF_LOOP + 1)
    answers = [await bench.post([small]), await bench.post([large]), await bench.post([large], secret="wrong")]
    assert [status for status, _, _ in answers] == [202, 202, 401]
    assert hashed == [(len(small), True), (len(large), False), (len(large), False)]


async def test_our_own_trouble_is_503_with_retry_after_whatever_it_is(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    for error, after in ((Busy("full", retry_after=30), "30"), (RuntimeError("a bug"), "2")):
        bench.group_commit.error = error
        status, answer, headers = await bench.post([b"{}"])
        assert (status, answer["error"]["code"], headers["retry-after"]) == (503, "unavailable", after)
        assert "bug" not in answer["error"]["message"]


async def test_a_body_that_never_ends_times_out() -> None:
    status, answer, _ = await Bench(body_timeout=0.01).post([b"{", never()])
    assert (status, answer["error"]["code"]) == (408, "timeout")


async def test_bodies_in_pieces_are_refused_while_there_is_no_room() -> None:
    # Given a body that is committed, and takes all the room there is
    bench = Bench(room=MAX_BODY)
    committing, done = asyncio.Event(), asyncio.Event()

    async def commit(event: Event) -> None:
        committing.set()
        await done.wait()

    bench.group_commit.commit = commit  # type: ignore[method-assign]
    first = asyncio.create_task(bench.post([b"x" * 1000, b"x" * (MAX_BODY - 1000)]))
    await committing.wait()
    # When another one comes in pieces, then it is refused
    status, _, headers = await bench.post([b"x" * 1000, b"x"])
    assert (status, headers["retry-after"]) == (503, "2")
    # And one that has come in one piece is kept
    second = asyncio.create_task(bench.post([b"x"]))
    await asyncio.sleep(0)
    done.set()
    assert ((await first)[0], (await second)[0]) == (202, 202)
    assert bench.bodies.bytes == 0


@pytest.mark.parametrize("given", [["right", "wrong"], ["wrong", "right"], ["right", "wrong", "right"]])
async def test_two_signatures_that_differ_are_none_in_either_order(bench: Bench, given: list[str]) -> None:
    signatures = {"right": sign(b"{}", SECRET), "wrong": "0" * 64}
    several = [(HEADER.encode(), signatures[each].encode()) for each in given]
    assert (await bench.post([b"{}"], several=several))[0] == 401
    assert bench.group_commit.events == []


# --- What it tells of itself


async def test_each_request_is_counted_once_by_how_it_ended(bench: Bench) -> None:
    await bench.post([b"{}"])
    await bench.post([b"{}"], secret="wrong")
    await bench.post([b"{}"], "/webhooks/nobody")
    await bench.post([b"x" * (MAX_BODY + 1)])
    await bench.post([GONE])
    bench.group_commit.error = Busy("full")
    await bench.post([b"{}"])
    assert bench.metrics.requests == {
        "accepted": 1, "bad_signature": 1, "unknown_source": 1, "too_large": 1, "malformed": 0, "disconnected": 1,
        "unavailable": 1, "timed_out": 0,
    }  # fmt: skip
    assert bench.metrics.request_seconds.buckets()[-1] == ("+Inf", 1.0), "what was accepted, and nothing else"


async def test_refusals_are_logged_and_a_flood_of_them_is_not(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(60):
        await bench.post([b"{}"], f"/webhooks/nobody-{number}")
    lines = [line for line in caplog.messages if line.startswith("ingest.refused status=404 code=")]
    assert "nobody-0" in lines[0]
    assert 20 <= len(lines) < 30
