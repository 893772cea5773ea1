"""What is done with a webhook that is here whole, and which requests go by ASGI all the same."""

from __future__ import annotations

import json
from collections.abc import Callable, MutableMapping
from typing import Any

import pytest

from receiver.domain.event import Event
from receiver.domain.signature import sign
from receiver.errors import Busy, RequestError
from receiver.ingest import endpoint
from receiver.ingest.waiting_events import OnCommit
from receiver.ingest.whole_webhooks import App, WebhookHead, WholeWebhooks
from receiver.runtime.held_bodies import HeldBodies
from receiver.telemetry.receiver import ReceiverMetrics

SECRET = "secret"
MAX_BODY = 100_000
BODY = b'{"run_id":"tsk_1","status":"completed"}'
PATH = b"/webhooks/skyvern"


class Commits:
    """Keeps events until they are told of."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Event, OnCommit]] = []
        self.error: Exception | None = None
        self.packs = False

    def commit_then(self, event: Event, on_commit: OnCommit) -> None:
        if self.error:
            raise self.error
        self.waiting.append((event, on_commit))

    def tell_all(self, busy: Busy | None = None) -> list[Event]:
        told, self.waiting = self.waiting, []
        for _, tell in told:
            tell(busy)
        return [event for event, _ in told]

    async def commit(self, event: Event) -> None:
        raise AssertionError("it came by ASGI")


class Refused:
    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    def offer(self, source: str, signature: str, body: bytes, submission_id: str, at: float) -> None:
        self.bodies.append(body)


class NoHints:
    async def add(self, submission_id: str) -> None: ...

    def takes_runs(self) -> bool:
        return False

    async def add_run(self, source: str, run_id: str) -> None: ...


class FakeReply:
    """A connection that takes an answer at once, or not."""

    def __init__(self, *, ready: bool = True) -> None:
        self.ready = ready
        self.written: list[bytes] = []
        self.apps: list[App] = []

    def write_whole(self, lines: bytes, body: bytes) -> bool:
        if self.ready:
            self.written.append(lines + b"\r\n" + body)
        return self.ready

    def answer_by_asgi(self, app: App) -> None:
        self.apps.append(app)

    async def sent(self) -> tuple[int, dict[str, Any]]:
        """(status, JSON) of the answer that came later."""
        (app,) = self.apps
        sent: list[MutableMapping[str, Any]] = []

        async def receive() -> MutableMapping[str, Any]:
            raise AssertionError("the body is here")

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        await app({"path": PATH.decode()}, receive, send)
        return sent[0]["status"], json.loads(sent[1]["body"])


class Bench:
    """What takes webhooks, and what stands around it."""

    def __init__(self) -> None:
        self.commits, self.refused, self.metrics = Commits(), Refused(), ReceiverMetrics()
        self.bodies = HeldBodies(1 << 30)
        self.webhooks = WholeWebhooks(
            {"skyvern": (SECRET,)}, MAX_BODY, self.commits, self.refused, NoHints(), self.metrics, self.bodies
        )

    def post(
        self, body: bytes = BODY, reply: FakeReply | None = None, path: bytes = PATH, secret: str = SECRET
    ) -> Callable[[RequestError | None], None]:
        """Return what ends the request early."""
        announced = self.webhooks.read_head(path, head(body, secret))
        assert announced is not None
        end = self.webhooks.take(announced, body, reply or FakeReply())
        assert end is not None
        return end


def head(body: bytes, secret: str = SECRET) -> list[tuple[bytes, bytes]]:
    return [(b"x-skyvern-signature", sign(body, secret).encode()), (b"content-length", b"%d" % len(body))]


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.mark.parametrize(("path", "submission"), [(PATH, ""), (PATH + b"/sub_1", "sub_1")])
def test_a_webhook_is_answered_when_its_event_is_on_disk_and_not_before(
    bench: Bench, path: bytes, submission: str
) -> None:
    # Given a webhook that is whole
    reply = FakeReply()
    bench.post(reply=reply, path=path)
    assert (reply.written, bench.bodies.bytes) == ([], len(BODY))
    # When its commit is done
    (event,) = bench.commits.tell_all()
    # Then it is answered with the event's id, and nothing of it is left
    assert (event.source, event.body, event.via, event.submission_id) == ("skyvern", BODY, "webhook", submission)
    assert reply.written == [endpoint.ACCEPTED_LINES + b'\r\n{"event_id":"%b"}' % event.id.encode()]
    assert (bench.bodies.bytes, bench.metrics.requests["accepted"], bench.metrics.unreadable) == (0, 1, 0)
    assert bench.metrics.request_seconds.buckets()[-1][1] == 1


@pytest.mark.parametrize(
    ("path", "more"),
    [
        (b"/webhooks/nobody", []),
        (b"/webhooks/", []),
        (PATH + b"/a/b", []),
        (PATH + b"/" + b"a" * 129, []),
        (PATH + b"/%61", []),
        (PATH + b"?a=b", []),
        (PATH + b"/\n", []),
        (b"//webhooks/skyvern", []),
        (PATH, [(b"content-length", b"x")]),
        (PATH, [(b"content-length", b"100001")]),
    ],
)
def test_what_is_not_plain_goes_by_asgi(bench: Bench, path: bytes, more: list[tuple[bytes, bytes]]) -> None:
    assert bench.webhooks.read_head(path, [*head(BODY), *more]) is None


def test_a_body_that_a_thread_is_to_hash_goes_by_asgi() -> None:
    bench = Bench()
    bench.webhooks = WholeWebhooks(
        {"skyvern": (SECRET,)}, 1 << 30, bench.commits, bench.refused, NoHints(), bench.metrics, bench.bodies
    )
    for size, goes_by_asgi in ((endpoint.OFF_LOOP, False), (endpoint.OFF_LOOP + 1, True)):
        assert (bench.webhooks.read_head(PATH, [(b"content-length", b"%d" % size)]) is None) is goes_by_asgi


def test_one_of_many_large_ones_goes_by_asgi_and_is_not_counted(bench: Bench) -> None:
    webhook = WebhookHead("skyvern", (SECRET,), "", sign(b"x" * 50_000, SECRET), 50_000)
    bench.bodies.take(endpoint.MANY)
    assert bench.webhooks.take(webhook, b"x" * 50_000, FakeReply()) is None
    bench.bodies.give(1)
    assert bench.webhooks.take(webhook, b"x" * 50_000, FakeReply()) is not None
    assert bench.bodies.bytes == endpoint.MANY - 1 + 50_000


async def test_a_wrong_signature_is_quarantined_and_refused(bench: Bench) -> None:
    reply = FakeReply()
    bench.post(reply=reply, secret="wrong")
    status, answer = await reply.sent()
    assert (status, answer["error"]["code"]) == (401, "bad_signature")
    assert (bench.refused.bodies, bench.commits.waiting, bench.bodies.bytes) == ([BODY], [], 0)
    assert bench.metrics.requests["bad_signature"] == 1


@pytest.mark.parametrize("error", [Busy("full"), RuntimeError("a bug")])
async def test_our_own_trouble_is_503(bench: Bench, error: Exception) -> None:
    reply = FakeReply()
    bench.commits.error = error
    bench.post(reply=reply)
    status, answer = await reply.sent()
    assert (status, answer["error"]["code"]) == (503, "unavailable")
    assert "bug" not in answer["error"]["message"]
    assert (bench.bodies.bytes, bench.metrics.requests["unavailable"]) == (0, 1)


async def test_an_event_that_could_not_be_kept_is_503(bench: Bench) -> None:
    reply = FakeReply()
    bench.post(reply=reply)
    bench.commits.tell_all(Busy("full"))
    assert (await reply.sent())[0] == 503
    assert (reply.written, bench.metrics.requests["accepted"]) == ([], 0)


async def test_where_the_answer_must_wait_it_is_the_same(bench: Bench) -> None:
    reply = FakeReply(ready=False)
    bench.post(reply=reply)
    (event,) = bench.commits.tell_all()
    assert await reply.sent() == (202, {"event_id": event.id})


async def test_what_is_ended_early_is_answered_once(bench: Bench) -> None:
    # Given a webhook whose commit takes long
    reply = FakeReply()
    end = bench.post(reply=reply)
    # When the server stops, and its commit is done after all
    end(Busy("the receiver stops"))
    bench.commits.tell_all()
    # Then it is refused, and that is all
    assert (await reply.sent())[0] == 503
    assert (reply.written, bench.bodies.bytes) == ([], 0)


def test_an_authentic_body_that_is_no_run_is_kept_and_counted(bench: Bench) -> None:
    bench.post(b"no run")
    assert [event.body for event in bench.commits.tell_all()] == [b"no run"]
    assert bench.metrics.unreadable == 1
