"""`runhook stats`: a table for people, and the same for programs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from receiver.ledger import Ledger
from tests.servers.scripted import Reply, ScriptedServer
from tests.support.command import Said
from tests.support.ledger import new_event, record

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
