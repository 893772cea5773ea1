"""`runhook stats`: a table for people, and the same for programs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from receiver.domain.delivery import DeliveryMove
from receiver.domain.event import Event, event_id
from receiver.ingest.quarantine import Quarantine, QuarantinedRequest
from receiver.ledger import Ledger
from receiver.ledger.recording.write import count_copies
from tests.servers.scripted import Reply, ScriptedServer
from tests.support.command import Said
from tests.support.events import body
from tests.support.inbox import append
from tests.support.ledger import NOW, claim, new_event, record, settle

Stats = Callable[..., Said]


@pytest.fixture
def stats(book: Ledger, home: Path, said: Stats) -> Stats:
    """`runhook stats` of three runs, two of which failed for one reason."""
    (home / "runhook.yaml").write_text("sources: {skyvern: {secrets: [s]}}\n")
    for n, status in enumerate(("completed", "failed", "failed")):
        reason = f"timeout after {n} s" if status == "failed" else None
        record(book, new_event(f"r{n}", status=status, failure_reason=reason), now=time.time() - 60 + n)
    return lambda *arguments: said("stats", *arguments)


def test_people_see_how_many_there_were_and_how_they_ended(stats: Stats) -> None:
    code, shown, _ = stats("--by", "status,reason")
    assert code == 0
    lines = [line.split() for line in shown.splitlines()]
    assert lines[1][:5] == ["all", "3", "1", "3", "33.3"]
    assert lines[2][:8] == ["failed", "·", "timeout", "after", "#", "s", "2", "0"]
    assert lines[3][:6] == ["completed", "·", "-", "1", "1", "1"]


def test_programs_get_rows(stats: Stats) -> None:
    rows = [json.loads(line) for line in stats("--by", "status", "--bucket", "7d", "-o", "jsonl")[1].splitlines()]
    found = [(row["key"], row["count"], row["at"] is None) for row in rows]
    assert found == [({}, 3, True), ({"status": "failed"}, 2, False), ({"status": "completed"}, 1, False)]


def test_csv_has_a_column_for_each_group(stats: Stats) -> None:
    header, total, first, *_ = stats("--by", "status,reason", "-o", "csv")[1].splitlines()
    assert header.startswith("status,reason,at,count,")
    assert total.startswith(",,,3,")
    assert first.startswith("failed,timeout after # s,,2,")


def test_what_was_left_out_is_said(
    stats: Stats, scripted_server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "1 runs are in smaller groups" in stats("--by", "status", "--top", "1")[2]
    # And a service with more runs than it counts
    items = json.loads(stats("--by", "status", "-o", "json")[1])
    day = {"since": "2026-11-30T00:00:00Z", "until": "2026-12-01T00:00:00Z", "counted_since": "2026-11-30T10:00:00Z"}
    totals = {"of": "runs", "items": items, "others": 0, **day}
    scripted_server.default = Reply(200, json.dumps(totals).encode(), {"content-type": "application/json"})
    monkeypatch.setenv("RUNHOOK_URL", scripted_server.url)
    monkeypatch.setenv("RUNHOOK_KEY", "rhk_0123456789ab_secret")
    assert "only changes since 2026-11-30T10:00:00Z are included" in stats("--by", "status")[2]


def test_cancelled_runs_and_hours_without_data_do_not_count(book: Ledger, stats: Stats) -> None:
    # Given a ledger of five minutes
    record(book, new_event("r9", status="canceled"), now=time.time() - 300)

    # Then the day's rate is that of an hour, and one of three decided runs is good
    row, *_ = json.loads(stats("-o", "json")[1])
    assert (row["count"], row["ended"], row["success_rate"], row["per_hour"]) == (4, 3, 0.3333, 4.0)
    assert json.loads(stats("--since", "30m", "-o", "json")[1])[0]["per_hour"] == pytest.approx(8.0, rel=0.01)


def test_account_of_a_time_adds_up(
    book: Ledger, home: Path, said: Stats, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given three webhooks, two of them with deliveries; copies; a repeat; a poll; one in quarantine; one in the inbox
    (home / "runhook.yaml").write_text("sources: {skyvern: {secrets: [s]}}\n")
    monkeypatch.setenv("REDIS_URL", redis_url)
    now, first, polled = time.time(), new_event("r0"), new_event("r5", "ops")
    record(book, first, new_event("r4", "ops", "crm"), new_event("r4", disposition="repeat", n=2), now=now - 60)
    record(book, polled._replace(event=replace(polled.event, via="poll")), now=now - 60)
    book.write(lambda it: count_copies(it, [replace(first.event, received_at=NOW + late) for late in (1, 2, 2)]))
    settle(book, claim(book, "crm", now=now), DeliveryMove.ACCEPT)
    forged = QuarantinedRequest.of("skyvern", "0" * 64, body("r6"), "", now - 30)
    Quarantine(home / "quarantine", 10, 1 << 20).add(forged, body("r6"))
    append(redis_url, Event(event_id("skyvern", body("r7")), "skyvern", body("r7"), now))

    # When programs and people ask what became of them
    account = json.loads(said("api", "get_totals")[1])["account"]
    table = said("stats")[1]

    # Then each number is the sum of its parts
    assert account["webhooks"] + account["fetched"] == account["same_again"] + account["recorded"] == 6
    assert account["recorded"] == account["routed"] + account["unrouted"] + sum(account["other"].values()) == 4
    assert account["deliveries"] == account["delivered"] + account["pending"] == 3
    assert (account["same_again"], account["unrouted"], account["other"]) == (2, 1, {"repeat": 1})
    assert (account["delivered"], account["refused"], account["waiting"]) == (1, 1, 1)
    lines = [" ".join(line.split()) for line in table.splitlines()]
    assert {"without a route 1 `runhook explain RUN` says why", "nothing new to send 1 1 repeat"} <= set(lines)
    assert any(line.startswith("- the same body again 2 ") for line in lines)
    # And of a group or a filter there is none, nor of an earlier time
    assert json.loads(said("api", "get_totals", "status=failed")[1])["account"] is None
    earlier = json.loads(said("api", "get_totals", "since=2h", "until=1h")[1])["account"]
    assert (earlier["webhooks"], earlier["refused"]) == (0, 0)
    assert "came 3 times" in said("run", "r0")[1]
    assert "copies: 2" in said("event", first.event.id)[1]
