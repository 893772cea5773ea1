"""The quarantine through the API: seen with bodies redacted, checked again, dropped."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from receiver.api.audit import ActionOutcome
from receiver.api.quarantine import accept
from receiver.api.service import Service
from receiver.domain.signature import sign
from receiver.errors import Busy, Invalid, NotAsExpected, NotFound
from receiver.inbox import STREAM
from receiver.ingest.quarantine import Quarantine, QuarantinedRequest
from receiver.ledger import Ledger
from receiver.runtime.redis_client import connect
from tests.support import api
from tests.support.api import actor, call, done
from tests.support.ledger import with_tables


def put(folder: Path, source: str, run: str, secret: str, **fields: Any) -> QuarantinedRequest:
    """A request in quarantine that was signed with `secret`."""
    body = json.dumps({"run_id": run, "status": "completed", **fields}).encode()
    refused = QuarantinedRequest.of(source, sign(body, secret), body, "", time.time())
    Quarantine(folder / "quarantine", 100, 1 << 20).add(refused, body)
    return refused


@pytest.fixture
def service(tmp_path: Path, redis_url: str) -> Service:
    """One whose source skyvern has got another secret since; `redis_url` is its Redis."""
    ledger = with_tables(Ledger(f"sqlite:///{tmp_path / 'ledger.db'}"))
    it = api.service(ledger, tmp_path, redact=["**.password"])
    settings = type(it.settings).from_env({**it.settings.environ, "REDIS_URL": redis_url})
    return Service(settings, ledger, it.config)


def entries(service: Service) -> int:
    with connect(service.settings.redis_url, timeout=5, connect_timeout=5, retries=1) as client:
        return int(client.xlen(STREAM))


def test_what_is_there_is_shown_redacted(service: Service, tmp_path: Path) -> None:
    refused = put(tmp_path, "skyvern", "tsk_1", "wrong", password="hunter2", title="half \ud800")
    put(tmp_path, "other", "tsk_2", "wrong")

    rows = call(service, "list_quarantine")["items"]
    assert [(row["source"], row["is_run"]) for row in rows] == [("skyvern", True), ("other", True)]
    shown = call(service, "get_quarantined", id=refused.id)
    assert (shown["run_id"], shown["problem"]) == ("tsk_1", "")
    assert shown["data"]["password"] == "[redacted]"
    assert "hunter2" not in json.dumps(shown)

    # And each with the run that it names, and how often its body is there
    put(tmp_path, "skyvern", "tsk_1", "worse", password="hunter2", title="half \ud800")
    rows = call(service, "list_quarantine")["items"]
    assert [(row["run_id"], row["identical"]) for row in rows] == [("tsk_1", 2), ("tsk_2", 1), ("tsk_1", 2)]

    # And one of one source sees its own
    mine = actor("other")
    assert [row["source"] for row in call(service, "list_quarantine", mine)["items"]] == ["other"]
    with pytest.raises(NotFound):
        call(service, "get_quarantined", mine, id=refused.id)


def test_quarantine_is_listed_while_the_ledger_is_down(service: Service, tmp_path: Path) -> None:
    for number in range(3):
        put(tmp_path, "skyvern", f"tsk_{number}", "wrong")
    without = Service(service.settings, Ledger("postgresql://u@127.0.0.1:1/none"), service.config)

    first = call(without, "list_quarantine", limit=2)
    rest = call(without, "list_quarantine", limit=2, after=first["next"])

    assert (len(first["items"]), len(rest["items"]), rest["next"]) == (2, 1, None)


def test_what_is_authentic_by_now_is_accepted(service: Service, tmp_path: Path) -> None:
    # Given one that the present secret fits, one that none fits, and one of another source
    good = put(tmp_path, "skyvern", "tsk_1", "secret-of-skyvern")
    put(tmp_path, "skyvern", "tsk_2", "wrong")
    put(tmp_path, "other", "tsk_3", "secret-of-other")

    # When they are counted, and then checked, of one source
    preview = call(service, "verify_quarantine", source="skyvern", dry_run=True)
    assert (preview["count"], preview["authentic"], entries(service), done(service)) == (2, 1, 0, [])
    with pytest.raises(NotAsExpected):
        call(service, "verify_quarantine", source="skyvern", expect=3)
    told = call(service, "verify_quarantine", source="skyvern", expect=2)

    # Then the one is in the inbox, and the others stay
    assert {row["request"]["id"]: row["verdict"] for row in told["items"]}[good.id] == "authentic"
    assert entries(service) == 1
    assert len(call(service, "list_quarantine")["items"]) == 2
    assert done(service) == [("quarantine.verify", "ada", 1, "done")]


def test_request_removed_meanwhile_stops_no_other(service: Service, tmp_path: Path) -> None:
    chosen = [put(tmp_path, "skyvern", f"tsk_{number}", "wrong") for number in range(3)]
    store, told = Quarantine(tmp_path / "quarantine", 100, 1 << 20), ActionOutcome()
    store.remove(chosen[1:2])
    accept(service.settings, service.config, store, chosen, told)
    assert (told.count, entries(service), store.list()) == (2, 2, [])


def test_what_redis_does_not_take_stays(service: Service, tmp_path: Path) -> None:
    put(tmp_path, "skyvern", "tsk_1", "secret-of-skyvern")
    settings = type(service.settings).from_env({**service.settings.environ, "REDIS_URL": "redis://127.0.0.1:1"})
    away = Service(settings, service.ledger, service.config)
    with pytest.raises(Busy, match="the others stay"):
        call(away, "verify_quarantine", expect=1)
    assert len(call(service, "list_quarantine")["items"]) == 1
    assert done(service) == [("quarantine.verify", "ada", 0, "failed")]


def test_what_is_dropped_is_what_was_chosen(service: Service, tmp_path: Path) -> None:
    first = put(tmp_path, "skyvern", "tsk_1", "wrong")
    theirs = put(tmp_path, "other", "tsk_2", "wrong")

    with pytest.raises(Invalid, match="expect: give the exact number"):
        call(service, "drop_quarantine")
    with pytest.raises(NotFound, match=f"not in quarantine: {theirs.id}"):
        call(service, "drop_quarantine", actor("skyvern"), ids=[theirs.id])
    with pytest.raises(NotAsExpected):
        call(service, "drop_quarantine", until="1h", expect=2)
    assert call(service, "drop_quarantine", dry_run=True)["count"] == 2
    assert len(call(service, "list_quarantine")["items"]) == 2

    assert call(service, "drop_quarantine", ids=[first.id])["count"] == 1
    assert call(service, "drop_quarantine", actor("other"), expect=1)["count"] == 1
    assert call(service, "list_quarantine")["items"] == []
    assert done(service) == [("quarantine.drop", "ada", 1, "done"), ("quarantine.drop", "ada", 1, "done")]
