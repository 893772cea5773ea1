"""`runhook status`, /readyz?all and the metrics while real parts stop, are killed and come back."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from receiver.checks import board
from receiver.domain.liveness import ProcessBeat
from tests.servers.deployment import Deployment
from tests.servers.receiver import body
from tests.servers.valkey import ValkeyProcess
from tests.support.formats import parse_log_line
from tests.support.processes import state_and_parent
from tests.support.waiting import eventually

pytestmark = pytest.mark.long


def status(it: Deployment) -> tuple[int, dict[str, Any]]:
    done = it.call("status", "--json")
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, json.loads(done.stdout)


def codes(found: dict[str, Any]) -> set[str]:
    return {problem["code"] for problem in found["problems"] if not problem["note"]}


def all_ready(it: Deployment) -> tuple[int, set[str]]:
    answer = httpx2.get(f"{it.admin_url}/readyz?all", timeout=30)
    return answer.status_code, set(answer.json().get("wrong", ()))


def suspend(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: (state_and_parent(pid) or "?")[0] == "T")


def test_status_names_what_stops_and_shows_the_rest(
    deployment: Callable[..., Deployment], valkey_factory: Callable[..., ValkeyProcess]
) -> None:
    # Given all parts, with a sink
    valkey = valkey_factory()
    it = deployment(
        valkey.url,
        admin=True,
        sinks={"results": {"type": "database", "url": "sqlite:///${RUNHOOK_DATA}/results.db"}},
        routes=[{"name": "everything", "to": ["results"]}],
        spool={"reserve_bytes": 0},
    )
    it.run("worker")
    it.run("clock")
    it.start()
    it.acked(body(0))
    it.all_delivered(1)
    eventually(lambda: all_ready(it) == (200, set()))
    # Then all is well, in words and by the exit code
    code, found = status(it)
    assert (code, found["ok"], codes(found)) == (0, True, set())
    assert {each["part"] for each in found["parts"]} == {"receiver", "dispatch", "deliver:results", "clock"}
    # When the clock is suspended, and the config gets another sink
    it.ledger.write(lambda _: suspend(it.parts["clock"].pid))  # so that it does not hold the ledger's lock meanwhile
    config = json.loads(it.config.read_text())
    edited = {**config["sinks"], "copies": {"type": "files", "path": "${RUNHOOK_DATA}/copies"}}
    it.config.write_text(json.dumps({**config, "sinks": edited}))
    # Then both are named at once, with their own remedies, and no second process is advised
    code, found = status(it)
    assert (code, codes(found)) == (1, {"part_suspended", "config_old"})
    todo = {problem["code"]: problem["todo"] for problem in found["problems"]}
    assert f"kill -CONT {it.parts['clock'].pid}" in todo["part_suspended"]
    assert todo["config_old"].startswith("`runhook reload` on their hosts; until then nothing is sent to copies.")
    assert "(changed: sinks.copies)" in next(each["what"] for each in found["problems"] if each["code"] == "config_old")
    it.config.write_text(json.dumps(config))
    it.parts["clock"].send_signal(signal.SIGCONT)
    # When the clock is stopped, and the worker killed with all its children
    it.parts["clock"].send_signal(signal.SIGTERM)
    it.parts["clock"].wait()
    assert "part.stopped part=clock" in it.log_of("clock")
    it.kill_part("worker")
    # Then the command, the address and the metrics name them at once
    gone = {"clock", "dispatch", "deliver:results"}
    eventually(lambda: all_ready(it) == (503, gone))
    code, found = status(it)
    assert (code, codes(found)) == (1, {"part_missing"})
    said = {problem["what"] for problem in found["problems"]}
    assert {line.split()[1] for line in said} == {"clock", "worker"}  # the worker's parts, in one line
    assert any("was stopped" in line for line in said)
    assert any("ended unexpectedly" in line for line in said)
    shown = httpx2.get(f"{it.admin_url}/metrics", timeout=30).text
    assert 'runhook_parts_alive{part="clock"} 0.0' in shown
    assert 'runhook_parts_alive{part="receiver"} 1.0' in shown
    # When Redis goes too
    valkey.kill()
    eventually(lambda: "ingest.redis_away" in it.log)  # as it is seen at a look, for nothing is posted
    code, found = status(it)
    # Then the ledger still knows who is alive
    assert (code, codes(found) & {"redis_away", "ledger_away", "part_missing"}) == (1, {"redis_away", "part_missing"})
    assert found["ledger"]["newest_event_at"]
    # When the ledger goes as well
    it.more["DATABASE_URL"] = "sqlite:////nowhere/ledger.db"
    code, found = status(it)
    # Then the data directory knows the receiver that runs here
    assert (code, codes(found) & {"redis_away", "ledger_away"}) == (1, {"redis_away", "ledger_away"})
    assert {(each["part"], each["state"]) for each in found["parts"] if each["state"] == "running"} >= {
        ("receiver", "running")
    }
    # And all is well again when all are back
    del it.more["DATABASE_URL"]
    valkey.start()
    it.run("worker")
    it.run("clock")
    eventually(lambda: all_ready(it) == (200, set()) and "ingest.redis_back" in it.log)
    # And every line of every log can be taken apart; those for people, at the start and at the end, begin with our name
    lines = [line for log in (it.log, it.log_of("worker"), it.log_of("clock")) for line in log.splitlines()]
    events = [parse_log_line(line) for line in lines if not line.startswith("runhook: ")]
    started = {fields["part"] for event, fields in events if event == "part.started"}
    assert started == {"receiver", "dispatch", "deliver:results", "clock"}
    assert {"part.stopped", "ingest.redis_away", "ingest.redis_back"} <= {event for event, _ in events}


def receiver_of(found: dict[str, Any]) -> dict[str, Any]:
    (details,) = (each["details"] for each in found["parts"] if each["part"] == "receiver")
    return dict(details)


def test_status_shows_since_when_redis_is_down(
    deployment: Callable[..., Deployment], valkey_factory: Callable[..., ValkeyProcess]
) -> None:
    # Given a receiver that spools while Redis is down
    valkey = valkey_factory()
    it = deployment(valkey.url, spool={"reserve_bytes": 0})
    it.start()
    began = time.time()
    valkey.kill()
    it.acked(*(body(number) for number in range(12)))

    # Then status shows since when, and how many events the spool has
    found = eventually(lambda: (shown := status(it)[1])["redis"]["down_since"] and shown)
    assert began <= found["redis"]["down_since"] <= time.time()
    assert found["disk"]["spool_events"] == 12
    assert any(each["code"] == "redis_away" and ", for " in each["what"] for each in found["problems"])
    lines = [" ".join(line.split()) for line in it.call("status").stdout.splitlines()]
    assert any(line.startswith("Redis down for ") for line in lines)
    assert any(line.startswith("spool 12 events, ") for line in lines)

    # When Redis is back, then no status takes the receiver's return for a problem
    valkey.start()

    def returned() -> bool:
        _, shown = status(it)
        assert "receiver_spooling" not in {each["code"] for each in shown["problems"]}
        return bool(receiver_of(shown)["store"] == "redis" and not shown["disk"]["spool_events"])

    while not returned():
        pass
    _, found = status(it)
    assert found["redis"]["down_since"] is None
    assert receiver_of(found)["redis_down"] is None


def test_receiver_reports_at_once_that_it_spools(
    deployment: Callable[..., Deployment], valkey_factory: Callable[..., ValkeyProcess]
) -> None:
    # Given a receiver that has just sent a heartbeat
    valkey = valkey_factory()
    it = deployment(valkey.url, spool={"reserve_bytes": 0})
    it.start()

    def beat(store: str) -> ProcessBeat | None:
        return next(
            (seen.beat for seen in board.list_local_processes(it.data) if seen.beat.details["store"] == store), None
        )

    started = eventually(lambda: beat("redis"))

    # When it can't use Redis, then another one follows before the next is due
    valkey.kill()
    changed = eventually(lambda: beat("spool"))
    assert changed.details["redis_down"] >= started.sent_at
    at, events = changed.details["inbox"]
    assert (started.started_at <= at <= changed.sent_at, events) == (True, 0)
