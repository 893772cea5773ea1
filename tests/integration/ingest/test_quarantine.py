"""The quarantine: what failed the signature check is kept, bounded, and let in once its secret is known."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest
import redis

from receiver.domain.event import event_id
from receiver.domain.signature import HEADER, sign
from receiver.inbox.reader import InboxReader
from receiver.ingest import quarantine
from receiver.ingest.quarantine import Quarantine, QuarantinedRequest, QuarantineWriter
from receiver.telemetry.receiver import ReceiverMetrics
from tests.servers.receiver import SECRET, ReceiverProcess, body
from tests.servers.valkey import free_port
from tests.support.waiting import eventually

NEW = "the-secret-nobody-told-us"


def refused(number: int, size: int = 0) -> tuple[QuarantinedRequest, bytes]:
    content = body(number).ljust(size)
    return QuarantinedRequest.of("skyvern", sign(content, NEW), content, "sub_1", 1000.0 + number), content


def noise(number: int) -> tuple[QuarantinedRequest, bytes]:
    content = b"noise %d" % number
    return QuarantinedRequest.of("skyvern", "0" * 64, content, "", 1000.0 + number), content


def listed(receiver: ReceiverProcess) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(receiver.call("quarantine", "list", "--json").stdout)
    return found


# --- The store


def requests_in(store: Quarantine) -> list[float]:
    """The numbers of the requests that are kept, the oldest first."""
    return [request.at - 1000.0 for request in store.list()]


def test_a_request_is_kept_whole(tmp_path: Path) -> None:
    store = Quarantine(tmp_path / "quarantine", 10, 1 << 20)
    request, content = refused(1)
    assert store.list() == []
    assert store.add(request, content) == 0
    assert (store.list(), store.body(request)) == ([request], content)
    event = request.event(content)
    assert (event.id, event.submission_id, event.received_at) == (event_id("skyvern", content), "sub_1", 1001.0)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "quarantine").iterdir()}
    assert (modes, (tmp_path / "quarantine").stat().st_mode & 0o777) == ({0o600}, 0o700)


def test_oldest_of_the_newer_half_give_way(tmp_path: Path) -> None:
    counts = [Quarantine(tmp_path, 4, 1 << 20).add(*refused(number)) for number in range(7)]
    store = Quarantine(tmp_path, 4, 1 << 20)
    assert (counts, requests_in(store), store.usage()[0]) == ([0, 0, 0, 0, 1, 1, 1], [0, 1, 5, 6], 4)


def test_bytes_are_bounded_and_a_request_over_all_is_dropped(tmp_path: Path) -> None:
    store = Quarantine(tmp_path, 100, 10_000)
    for number in range(4):
        store.add(*refused(number, 4000))
    assert requests_in(store) == [0, 3]
    assert store.add(*refused(9, 20_000)) == 1
    assert requests_in(store) == [0, 3]


def test_older_half_stays_until_it_is_some_days_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Quarantine(tmp_path, 4, 1 << 20)
    for number in range(4):
        store.add(*refused(number))
    days_later = SimpleNamespace(time=lambda: time.time() + quarantine.STAYS_FOR + 1)
    monkeypatch.setattr(quarantine, "time", days_later)
    store.add(*refused(4))
    assert requests_in(store) == [1, 2, 3, 4]


def test_runs_never_give_way_to_noise(tmp_path: Path) -> None:
    store = Quarantine(tmp_path, 8, 1 << 20)
    for number in range(4):
        store.add(*refused(number))
    assert [store.add(*noise(number)) for number in range(4, 8)] == [0, 0, 1, 1]
    assert requests_in(store) == [0, 1, 2, 3, 6, 7]
    for number in range(8, 12):  # runs, to which noise gives way first
        store.add(*refused(number))
    assert requests_in(store) == [0, 1, 2, 3, 8, 9, 10, 11]
    assert store.add(*noise(12)) == 1
    assert requests_in(store) == [0, 1, 2, 3, 8, 9, 10, 11]


def test_a_repeated_request_takes_no_more_room(tmp_path: Path) -> None:
    store = Quarantine(tmp_path, 10, 1 << 20)
    request, content = refused(1)
    for _ in range(3):
        store.add(request, content)
    store.add(QuarantinedRequest.of("skyvern", sign(content, "a stranger's"), content, "", 1002.0), content)
    verdicts = [each.verdict(store.body(each), [NEW]) for each in store.list()]
    assert verdicts == ["authentic", "bad_signature"]


def test_reading_it_makes_nothing_and_none_is_kept_without_room(tmp_path: Path) -> None:
    store = Quarantine(tmp_path / "quarantine", 0, 1 << 20)
    assert (store.list(), store.usage()) == ([], (0, 0))
    store.remove([refused(1)[0]])
    with pytest.raises(FileNotFoundError):
        store.body(refused(1)[0])
    assert list(tmp_path.iterdir()) == []
    assert (store.add(*refused(1)), store.list()) == (1, [])


def test_no_request_goes_into_a_file_that_was_deleted(tmp_path: Path) -> None:
    store = Quarantine(tmp_path, 10, 1 << 20, stays_open=True)
    store.add(*refused(1))
    for path in tmp_path.glob("refused.db*"):
        path.unlink()
    store.add(*refused(2))
    store.close()
    assert requests_in(Quarantine(tmp_path, 10, 1 << 20)) == [1, 2]


@pytest.mark.parametrize(
    ("content", "is_run"),
    [
        (b'{"run_id":"tsk_1","status":"completed"}', True),
        (b"\x00" * 100, False),
        (b'{"output":"' + b"x" * 5000 + b'","run_id":"tsk_1"}', False),
    ],
)
def test_a_run_is_known_by_where_skyvern_writes_its_id(content: bytes, is_run: bool) -> None:
    assert QuarantinedRequest.of("skyvern", "", content, "", 0.0).is_run is is_run


async def test_each_kind_has_a_rate(tmp_path: Path) -> None:
    metrics = ReceiverMetrics()
    writer = QuarantineWriter(Quarantine(tmp_path, 1000, 64 << 20, stays_open=True), metrics, 1 << 20)
    # Given noise that names no run, 700 requests at once
    for number in range(700):
        writer.offer("skyvern", "0" * 64, b"noise %d" % number, "", 1.0)
        if number % 20 == 0:
            await asyncio.to_thread(eventually, lambda: not writer.waiting)
    # When requests of runs come
    for number in range(20):
        writer.offer("skyvern", "0" * 64, body(number), "", 2.0)
    await writer.close()
    # Then these are kept
    kept = [each.at for each in Quarantine(tmp_path, 1000, 64 << 20).list()]
    assert kept.count(2.0) == 20
    assert metrics.quarantine_dropped > 0


# --- The receiver and the command


def test_a_refused_request_is_let_in_after_its_secret_was_added(
    receiver_factory: Callable[..., ReceiverProcess], redis_url: str
) -> None:
    receiver = receiver_factory(redis_url)
    assert receiver.post(body(1), NEW, "/webhooks/skyvern/sub_7").status_code == 401
    assert receiver.post(body(2), "a stranger's").status_code == 401
    eventually(lambda: len(listed(receiver)) == 2)

    nothing = receiver.call("quarantine", "verify")
    assert "0 accepted, 2 still in quarantine." in nothing.stdout
    assert nothing.returncode == 1

    receiver.configure({"sources": {"skyvern": {"secrets": [SECRET, NEW]}}})
    done = receiver.call("quarantine", "verify", "--json")
    assert done.returncode == 0
    assert sorted(each["verdict"] for each in json.loads(done.stdout)) == ["authentic", "bad_signature"]
    assert [each["source"] for each in listed(receiver)] == ["skyvern"]

    client = redis.Redis.from_url(redis_url)
    reader = InboxReader(client, "test")
    reader.ensure()
    (entry,) = reader.read()
    assert entry.event is not None
    assert (entry.event.body, entry.event.submission_id) == (body(1), "sub_7")
    client.close()

    assert receiver.call("quarantine", "drop", "--all").stdout.strip() == "1 dropped."
    assert "empty" in receiver.call("quarantine", "list").stdout


def test_the_key_that_runs_are_submitted_with_counts_as_a_secret(
    receiver_factory: Callable[..., ReceiverProcess], redis_url: str
) -> None:
    receiver = receiver_factory(redis_url)
    assert receiver.post(body(1), "the-api-key").status_code == 401
    eventually(lambda: len(listed(receiver)) == 1)

    receiver.configure({"sources": {"skyvern": {"secrets": [SECRET], "api_key": "the-api-key"}}})
    assert "1 accepted, 0 still in quarantine." in receiver.call("quarantine", "verify").stdout
    assert receiver.stop() == 0
    receiver.start()
    assert receiver.post(body(2), "the-api-key").status_code == 202
    assert receiver.post(body(3), SECRET).status_code == 202


def test_flood_of_noise_leaves_what_a_wrong_secret_refused(
    receiver_factory: Callable[..., ReceiverProcess], redis_url: str
) -> None:
    receiver = receiver_factory(redis_url, quarantine={"max_count": 40, "max_bytes": "1MiB"})
    with httpx2.Client(base_url=receiver.url) as client:

        def post(content: bytes, signature: str | None) -> None:
            headers = {} if signature is None else {HEADER: signature}
            assert client.post("/webhooks/skyvern", content=content, headers=headers).status_code == 401

        for number in range(10):
            post(body(number), sign(body(number), NEW))
        eventually(lambda: len(listed(receiver)) == 10)

        for number in range(60):
            post(body(number), None)
            post(body(number), "f00d")
            post(body(number % 10), "0" * 64)  # the same bodies
            post(b"noise %d" % number, sign(b"noise", str(number)))  # no run
            post(body(1000 + number), sign(b"noise", str(number)))  # a run, as far as anybody can tell
    receiver.acked(body(2000))
    assert receiver.stop() == 0
    kept = listed(receiver)
    assert len(kept) == 40
    assert not [each for each in kept if each["signature"] in ("", "f00d")]

    receiver.configure({"sources": {"skyvern": {"secrets": [SECRET, NEW]}}})
    assert "10 accepted, 30 still in quarantine." in receiver.call("quarantine", "verify").stdout


def test_nothing_is_let_in_and_nothing_lost_while_redis_is_away(
    receiver_factory: Callable[..., ReceiverProcess], tmp_path: Path
) -> None:
    receiver = receiver_factory(f"redis://127.0.0.1:{free_port()}/0", start=False)
    store = Quarantine(receiver.data / "quarantine", 10, 1 << 20)
    store.add(*refused(1))
    receiver.configure({"sources": {"skyvern": {"secrets": [NEW]}}})
    done = receiver.call("quarantine", "verify")
    assert done.returncode == 3
    assert "Redis does not accept events" in done.stderr.splitlines()[-1]
    assert len(store.list()) == 1


@pytest.mark.parametrize(
    "arguments", [["drop"], ["drop", "evt_1", "--all"], ["drop", "evt_nope"], ["verify", "evt_nope"]]
)
def test_a_wrong_call_is_reported_in_one_line(
    receiver_factory: Callable[..., ReceiverProcess], arguments: list[str]
) -> None:
    receiver = receiver_factory("redis://127.0.0.1:1/0", start=False)
    receiver.data.mkdir(exist_ok=True)
    done = receiver.call("quarantine", *arguments)
    assert done.returncode == 2
    assert len([line for line in done.stderr.splitlines() if "new ledger created" not in line]) == 1
