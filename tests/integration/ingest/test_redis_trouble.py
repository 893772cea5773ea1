"""A receiver whose Redis goes away, hangs, refuses or is not to be trusted: what was acked is always found again."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis

from receiver.checks.board import directory_id
from receiver.inbox import STREAM
from receiver.inbox.reader import InboxReader
from receiver.ledger import Ledger
from receiver.ledger.access import audit
from tests.servers.receiver import Load, ReceiverProcess, body
from tests.servers.valkey import ValkeyProcess, free_port
from tests.support.command import call_command
from tests.support.inbox import all_arrive, ids_in_inbox, ids_in_spool
from tests.support.ledger import with_tables
from tests.support.paths import ROOT
from tests.support.waiting import eventually

Receivers = Callable[..., ReceiverProcess]
Valkeys = Callable[..., ValkeyProcess]

SLOWEST = 10.0
"""Seconds: what a request may wait at the most because Redis hangs, besides ten times what one takes without that."""


def store(receiver: ReceiverProcess) -> str:
    return str(httpx2.get(f"{receiver.url}/readyz").json().get("store"))


# --- Away and back


def test_kill_9_of_redis_under_load_loses_and_refuses_nothing(
    valkey_factory: Valkeys, receiver_factory: Receivers
) -> None:
    server = valkey_factory()
    receiver = receiver_factory(server.url)
    with Load(receiver) as load:
        load.more(50)
        calm = load.slowest
        for _ in range(3):
            load.more(50)
            server.kill()
            load.more(100)
            server.start()
        eventually(lambda: store(receiver) == "redis", every=0.3)
        load.more(50)
    assert (load.statuses, load.lost) == ([], 0)
    assert load.slowest < SLOWEST + 10 * calm
    all_arrive(server, load.acked)
    assert "ingest.redis_away" in receiver.log
    assert "ingest.redis_back" in receiver.log


def test_no_request_waits_long_for_a_redis_that_hangs(valkey_factory: Valkeys, receiver_factory: Receivers) -> None:
    server = valkey_factory()
    receiver = receiver_factory(server.url)
    with Load(receiver) as load:
        load.more(50)
        calm = load.slowest
        server.hang()
        load.more(300)
        server.resume()
        eventually(lambda: store(receiver) == "redis", every=0.3)
        load.more(50)
    assert (load.statuses, load.lost) == ([], 0)
    assert load.slowest < SLOWEST + 10 * calm
    all_arrive(server, load.acked)


def test_kill_9_of_the_receiver_loses_nothing_that_was_acked(
    valkey_factory: Valkeys, receiver_factory: Receivers
) -> None:
    server = valkey_factory()
    receiver = receiver_factory(server.url)
    with Load(receiver) as load:
        load.more(100)
        receiver.kill()
    # (what a busy machine made Redis too slow for is in the spool)
    assert set(load.acked) <= {*ids_in_inbox(server), *ids_in_spool(receiver)}


def test_kill_9_of_receiver_without_redis_loses_nothing(valkey_factory: Valkeys, receiver_factory: Receivers) -> None:
    server = valkey_factory()
    receiver = receiver_factory(server.url)
    server.kill()
    with Load(receiver) as load:
        load.more(100)
        receiver.kill()
    receiver.start()
    server.start()
    all_arrive(server, load.acked)
    receiver.stop()
    assert ids_in_spool(receiver) == []


def test_a_spool_whose_host_is_gone_is_sent_from_its_disk(
    valkey_factory: Valkeys, receiver_factory: Receivers, tmp_path: Path
) -> None:
    # Given a receiver that acked while Redis was away, and stopped, saying where they are
    receiver = receiver_factory(f"redis://127.0.0.1:{free_port()}/0")
    acked = receiver.acked(*(body(number) for number in range(18)), body(0, status="failed"), b"not JSON")
    elsewhere = receiver.call("spool", "send")
    assert elsewhere.returncode == 3
    assert elsewhere.stderr.startswith("runhook: Redis unavailable")
    receiver.stop()
    assert "stopped_with_spool" in receiver.log.splitlines()[-1]
    assert "20" in receiver.log.splitlines()[-1]
    # When its disk is brought to a host that reaches Redis
    for name in ("spool", "parts"):
        shutil.copytree(receiver.data / name, tmp_path / "disk" / name)
    server = valkey_factory()
    receiver.redis_url = server.url
    # Then a dry run counts them and lists their runs, and sends nothing
    shown = receiver.call("spool", "send", "--data", str(tmp_path / "disk"), "--dry-run")
    runs = [f"tsk_{number:06d}" for number in range(18)]
    assert shown.stdout.splitlines() == ["20 events of 18 runs (1 event names no run) to send", *runs]
    assert ids_in_inbox(server) == []
    # And without it all of them arrive, once, and nothing is left
    sent = receiver.call("spool", "send", "--data", str(tmp_path / "disk"))
    assert sent.stdout == "20 events of 18 runs (1 event names no run) sent\n"
    assert "spool.found" not in shown.stderr + sent.stderr
    assert sorted(ids_in_inbox(server)) == sorted(acked)
    # And the audit of the ledger keeps it, which ends the problem of a left spool
    ledger = with_tables(Ledger(f"sqlite:///{tmp_path / 'ledger.db'}"))
    environ = {**receiver.environment, "DATABASE_URL": f"sqlite:///{tmp_path / 'ledger.db'}"}
    again = call_command("spool", "send", "--data", str(tmp_path / "disk"), environ=environ, directory=ROOT)
    assert again.stdout == "the spool is empty\n"
    (sent_again,) = ledger.read(lambda connection: audit.list_actions(connection, actions=["spool.send"]))
    assert (sent_again.count, sent_again.outcome) == (0, "done")
    assert sent_again.selection["data_id"] == directory_id(receiver.data)
    ledger.close()
    nowhere = receiver.call("spool", "send", "--data", str(tmp_path / "nothing"))
    assert (nowhere.returncode, len(nowhere.stderr.splitlines())) == (2, 1)


def test_the_spool_moves_on_in_order_and_wakes_the_dispatcher(
    valkey_factory: Valkeys, receiver_factory: Receivers
) -> None:
    port = free_port()
    receiver = receiver_factory(f"redis://127.0.0.1:{port}/0")
    acked = receiver.acked(*(body(number) for number in range(40)))
    assert store(receiver) == "spool"
    assert httpx2.get(f"{receiver.url}/readyz").json()["redis"].startswith("not used: Error 111")
    server = valkey_factory(port)
    all_arrive(server, acked)
    assert list(dict.fromkeys(ids_in_inbox(server))) == acked  # twice where a busy machine made Redis too slow
    client = server.connect()
    eventually(lambda: client.llen("rq:queue:dispatch") == 1)
    client.close()


# --- Refusing


def no_memory(client: redis.Redis) -> Iterator[None]:
    client.config_set("maxmemory", "4mb")
    yield
    client.config_set("maxmemory", "100mb")


def replica(client: redis.Redis) -> Iterator[None]:
    client.replicaof("127.0.0.1", free_port())
    yield
    client.replicaof("NO", "ONE")


def another_key(client: redis.Redis) -> Iterator[None]:
    client.set(STREAM, "not a stream")
    yield
    client.delete(STREAM)


@pytest.mark.parametrize("trouble", [no_memory, replica, another_key])
def test_redis_that_refuses_gets_all_events_later(
    valkey_factory: Valkeys, receiver_factory: Receivers, trouble: Callable[[redis.Redis], Iterator[None]]
) -> None:
    # Given a Redis that refuses what a receiver sends to it
    server = valkey_factory()
    receiver = receiver_factory(server.url)
    client = server.connect()
    steps = trouble(client)
    next(steps)
    # When webhooks come, then each is acknowledged, and arrives when Redis takes events again
    acked = receiver.acked(*(body(number, text="x" * 200_000) for number in range(40)))
    next(steps, None)
    client.close()
    all_arrive(server, acked)


def test_a_redis_that_loads_is_not_asked_until_it_is_done(valkey_factory: Valkeys, receiver_factory: Receivers) -> None:
    server = valkey_factory()
    receiver = receiver_factory(server.url)
    client = server.connect()
    with client.pipeline() as pipeline:
        for number in range(150):
            pipeline.set(f"other:{number}", "x" * 1000)
        pipeline.execute()
    client.close()
    server.kill()
    server.settings |= {"key-load-delay": "10000", "loading-process-events-interval-bytes": "1024"}
    acked = receiver.acked(*(body(number) for number in range(10)))
    server.start()
    all_arrive(server, acked)


# --- Backpressure


@pytest.mark.parametrize("limit", [{"max_events": 30}, {"max_bytes": "1MiB"}])
def test_backlog_over_the_inbox_limit_goes_through_the_spool(
    valkey_factory: Valkeys, receiver_factory: Receivers, limit: dict[str, Any]
) -> None:
    server = valkey_factory()
    receiver = receiver_factory(server.url, inbox=limit)
    wanted = receiver.acked(*(body(number, text="x" * 30_000) for number in range(100)))
    assert len(ids_in_inbox(server)) < 60
    client = redis.Redis.from_url(server.url)
    reader = InboxReader(client, "test")
    reader.ensure()
    seen: list[str] = []

    def everything() -> bool:
        entries = reader.read(20)
        seen.extend(entry.event.id for entry in entries if entry.event)
        reader.done([entry.entry_id for entry in entries])
        reader.flush()
        return len(set(seen)) >= 100

    eventually(everything)
    assert list(dict.fromkeys(seen)) == wanted  # a commit that Redis confirmed too late comes by the spool as well
    client.close()
    assert "ingest.inbox_full" in receiver.log


# --- Full


def test_full_spool_is_503_with_retry_after_30(valkey_factory: Valkeys, receiver_factory: Receivers) -> None:
    port = free_port()
    receiver = receiver_factory(f"redis://127.0.0.1:{port}/0", spool={"max_bytes": "1MiB", "reserve_bytes": 0})
    large = "x" * 300_000
    acked = receiver.acked(*(body(number, text=large) for number in range(3)))
    answer = receiver.post(body(3, text=large))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
    assert answer.json()["error"]["code"] == "unavailable"
    acked += receiver.acked(body(4))
    server = valkey_factory(port)
    all_arrive(server, acked)
    eventually(lambda: receiver.post(body(3, text=large)).status_code == 202)


def test_low_disk_is_503_only_when_the_spool_is_needed(valkey_factory: Valkeys, receiver_factory: Receivers) -> None:
    server = valkey_factory()
    receiver = receiver_factory(server.url, spool={"reserve_bytes": "900TiB"})
    eventually(lambda: receiver.post(body(1)).status_code == 202)  # at once, unless a machine is too busy for Redis
    eventually(lambda: httpx2.get(f"{receiver.url}/readyz").status_code == 200, every=0.3)
    server.kill()
    eventually(lambda: receiver.post(body(2)).status_code == 503)
    assert receiver.post(body(2)).headers["retry-after"] == "30"

    def not_ready() -> bool:
        answer = httpx2.get(f"{receiver.url}/readyz")
        return (answer.status_code, answer.headers.get("retry-after")) == (503, "30")

    eventually(not_ready, every=0.3)
    assert httpx2.get(f"{receiver.url}/healthz").status_code == 200


def test_an_embedded_redis_is_spared_a_full_disk(receiver_factory: Receivers, tmp_path: Path) -> None:
    receiver = receiver_factory("", start=False, spool={"reserve_bytes": "900TiB"})
    directory = receiver.data / "redis"
    server = ValkeyProcess(directory, unixsocket=str(directory / "valkey.sock")).start()
    try:
        receiver.start()
        answer = receiver.post(body(1))
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
        assert ids_in_inbox(server) == []
        receiver.stop()
        receiver.configure({"spool": {"reserve_bytes": 0}})
        receiver.start()
        all_arrive(server, receiver.acked(body(1)))
    finally:
        server.kill()


# --- Not to be trusted


def refuses_to_start(receiver: ReceiverProcess) -> str:
    """The one line in which the receiver says why it does not start."""
    done = receiver.command("serve", "--port", str(receiver.port))
    assert done.returncode == 3
    (line,) = done.stderr.splitlines()
    return line


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"appendonly": "no"}, "appendonly is no"),
        ({"appendfsync": "everysec"}, "appendfsync is everysec"),
        ({"maxmemory_policy": "allkeys-lru"}, "maxmemory-policy is allkeys-lru"),
    ],
)
def test_it_does_not_start_on_a_redis_that_breaks_the_promise(
    valkey_factory: Valkeys, receiver_factory: Receivers, settings: dict[str, str], says: str
) -> None:
    line = refuses_to_start(receiver_factory(valkey_factory(**settings).url, start=False))
    assert line.startswith("runhook: Redis at redis://127.0.0.1:")
    assert says in line
    assert "server.accept_weaker_durability: true" in line


def test_redis_that_denies_entry_stops_the_start(valkey_factory: Valkeys, receiver_factory: Receivers) -> None:
    server = valkey_factory()
    with server.connect() as client:
        client.config_set("requirepass", "right")
    line = refuses_to_start(receiver_factory(f"redis://:wr0ng@127.0.0.1:{server.port}/0", start=False))
    assert "refuses our password or user" in line
    assert "wr0ng" not in line


def test_the_weaker_promise_can_be_accepted_and_is_shown(valkey_factory: Valkeys, receiver_factory: Receivers) -> None:
    server = valkey_factory(appendfsync="everysec")
    receiver = receiver_factory(server.url, server={"accept_weaker_durability": True})
    receiver.acked(body(1))
    ready = httpx2.get(f"{receiver.url}/readyz").json()
    assert (ready["store"], ready["on_disk_before_202"]) == ("redis", False)
    assert "appendfsync is everysec" in ready["redis"]
    assert "on disk before 202: no (appendfsync is everysec" in receiver.log


def test_redis_that_comes_back_weaker_gets_no_event(valkey_factory: Valkeys, receiver_factory: Receivers) -> None:
    server = valkey_factory()
    receiver = receiver_factory(server.url)
    server.kill()
    server.settings["appendfsync"] = "everysec"
    server.start()
    client = server.connect()
    acked = []

    def examined() -> int:
        """How often the receiver has looked at this Redis since it is back; each time an event is sent to it."""
        acked.extend(receiver.acked(body(len(acked))))
        return int(calls(client, "config|get")) // 5

    eventually(lambda: examined() >= 4, every=0.05)
    assert "appendfsync is everysec" in receiver.log
    assert calls(client, "xadd") <= 1, "only the commit that met it, whose event is in the spool as well"
    client.config_set("appendfsync", "always")
    client.close()
    all_arrive(server, acked)


def calls(client: redis.Redis, command: str) -> int:
    """How often a Redis has run a command since it was started, by whomever and however."""
    found: Any = client.info("commandstats")
    return int(found.get(f"cmdstat_{command}", {"calls": 0})["calls"])


@pytest.mark.parametrize("removed", ["events.db*", "events.db-wal", ""], ids=["the file", "its log", "the folder"])
def test_no_event_is_lost_with_a_spool_that_is_deleted(
    valkey_factory: Valkeys, receiver_factory: Receivers, removed: str
) -> None:
    # Given a receiver whose Redis is unavailable, and which has spooled events
    server = valkey_factory()
    receiver = receiver_factory(server.url)
    server.kill()
    acked = receiver.acked(*(body(number) for number in range(5)))
    # When its spool is deleted, and more events come
    spool = receiver.data / "spool"
    if removed:
        for path in spool.glob(removed):
            path.unlink()
    else:
        shutil.rmtree(spool)
    acked += receiver.acked(*(body(number) for number in range(5, 10)))
    assert "events.deleted file=" in receiver.log
    # And the receiver is killed, then the next one has all of them
    receiver.kill()
    server.start()
    receiver.start()
    all_arrive(server, acked)
