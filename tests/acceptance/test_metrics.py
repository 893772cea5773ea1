"""/metrics of a real receiver, with a real worker behind it, and the page that lists what is on it."""

from __future__ import annotations

import re
from collections.abc import Callable

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from receiver import __version__
from tests.servers.deployment import Deployment
from tests.servers.http import Reply, ScriptedServer
from tests.servers.receiver import body
from tests.support.paths import ROOT
from tests.support.waiting import eventually

pytestmark = pytest.mark.long

PAGE = ROOT / "docs" / "reference" / "metrics.md"
# Labels whose values are words of ours.
FIXED = {"outcome", "store", "disposition", "le", "operation", "task", "reason", "code", "version"}


def scrape(it: Deployment) -> dict[str, list[Sample]]:
    """The samples by the name of their family, as Prometheus would read them."""
    answer = httpx2.get(f"{it.admin_url}/metrics", timeout=60)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    families = list(text_string_to_metric_families(answer.text))
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    assert [family.name for family in families if not family.documentation or family.type == "unknown"] == []
    return {family.name: family.samples for family in families}


def value(found: dict[str, list[Sample]], family: str, suffix: str = "", **labels: str) -> float:
    samples = [each for each in found.get(family, ()) if (each.name, each.labels) == (family + suffix, labels)]
    assert len(samples) == 1, (family, labels)
    return samples[0].value


def test_everything_that_is_promised_is_there_and_true(deployment: Callable[..., Deployment], redis_url: str) -> None:
    with ScriptedServer() as consumer:
        # Given one event delivered, one dead, one waiting, one that no rule takes, one twice, and one refused
        consumer.script += [Reply(204), Reply(400), Reply(503)]
        it = deployment(
            redis_url,
            admin=True,
            sinks={
                "hooks": {"type": "http", "url": f"{consumer.url}/hooks", "retry": {"first": "5m"}},
                "paused": {"type": "database", "url": "sqlite:///${RUNHOOK_DATA}/results.db"},
            },
            routes=[
                {"name": "finished", "when": {"status": "completed"}, "to": ["hooks"]},
                {"name": "big | odd", "when": "run.output.total > 5.0", "to": ["hooks"]},
                {"name": "later", "when": {"title": "later"}, "to": ["paused"]},
            ],
            allowed_addresses=["127.0.0.1"],
        )
        it.run("worker")
        it.start()
        for number in range(3):
            it.acked(body(number))
            eventually(lambda number=number: len(consumer.requests) == number + 1)
        it.acked(body(0), body(3, status="failed", output={"total": "many"}))
        it.runhook("sink", "pause", "paused")
        it.acked(body(4, status="failed", title="later"))
        assert it.post(body(5), "not the secret").status_code == 401
        assert it.post(body(5), path="/webhooks/minted-by-a-stranger").status_code == 404

        # When it is scraped, then every count is right in the end
        def complete() -> dict[str, list[Sample]]:
            found = scrape(it)
            assert value(found, "runhook_events", "_total", disposition="new") == 5
            assert value(found, "runhook_deliveries", sink="paused", state="queued") == 1
            assert value(found, "runhook_quarantine_requests") == 1
            assert [value(found, f"runhook_{name}_up") for name in ("ledger", "tally", "redis")] == [1, 1, 1]
            assert value(found, "runhook_deliveries", sink="hooks", state="dead") == 1
            assert value(found, "runhook_deliveries", sink="hooks", state="waiting") == 1
            assert value(found, "runhook_deliveries", sink="hooks", state="sending") == 0
            assert value(found, "runhook_oldest_due_seconds", sink="paused") > 0
            assert value(found, "runhook_oldest_due_seconds", sink="hooks") == 0
            assert value(found, "runhook_breaker", sink="hooks") == 0
            assert value(found, "runhook_sink_paused", sink="paused") == 1
            assert value(found, "runhook_ingest_requests", "_total", outcome="accepted") == 6
            assert value(found, "runhook_ingest_requests", "_total", outcome="bad_signature") == 1
            assert value(found, "runhook_ingest_request_seconds", "_count") == 6
            assert value(found, "runhook_attempt_seconds", "_count", sink="hooks") == 3
            assert value(found, "runhook_parts_alive", part="receiver") == 1
            assert value(found, "runhook_parts_alive", part="deliver:paused") == 1
            assert value(found, "runhook_parts_alive", part="clock") == 0
            assert value(found, "runhook_problems", code="part_missing") == 1  # the clock
            assert value(found, "runhook_problems", code="delivery_dead") == 1
            assert value(found, "runhook_problems", code="ledger_away") == 0
            assert value(found, "runhook_build_info", version=__version__) == 1
            assert value(found, "process_cpu_seconds", "_total") > 0
            for outcome in ("accepted", "refused", "unavailable"):
                assert value(found, "runhook_attempts", "_total", sink="hooks", outcome=outcome) == 1
            assert value(found, "runhook_events_unrouted", "_total") == 1
            assert value(found, "runhook_rule_errors", "_total", route="big | odd") == 1
            assert value(found, "runhook_spool_events") == value(found, "runhook_spool_bytes") == 0
            assert value(found, "runhook_quarantine_bytes") > 0
            return found

        found = eventually(complete, every=0.5)

    # And no label holds what a stranger can mint
    sinks, routes = {"hooks", "paused", "callback"}, {"finished", "big | odd", "later"}
    labels = {(name, text) for samples in found.values() for each in samples for name, text in each.labels.items()}
    assert {name for name, _ in labels} <= {"sink", "state", "route", "source", "part", *FIXED}
    assert {text for name, text in labels if name == "part"} == {
        *("receiver", "dispatch", "clock"),
        *(f"deliver:{sink}" for sink in sinks - {"callback"}),
    }
    assert {text for name, text in labels if name == "source"} <= {"skyvern", "other"}
    assert {text for name, text in labels if name == "sink"} <= sinks
    assert {text for name, text in labels if name == "route"} <= routes
    # And the page lists all of it and nothing else
    listed = set(re.findall(r"^\| `(runhook_\w+)`", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    assert listed - {"runhook_ledger_cancelled"} == {  # there only while the database cancels something
        name + ("_total" if any(sample.name == f"{name}_total" for sample in samples) else "")
        for name, samples in found.items()
        if samples and not name.startswith("process_")
    }
