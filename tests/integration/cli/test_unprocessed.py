"""What commands say of webhooks that no worker has processed: where they wait, and when they are refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import httpx2
import pytest

from receiver.ledger import Ledger
from tests.servers.receiver import ReceiverProcess, body
from tests.servers.valkey import ValkeyProcess
from tests.support.ledger import with_tables
from tests.support.waiting import eventually


@pytest.fixture
def make(receiver_factory: Callable[..., ReceiverProcess]) -> Iterator[Callable[..., ReceiverProcess]]:
    """A receiver with an empty ledger."""
    ledgers: list[Ledger] = []

    def start(redis_url: str, **config: object) -> ReceiverProcess:
        it = receiver_factory(redis_url, start=False, admin=True, **config)
        it.data.mkdir(exist_ok=True)
        ledgers.append(with_tables(Ledger(f"sqlite:///{it.data}/ledger.db")))
        return it.start()

    yield start
    for each in ledgers:
        each.close()


def test_acknowledged_event_is_found_before_it_is_processed(
    make: Callable[..., ReceiverProcess], valkey_factory: Callable[..., ValkeyProcess]
) -> None:
    # Given acknowledged events, and no worker
    valkey = valkey_factory()
    it = make(valkey.url)
    *_, last = it.acked(*map(body, range(3)))
    # Then the id from the 202 is found in the inbox, also a shortened one
    for identifier in (last, last[:20]):
        done = it.call("event", identifier)
        assert done.returncode == 2
        assert "not yet processed: it is in the inbox; 2 events are ahead of it" in done.stderr
    assert "not found" in it.call("event", "evt_" + "0" * 32).stderr
    # And in the spool while Redis is down
    valkey.kill()
    spooled = it.acked(body(3), body(4))[1]
    assert (
        "in the spool, which is sent to Redis when that is available; 1 event is ahead"
        in it.call("event", spooled).stderr
    )
    # And what may be in the Redis that is down is not denied
    assert "Redis is unavailable, so it may still be in the inbox" in it.call("event", last).stderr
    # And the log counts them when they are moved
    valkey.start()
    eventually(lambda: "ingest.spool_drained events=2" in it.log)
    assert "WARNING runhook.ingest ingest.spool_drained" not in it.log


def test_full_disk_without_redis_is_the_first_line_of_status(
    make: Callable[..., ReceiverProcess], valkey_factory: Callable[..., ValkeyProcess]
) -> None:
    # Given a receiver that can store nothing
    valkey = valkey_factory()
    it = make(valkey.url, spool={"reserve_bytes": "1000TB"})
    valkey.kill()
    assert it.post(body(0)).status_code == 503
    # Then status begins with that
    first = it.call("status").stdout.splitlines()[0]
    assert first.startswith("WRONG: webhooks are being refused with 503: Redis cannot be used, and ")
    found = json.loads(it.call("status", "--json").stdout)
    assert not any("go to the spool" in problem["todo"] for problem in found["problems"])
    # And it still reports the refused webhooks when the receiver stores events again
    valkey.start()
    eventually(lambda: it.post(body(0)).status_code == 202)
    eventually(lambda: " to webhooks got 503, the last " in it.call("status").stdout)


def test_signed_requests_to_wrong_paths_are_counted(make: Callable[..., ReceiverProcess], redis_url: str) -> None:
    it = make(redis_url)
    paths = ("/webhooks/skyvern/webhooks/skyvern", "/hooks/webhooks/skyvern", "/")
    assert [it.post(body(0), path=path).status_code for path in paths] == [404] * len(paths)
    httpx2.post(f"{it.url}/wp-login.php")  # not signed

    shown = httpx2.get(f"{it.admin_url}/metrics").text

    assert "runhook_misdirected_webhooks_total 3.0" in shown
    # And a path that a proxy has shortened shows no token, and nothing that a terminal obeys
    it.post(body(0), path=f"/skyvern/sub_{'0123abcd' * 4}%1b%5B2J")
    told = "/skyvern/sub_********%1B%5B2J is not the path of a webhook"
    eventually(lambda: told in it.call("status").stdout, every=1.0)
