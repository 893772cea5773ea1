"""The quarantine: what failed the signature check is kept, bounded, and let in once its secret is known."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
import redis

from receiver.domain.event import event_id
from receiver.domain.signature import HEADER, sign
from receiver.inbox.reader import InboxReader
from receiver.ingest.quarantine import Quarantine, QuarantinedRequest, QuarantineWriter
from receiver.telemetry.receiver import ReceiverMetrics
from tests.servers.receiver import SECRET, ReceiverProcess, body
from tests.servers.valkey import free_port
from tests.support.waiting import eventually

NEW = "the-secret-nobody-told-us"


def refused(number: int, size: int = 0) -> tuple[QuarantinedRequest, bytes]:
    content = body(number).ljust(size)
    return QuarantinedRequest.of("skyvern", sign(content, NEW), content, "sub_1", 1000.0 + number), content


def listed(receiver: ReceiverProcess) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(receiver.call("quarantine", "list", "--json").stdout)
    return found


# --- The store


def test_a_request_is_kept_whole(tmp_path: Path) -> None:
    store = Quarantine(tmp_path / "quarantine", 10, 1 << 20)
    request, content = refused(1)
    assert store.list() == []
    assert store.add(request, content) == 0
    assert store.list() == [request]
    assert store.body(request) == content
    event = request.event(content)
    assert (event.id, event.submission_id, event.received_at) == (event_id("skyvern", content), "sub_1", 1001.0)


def test_the_oldest_go_when_there_are_too_many(tmp_path: Path) -> None:
    store = Quarantine(tmp_path, 3, 1 << 20)
    assert [store.add(*refused(number)) for number in range(5)] == [0, 0, 0, 1, 1]
    assert [request.at for request in store.list()] == [1000.0, 1003.0, 1004.0]  # of the newer half
    assert store.usage()[0] == 3


def test_the_oldest_go_when_they_are_too_large_and_what_is_larger_than_all_room_is_not_kept(tmp_path: Path) -> None:
    store = Quarantine(tmp_path, 100, 10_000)
    for number in range(4):
        store.add(*refused(number, 4000))
    assert [request.at for request in store.list()] == [1000.0, 1003.0]
    assert store.add(*refused(9, 20_000)) == 1
    assert [request.at for request in store.list()] == [1000.0, 1003.0]


def test_the_bounds_hold_over_restarts(tmp_path: Path) -> None:
    for number in range(5):
        Quarantine(tmp_path, 3, 1 << 20).add(*refused(number))
    assert len(Quarantine(tmp_path, 3, 1 << 20).list()) == 3


def test_the_same_request_again_takes_no_more_room(tmp_path: Path) -> None:
    store = Quarantine(tmp_path, 3, 1 << 20)
    for _ in range(3):
        store.add(*refused(1))
    assert len(store.list()) == 1


def test_the_same_body_with_another_signature_takes_nothings_place(tmp_path: Path) -> None:
    store = Quarantine(tmp_path, 10, 1 << 20)
    request, content = refused(1)
    store.add(request, content)
    store.add(QuarantinedRequest.of("skyvern", sign(content, "a stranger's"), content, "", 1002.0), content)

    verdicts = [each.verdict(store.body(each), [NEW]) for each in store.list()]

    assert verdicts == ["authentic", "bad_signature"]


def test_none_are_kept_when_none_may_be(tmp_path: Path) -> None:
    store = Quarantine(tmp_path, 0, 1 << 20)
    assert store.add(*refused(1)) == 1
    assert store.list() == []


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    store = Quarantine(tmp_path / "quarantine", 3, 1 << 20)
    store.add(*refused(1))
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "quarantine").iterdir()}
    assert (modes, (tmp_path / "quarantine").stat().st_mode & 0o777) == ({0o600}, 0o700)


def test_looking_at_it_makes_nothing(tmp_path: Path) -> None:
    store = Quarantine(tmp_path / "quarantine", 3, 1 << 20)
    assert (store.list(), store.usage()) == ([], (0, 0))
    store.remove([refused(1)[0]])
    with pytest.raises(FileNotFoundError):
        store.body(refused(1)[0])
    assert list(tmp_path.iterdir()) == []


def test_no_request_goes_into_a_file_that_was_deleted(tmp_path: Path) -> None:
    store = Quarantine(tmp_path, 10, 1 << 20, stays_open=True)
    store.add(*refused(1))
    for path in tmp_path.glob("refused.db*"):
        path.unlink()
    store.add(*refused(2))
    store.close()
    assert [each.at for each in Quarantine(tmp_path, 10, 1 << 20).list()] == [1001.0, 1002.0]


def test_noise_of_one_network_keeps_nothing_of_another_out(tmp_path: Path) -> None:
    # Given a quarantine full of runs from one network, while those of another one come in between
    store = Quarantine(tmp_path, 20, 1 << 20, stays_open=True)
    for number in range(200):
        request, content = refused(number)
        store.add(request, content, "192.0.2.7" if number % 40 else "198.51.100.1")
    store.close()
    # Then each of the latter is there
    assert {1000.0 + number for number in range(0, 200, 40)} <= {each.at for each in store.list()}


async def test_one_network_has_a_part_of_the_rate(tmp_path: Path) -> None:
    metrics = ReceiverMetrics()
    writer = QuarantineWriter(Quarantine(tmp_path, 1000, 64 << 20, stays_open=True), metrics, 1 << 20)
    # Given noise in the form of runs, 700 at once from one network
    for number in range(700):
        writer.offer("skyvern", "0" * 64, body(number), "", 1.0, "192.0.2.7")
        if number % 20 == 0:
            await asyncio.to_thread(eventually, lambda: not writer._allowances[True].waiting)
    # When requests come from another one
    for number in range(700, 720):
        writer.offer("skyvern", "0" * 64, body(number), "", 2.0, "198.51.100.1")
    await writer.close()
    # Then these are kept
    kept = [each.at for each in Quarantine(tmp_path, 1000, 64 << 20).list()]
    assert (kept.count(2.0), kept.count(1.0) < 200) == (20, True)


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


def test_no_flood_of_noise_empties_the_quarantine_of_what_a_wrong_secret_put_there(
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
