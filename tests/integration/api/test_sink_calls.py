"""Sinks through the API: how they are, paused and let go on, and tested; what is not for one of one source."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from receiver.api.service import Service
from receiver.domain.breaker import Lane
from receiver.errors import Busy, Forbidden, Invalid, NotFound
from receiver.ledger import Connection, Ledger
from receiver.ledger.deliveries import lanes
from tests.support import api
from tests.support.api import actor, call, done
from tests.support.ledger import new_event, record, states, step_operations


@pytest.fixture
def service(ledger: Ledger, tmp_path: Path) -> Service:
    """ops has waited for a minute behind an open breaker, gone is not in the config, and an origin is shut."""
    now = ledger.now()
    record(ledger, new_event("tsk_1", "ops", "gone"), now=now - 60)

    def shut(connection: Connection) -> None:
        for lane, sink in (("ops", "ops"), ("callback k1 https://shop.example", "callback")):
            opened = Lane(lane, sink, breaker="open", failures=5, until=now + 60, reason="it is down", opened_at=now)
            lanes.put(connection, opened, now)

    ledger.write(shut)
    return api.service(ledger, tmp_path)


def test_sinks_are_listed_with_breaker_lag_orphans_and_origins(service: Service) -> None:
    rows = {row["name"]: row for row in call(service, "list_sinks")["items"]}

    assert list(rows) == ["ops", "chat", "results", "callback", "gone"]
    ops = rows["ops"]
    assert (ops["type"], ops["breaker"], ops["reason"], ops["deliveries"]) == (
        "files",
        "open",
        "it is down",
        {"queued": 1},
    )
    assert 59 < ops["lag"] < 200
    assert ops["oldest_due_at"].endswith("Z")
    assert (rows["chat"]["breaker"], rows["chat"]["lag"], rows["chat"]["deliveries"]) == ("closed", 0, {})
    assert (rows["gone"]["orphaned"], rows["gone"]["deliveries"]) == (True, {"queued": 1})
    (origin,) = rows["callback"]["origins"]["shut"]
    assert (origin["breaker"], origin["reason"]) == ("open", "it is down")
    assert call(service, "get_sink", sink="gone") == rows["gone"] | {"lag": pytest.approx(rows["gone"]["lag"], abs=60)}
    with pytest.raises(NotFound, match="sink nothing: not found"):
        call(service, "get_sink", sink="nothing")


def test_one_of_one_source_sees_no_counts_and_no_reasons(service: Service) -> None:
    rows = call(service, "list_sinks", actor("other"))["items"]
    assert [row["name"] for row in rows] == ["ops", "chat", "results", "callback"]
    assert {(row["deliveries"], row["reason"], row["lag"], row["origins"]) for row in rows} == {(None, "", None, None)}
    assert rows[0]["breaker"] == "open"
    for name in ("pause_sink", "resume_sink", "test_sink"):
        with pytest.raises(Forbidden, match="concerns all sources"):
            call(service, name, actor("other"), sink="ops")
    assert done(service) == []


def test_a_sink_is_paused_and_goes_on(service: Service) -> None:
    paused = call(service, "pause_sink", sink="ops")
    assert (paused["paused"], paused["name"]) == (True, "ops")

    told = call(service, "resume_sink", sink="ops")

    # Its breaker is open, and tried at once
    assert (told["was_paused"], told["probed"], told["sink"]["paused"]) == (True, 1, False)
    lane = service.ledger.read(lambda it: lanes.find(it, "ops"))
    assert lane is not None
    assert lane.until <= time.time() + 5
    assert not call(service, "resume_sink", sink="chat")["was_paused"]
    assert [row[:3] for row in done(service)] == [
        ("sink.pause", "ada", 1),
        ("sink.resume", "ada", 1),
        ("sink.resume", "ada", 1),
    ]


def test_a_sink_is_tested(service: Service, tmp_path: Path) -> None:
    # A sink that is well writes the sample and says where
    told = call(service, "test_sink", sink="results")
    assert (told["outcome"], told["reason"]) == ("accepted", "")
    assert any("tsk_test_" in key for key in told["keys"])
    assert list((tmp_path / "results").rglob("run.json"))

    # One that is not says why
    (tmp_path / "chat").write_text("a file where the folder would be")
    refused = call(service, "test_sink", sink="chat")
    assert refused["outcome"] in ("unavailable", "refused")
    assert refused["reason"]

    # And both are in the audit, with what came of them
    (second, first) = call(service, "list_audit")["items"]
    assert (first["action"], first["count"], first["outcome"], first["detail"]) == ("sink.test", 1, "done", "")
    assert (second["count"], second["outcome"]) == (0, "failed")
    assert refused["reason"] in second["detail"]
    assert first["ended_at"] >= first["at"]


def test_few_tests_are_made_at_once(ledger: Ledger, tmp_path: Path) -> None:
    # Given a sink that takes what is sent and does not answer
    with socket.create_server(("127.0.0.1", 0)) as hanging, ThreadPoolExecutor() as pool:
        url = f"http://127.0.0.1:{hanging.getsockname()[1]}/"
        sinks = {"hanging": {"type": "http", "url": url}}
        service = api.service(ledger, tmp_path, sinks=sinks, routes=[], allowed_addresses=["127.0.0.1"])
        # When two people test it
        tests = [pool.submit(call, service, "test_sink", sink="hanging") for _ in range(2)]
        callers = [hanging.accept()[0] for _ in tests]
        # Then a third is told so at once, and the first two are told what came of it
        with pytest.raises(Busy, match="other sinks are being tested"):
            call(service, "test_sink", sink="hanging")
        for each in callers:
            each.close()
        assert [each.result()["outcome"] for each in tests] == ["unavailable", "unavailable"]


@pytest.mark.parametrize("name", ["pause_sink", "resume_sink", "test_sink"])
def test_a_sink_that_is_none(service: Service, name: str) -> None:
    with pytest.raises(Invalid, match="unknown sink slak"):
        call(service, name, sink="slak")
    assert done(service) == []


def test_callers_webhooks_are_paused_but_not_tested(service: Service) -> None:
    assert call(service, "pause_sink", sink="callback")["paused"]
    with pytest.raises(Invalid, match="can't be tested"):
        call(service, "test_sink", sink="callback")


def test_a_move_is_an_operation_that_the_clock_completes(ledger: Ledger, tmp_path: Path) -> None:
    # Given what waits for a sink that is gone, more than one step moves
    service = api.service(ledger, tmp_path)
    record(ledger, *(new_event(f"tsk_{number}", "gone") for number in range(501)))
    wanted = {"sink": "gone", "into": "ops"}
    assert call(service, "move_sink", **wanted, dry_run=True)["count"] == 501
    assert done(service) == []

    begun = call(service, "move_sink", **wanted)["operation"]

    assert (begun["kind"], begun["state"], begun["done"], begun["total"]) == ("move", "running", 500, 501)
    step_operations(ledger, ledger.now())
    assert call(service, "get_operation", id=begun["id"])["state"] == "done"
    assert set(states(ledger)) == {f"tsk_{number}:ops" for number in range(501)}
    assert done(service) == [("sink.move", "ada", 501, "done")]
    with pytest.raises(Invalid, match="no such deliveries"):
        call(service, "move_sink", **wanted)
    with pytest.raises(Forbidden, match="all sources"):
        call(service, "move_sink", actor("skyvern"), **wanted)
