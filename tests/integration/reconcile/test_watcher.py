"""Walks of a simulated Skyvern's list of runs: every run of the account has its result, once."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
import redis

from receiver.config.models import ReconcileConfig
from receiver.config.settings import Settings
from receiver.domain.callback import CALLBACK
from receiver.domain.event import Event, event_id
from receiver.ingest.poll_hints import KEY as HINTS
from receiver.ledger import Connection, account, schema, watches
from receiver.ledger.polls import ask
from receiver.ledger.schema import active_runs
from receiver.reconcile import listing, poller
from receiver.reconcile.importer import find_missing
from receiver.reconcile.source import PolledSource
from receiver.skyvern.client import SkyvernReader
from simulator.bodies import dumps, webhook
from simulator.faults import Fault
from tests.servers.scripted import Reply, ScriptedServer
from tests.servers.skyvern import Simulate, SkyvernSimulator
from tests.support import queries
from tests.support.dispatching import dispatch
from tests.support.events import body
from tests.support.reconciling import TOKEN, MakeRig, Rig, Rigged, change_polls
from tests.support.waiting import eventually


def walk(it: Rig, seconds: float = 60) -> None:
    """Make the next walk now, and all that comes of it."""
    it.ledger.write(lambda c: c.exec_driver_sql("UPDATE watches SET due_at = 0"))
    for source in it.reconciler.sources:
        if source.watch:
            it.reconciler.watcher.walk(source)
    it.reconciler.drain(seconds)
    it.reconciler.drain(seconds)  # what the walk asked for, if it ended as the last thing


def watch_of(it: Rig) -> watches.Watch:
    (found,) = it.ledger.read(watches.list_watches)
    return found


def take_webhook(it: Rig, sim: SkyvernSimulator, run_id: str) -> None:
    content = dumps(webhook(sim.run(run_id), lambda stored: f"https://files.example/{stored.id}?sig=fresh"))
    dispatch(it.dispatcher, [Event(event_id("skyvern", content), "skyvern", content, time.time())])


def asked_for(it: Rig) -> dict[str, float]:
    """The runs that Skyvern is asked for, and in how many seconds."""
    rows = it.ledger.read(lambda c: c.execute(schema.polls.select()).all())
    return {row.run_id: row.due_at - time.time() for row in rows}


def remembered(it: Rig) -> set[str]:
    return {row.run_id for row in it.ledger.read(lambda c: c.execute(active_runs.select()).all())}


def test_foreign_run_is_imported_once(rigged: Rigged) -> None:
    # Given a run of Skyvern's UI, without a webhook, beside one whose webhook has come
    it, sim = rigged(watch=True)
    told, alone = sim.ended("told", "alone")
    take_webhook(it, sim, told)

    # When its list is walked twice
    walk(it)
    walk(it)

    # Then the run is an event, and was fetched once; the other was not fetched at all
    assert it.events() == [(told, "webhook", "new"), (alone, "import", "new")]
    assert it.deliveries() == 2
    assert (sim.run(told).polls, sim.run(alone).polls) == (0, 1)
    assert alone not in asked_for(it)


def test_without_watch_nothing_is_walked(rigged: Rigged) -> None:
    it, sim = rigged()
    sim.ended("alone")

    it.reconciler.drain(1)

    assert it.events() == []
    assert sim.world.stats["lists"] == 0


def test_an_end_waits_for_its_webhook_first(rigged: Rigged) -> None:
    # Given a run that a walk shows as ended just now
    it, sim = rigged(watch=True, webhook_grace=100)
    (run_id,) = sim.ended("invoice")
    walk(it)
    assert it.events() == []
    assert asked_for(it) == {run_id: pytest.approx(100, abs=30)}

    # When its webhook comes in time
    take_webhook(it, sim, run_id)
    due_now(it)
    it.reconciler.drain(20)

    # Then that is the only event
    assert it.events()[0] == (run_id, "webhook", "new")
    assert [what for _, _, what in it.events()].count("new") == 1


def due_now(it: Rig) -> None:
    change_polls(it.ledger, due_at=1.0)


@pytest.mark.parametrize(("path", "polls"), [("/v1/run/agents", 0), ("/v1/run/tasks", 1)])
def test_run_with_a_complete_webhook_is_not_polled(rigged: Rigged, path: str, polls: int) -> None:
    it, sim = rigged(watch=True, webhook_grace=100)
    run_id = sim.submit("invoice", path, agent_id="wpid_1")["run_id"]
    sim.wait_final(run_id)
    walk(it)
    take_webhook(it, sim, run_id)

    due_now(it)
    it.reconciler.drain(20)

    assert sim.run(run_id).polls == polls
    assert asked_for(it) == {}


def test_end_without_a_webhook_is_taken_after_the_grace(rigged: Rigged) -> None:
    it, sim = rigged(watch=True, webhook_grace=100)
    (run_id,) = sim.ended("invoice")
    walk(it)

    # When it is asked for too early, by whatever reason
    due_now(it)
    it.reconciler.drain(20)
    assert it.events() == []

    # And when the end was noted long ago
    change_polls(it.ledger, due_at=1.0, noted_at=schema.polls.c.noted_at - 100)
    it.reconciler.drain(20)

    assert it.events() == [(run_id, "import", "new")]


def test_end_older_than_a_listed_run_does_not_wait(rigged: Rigged) -> None:
    it, sim = rigged(watch=True, webhook_grace=1)
    (first,) = sim.ended("first")
    time.sleep(1.1)  # by the clock of the simulator
    (second,) = sim.ended("second")

    walk(it)

    assert (first, "import", "new") in it.events()
    eventually(lambda: (it.reconciler.tick(), len(it.events()) == 2)[1])
    assert it.events() == [(first, "import", "new"), (second, "import", "new")]


def test_run_that_ends_long_after_its_walk_is_found(simulate_skyvern: Simulate, rig: MakeRig) -> None:
    # Given a run that is under way when it is first seen, and the watermark far beyond it later
    sim = simulate_skyvern(run_seconds=1000.0)
    it = rig(sim, watch=True)
    slow = sim.submit("slow")["run_id"]
    walk(it)
    assert remembered(it) == {slow}
    it.ledger.write(lambda c: c.exec_driver_sql("UPDATE watches SET watermark = watermark + 1e6"))
    walk(it)
    assert (remembered(it), it.events()) == ({slow}, [])

    # When it ends
    sim.client.post(f"/v1/runs/{slow}/cancel")
    eventually(lambda: sim.run(slow).output)
    walk(it)

    # Then it is found although no walk reads so far back
    assert it.events() == [(slow, "import", "new")]
    assert remembered(it) == set()


def test_watching_starts_now_and_a_restart_continues(simulate_skyvern: Simulate, rig: MakeRig) -> None:
    # Given an account with runs that have ended, and one that is under way
    sim = simulate_skyvern(run_seconds=1000.0)
    it = rig(sim, watch=True, watch_back=0)
    for _ in range(3):
        earlier = sim.submit("earlier")["run_id"]
        sim.client.post(f"/v1/runs/{earlier}/cancel")
        sim.wait_final(earlier)
    slow = sim.submit("slow")["run_id"]

    # When it is walked for the first time, and the next run is created at once
    walk(it)
    later = sim.submit("later")["run_id"]
    for run_id in (slow, later):
        sim.client.post(f"/v1/runs/{run_id}/cancel")
        sim.wait_final(run_id)
    walk(it)
    again = poller.build(it.settings, it.config)
    last = sim.submit("last")["run_id"]
    sim.client.post(f"/v1/runs/{last}/cancel")
    sim.wait_final(last)
    it.ledger.write(lambda c: c.exec_driver_sql("UPDATE watches SET due_at = 0"))
    again.drain(10)
    again.drain(10)
    again.close()

    # Then only what ended after that walk is imported, by a clock that is started later as well
    assert sorted(it.events()) == sorted((run_id, "import", "new") for run_id in (slow, later, last))


def test_run_that_ends_during_the_first_walk_is_imported(
    simulate_skyvern: Simulate, rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a run that ends after the first call of the first walk
    sim = simulate_skyvern(run_seconds=1000.0)
    it = rig(sim, watch=True, watch_back=0)
    slow = sim.submit("slow")["run_id"]
    list_runs = SkyvernReader.list_runs

    def list_and_end(*arguments: Any) -> Any:
        answer = list_runs(*arguments)
        if not sim.run(slow).settled:
            sim.client.post(f"/v1/runs/{slow}/cancel")
            sim.wait_final(slow)
        return answer

    monkeypatch.setattr(SkyvernReader, "list_runs", list_and_end)

    # When it is walked
    walk(it)
    walk(it)

    assert it.events() == [(slow, "import", "new")]


@pytest.mark.parametrize("walked_before", [False, True])
def test_earlier_runs_are_imported_on_request(rigged: Rigged, walked_before: bool) -> None:
    # Given runs that ended before the first walk, one of them long ago
    it, sim = rigged(watch=True, watch_back=0)
    old, recent = sim.ended("old", "recent")
    sim.run(old).created_at = sim.run(old).created_at.replace(year=2020)
    if walked_before:
        walk(it)
        assert it.events() == []

    # When a clock is started that is to go back for an hour, and again
    for _ in range(2):
        asked = poller.build(it.settings, it.config, watch_back=3600)
        it.ledger.write(lambda c: c.exec_driver_sql("UPDATE watches SET due_at = 0"))
        asked.drain(10)
        asked.drain(10)
        asked.close()
    walk(it)

    assert it.events() == [(recent, "import", "new")]


@pytest.mark.parametrize(
    ("environ", "given", "expected"),
    [
        ({}, {}, (9.0, 15.0)),
        ({}, {"webhook_grace": "1m", "watch_every": "5m"}, (60.0, 300.0)),
        ({"PUBLIC_URL": "https://hooks.example.com"}, {}, (120.0, 60.0)),
        ({"PUBLIC_URL": "https://hooks.example.com", "RUNHOOK_DEV_KEY": "local-key"}, {}, (9.0, 15.0)),
    ],
)
def test_without_public_url_no_end_waits_for_a_webhook(
    environ: dict[str, str], given: dict[str, str], expected: tuple[float, float]
) -> None:
    waits = Settings.from_env(environ).waits_for_webhooks
    settings = ReconcileConfig.model_validate(given).paced(webhooks=waits)

    assert (settings.webhook_grace, settings.watch_every) == expected


def test_broken_walk_restarts_at_its_watermark(rigged: Rigged) -> None:
    # Given a watermark, and a Skyvern that is away for a day
    it, sim = rigged(watch=True)
    walk(it)
    (first,) = sim.ended("first")
    walk(it)
    before = watch_of(it)
    sim.world.options.change({Fault.CRASH: 1.0})
    walk(it)
    assert watch_of(it).trouble == "page 1: Skyvern answered 500"
    assert watch_of(it).watermark == before.watermark

    # When it is back
    sim.world.options.change({Fault.CRASH: 0.0})
    (second,) = sim.ended("second")
    walk(it)

    assert it.events() == [(first, "import", "new"), (second, "import", "new")]
    assert watch_of(it).trouble == ""


def test_several_clocks_make_one_walk(rigged: Rigged) -> None:
    it, sim = rigged(watch=True, watch_every=3600)
    another = poller.build(it.settings, it.config)
    made = [sim.submit(f"invoice {number}")["run_id"] for number in range(6)]
    sim.wait_final(*made)

    eventually(lambda: (it.reconciler.tick(), another.tick(), len(it.events()) >= 6)[-1])
    it.reconciler.drain(5)
    another.drain(5)
    another.close()

    assert sorted(it.events()) == sorted((run_id, "import", "new") for run_id in made)
    assert [sim.run(run_id).polls for run_id in made] == [1] * 6
    assert sim.world.stats["lists"] <= 3  # one walk: a page, the end of the list, what is under way


def test_growing_list_is_read_completely(rigged: Rigged, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a list of pages of 3 that grows by two runs with each page that is read
    it, sim = rigged(watch=True)
    (source,) = it.reconciler.sources
    source.page_size = 3
    made = [sim.submit(f"invoice {number}")["run_id"] for number in range(8)]
    real = source.reader.list_runs

    def growing(*args: Any, **kwargs: Any) -> Any:
        if len(made) < 14:
            made.extend(sim.submit("late")["run_id"] for _ in range(2))
        return real(*args, **kwargs)

    monkeypatch.setattr(source.reader, "list_runs", growing)
    walk(it)
    sim.wait_final(*made)
    walk(it)

    doubled = [each for each in it.events() if [e[0] for e in it.events()].count(each[0]) > 1]
    assert doubled == []
    assert sorted(run_id for run_id, _, _ in it.events()) == sorted(made)
    assert {(via, what) for _, via, what in it.events()} == {("import", "new")}


def test_run_with_a_submission_stays_a_poll(rigged: Rigged) -> None:
    it, sim = rigged(watch=True)
    run_id = sim.submit("invoice")["run_id"]
    it.begin()
    it.answered(run_id, due_at=time.time() + 1000)
    sim.wait_final(run_id)

    walk(it)

    assert it.events() == [(run_id, "poll", "new")]
    assert it.due_at() is None


def test_found_run_gets_its_lost_submission(rigged: Rigged) -> None:
    it, sim = rigged(watch=True)
    it.begin(labels={"team": "ops"})
    run_id = sim.submit("p [lose]", webhook_url=f"http://127.0.0.1:9/webhooks/skyvern/{TOKEN}")["run_id"]
    sim.wait_final(run_id)

    walk(it)

    assert it.events() == [(run_id, "import", "new")]
    assert it.submission().run_id == run_id


def row(run_id: str, at: str, status: str = "completed", **fields: Any) -> dict[str, Any]:
    return {"run_id": run_id, "task_run_type": "task_v1", "status": status, "created_at": at, "title": None, **fields}


class Paged:
    """A list of runs behind Skyvern's limits: so many pages of so many."""

    def __init__(self, rows: list[dict[str, Any]], pages: int, size: int) -> None:
        self.rows, self.pages, self.size = rows, pages, size
        self.calls: list[tuple[int, tuple[str, ...], tuple[str, ...]]] = []

    def list_runs(self, page: int, size: int, status: Any = (), run_type: Any = (), search_key: str = "") -> Any:
        from receiver.skyvern.responses import Answered

        self.calls.append((page, tuple(status), tuple(run_type)))
        if page > self.pages:
            return Answered(422, b"{}")
        found = [
            each
            for each in self.rows
            if (not status or each["status"] in status) and (not run_type or each["task_run_type"] in run_type)
        ]
        return Answered(200, orjson.dumps(found[(page - 1) * self.size : page * self.size]))


def read(paged: Any, since: float) -> tuple[listing.RunList, set[str]]:
    source = PolledSource("skyvern", paged, lambda wanted: wanted, page_size=paged.size)
    source.max_pages = paged.pages
    found = listing.RunList(source, since)
    return found, {each.run_id for rows in found for each in rows}


def test_truncated_list_is_read_by_status_and_type() -> None:
    statuses = ("completed", "failed", "canceled")
    types = ("task_v1", "workflow_run")
    rows = [
        row(f"r{number}", f"2026-01-01T00:{59 - number:02d}:00", statuses[number % 3], task_run_type=types[number % 2])
        for number in range(40)
    ]
    paged = Paged(rows, pages=2, size=5)  # 10 of a list, where 14 have each status and 7 each status and type

    found, seen = read(paged, 0.0)

    assert seen == {each["run_id"] for each in rows}
    assert (found.reached, found.trouble) == (True, "")
    assert max(page for page, _, _ in paged.calls) == 2


def test_run_no_longer_active_waits_for_its_webhook_once(scripted_server: ScriptedServer, rig: MakeRig) -> None:
    # Given a run that was under way, and a list of what is under way that no longer shows it
    it = rig(scripted_server, watch=True, webhook_grace=100)
    at = datetime.now(UTC).isoformat()
    scripted_server.default = Reply(200, orjson.dumps([row("tsk_1", at, "running")]))
    walk(it)
    scripted_server.default = Reply(200, b"[]")
    walk(it)
    assert 60 < asked_for(it)["tsk_1"] <= 100

    # When the grace is over, and it has ended
    scripted_server.default = Reply(200, body("tsk_1", "completed", created_at=at, modified_at=at, finished_at=at))
    change_polls(it.ledger, due_at=1.0, noted_at=schema.polls.c.noted_at - 100)
    it.reconciler.drain(20)

    # Then it is taken in, and does not wait once more
    assert it.events() == [("tsk_1", "import", "new")]


def note_and_ask(connection: Connection, run_id: str, noted_at: float, due_at: float) -> None:
    ask(connection, "skyvern", {run_id: due_at}, due_at, grace=due_at - noted_at, soon=0.0)


@pytest.mark.parametrize(("noted_for", "asked"), [(3600.0, True), (100_000.0, False)])
def test_known_end_survives_a_day_of_404(
    scripted_server: ScriptedServer, rig: MakeRig, noted_for: float, asked: bool
) -> None:
    # Given a run that has been paused for days, as an event says, and whose end a GET has shown
    it = rig(scripted_server)
    now = time.time()
    dispatch(it.dispatcher, [it.webhook("tsk_1", {"status": "paused"})])
    it.ledger.write(lambda c: note_and_ask(c, "tsk_1", now - noted_for, now - 1))
    change_polls(it.ledger, created_at=now - 300_000, reason="Skyvern answered 404")
    scripted_server.default = Reply(404, b'{"detail": "Not Found"}')

    # When Skyvern, or a proxy before it, says that it is not there
    it.reconciler.drain(20)

    # Then it is asked again for a day after that
    assert ("tsk_1" in asked_for(it)) is asked


def test_noted_end_is_polled_when_it_is_seen_again(rigged: Rigged) -> None:
    # Given an end that is too young for an import by hand
    it, sim = rigged(webhook_grace=1000)
    (run_id,) = sim.ended("from elsewhere")
    (source,) = it.reconciler.sources
    report = find_missing(it.ledger, source, 0.0, 1000)
    it.reconciler.drain_all()
    report.check(it.ledger)
    assert (report.young, report.imported) == ([run_id], set())
    assert report.again_at is not None
    assert 0 < report.again_at - time.time() <= 1000
    now = time.time()

    # When a caller's GET shows it, several times
    it.ledger.write(lambda c: note_and_ask(c, run_id, now, now + 1000))
    it.ledger.write(lambda c: note_and_ask(c, run_id, now + 500, now + 1500))

    # Then it is asked for when its webhook has had its time
    assert 900 < asked_for(it)[run_id] <= 1000


@pytest.mark.parametrize(("asked_to_wait", "waits"), [({}, 30), ({"retry-after": "600"}, 600)])
def test_next_walk_respects_retry_after(
    scripted_server: ScriptedServer, rig: MakeRig, asked_to_wait: dict[str, str], waits: float
) -> None:
    it = rig(scripted_server, watch=True)
    scripted_server.default = Reply(429, b"{}", asked_to_wait)
    began = time.time()

    it.reconciler.drain(20)

    assert waits - 1 < watch_of(it).due_at - began < waits + 25


def test_gap_is_recorded_and_watching_continues(scripted_server: ScriptedServer, rig: MakeRig) -> None:
    it = rig(scripted_server, watch=True, webhook_grace=1000)
    (source,) = it.reconciler.sources
    source.max_pages, source.page_size = 1, 3
    page = [row(f"tsk_{number}", "2099-01-01T00:00:00", finished_at="2099-01-01T00:00:01") for number in range(3)]
    scripted_server.default = Reply(200, dumps(page), {"content-type": "application/json"})

    walk(it)

    found = watch_of(it)
    assert found.gap_at == pytest.approx(time.time(), abs=30)
    assert found.watermark == pytest.approx(4070908800)
    assert set(asked_for(it)) == {"tsk_0", "tsk_1", "tsk_2"}


def test_paused_run_is_reported_once_before_its_end(scripted_server: ScriptedServer, rig: MakeRig) -> None:
    it = rig(scripted_server)
    it.begin(webhook_url="https://app.example/hook")
    it.answered("tsk_1")

    def says(status: str, second: int) -> None:
        body = {
            "run_id": "tsk_1",
            "run_type": "task_v1",
            "status": status,
            "modified_at": f"2026-01-01T00:00:{second:02d}",
        }
        scripted_server.default = Reply(200, dumps(body), {"content-type": "application/json"})
        it.poll()

    for second, status in enumerate(("running", "paused", "paused", "running", "running", "paused", "completed")):
        says(status, second)

    told = [(via, what) for _, via, what in it.events()]
    assert told == [("poll", "interim"), ("poll", "interim"), ("poll", "interim"), ("poll", "new")]
    # The caller's own webhook is called as Skyvern would call it: at the end only.
    found = it.ledger.read(lambda c: queries.list_deliveries(c, queries.Filter(sink=CALLBACK)))
    assert [each["status"] for each in found] == ["completed"]


def test_long_queued_run_is_reported_once(scripted_server: ScriptedServer, rig: MakeRig) -> None:
    it = rig(scripted_server, stuck_after=600)
    it.begin()
    it.answered("tsk_1")
    body = {"run_id": "tsk_1", "run_type": "task_v1", "status": "queued"}
    scripted_server.default = Reply(200, dumps(body), {"content-type": "application/json"})
    it.poll()
    assert it.events() == []

    it.ledger.write(lambda c: c.exec_driver_sql("UPDATE submissions SET created_at = created_at - 601"))
    for _ in range(2):
        it.poll()

    assert it.events() == [("tsk_1", "poll", "interim")]


def test_walk_reports_a_paused_run(simulate_skyvern: Simulate, rig: MakeRig) -> None:
    sim = simulate_skyvern(run_seconds=1000.0)
    it = rig(sim, watch=True)
    run_id = sim.submit("invoice")["run_id"]
    eventually(lambda: sim.run(run_id).status == "running")
    walk(it)
    assert it.events() == []

    sim.run(run_id).status = "paused"
    walk(it)
    walk(it)

    assert it.events() == [(run_id, "import", "interim")]
    sim.client.post(f"/v1/runs/{run_id}/cancel")
    eventually(lambda: sim.run(run_id).output)
    due_now(it)
    walk(it)
    assert it.events() == [(run_id, "import", "interim"), (run_id, "import", "new")]


def test_unknown_hints_cost_few_calls(scripted_server: ScriptedServer, rig: MakeRig, redis_url: str) -> None:
    it = rig(scripted_server)
    scripted_server.default = Reply(404, b'{"detail": "Task run not found"}')
    client = redis.Redis.from_url(redis_url)
    client.zadd(HINTS, {f"skyvern tsk_{number}": float(number) for number in range(100)})
    client.close()

    for _ in range(50):
        it.reconciler.tick()
    it.reconciler.drain(10)

    assert 0 < len(scripted_server.calls) < 20


def test_agents_are_recorded_without_secrets(rigged: Rigged) -> None:
    # Given two agents, one with a URL that holds a secret and a title that no database takes
    it, sim = rigged(watch=True)
    sim.world.agents.clear()
    definition = {"version": 1, "parameters": [], "blocks": []}
    made = []
    for title, url in (("Silent", None), ("Other\0", "https://ann:pw@hooks.example/x?token=sesame")):
        body = {"title": title, "workflow_definition": definition, "webhook_callback_url": url}
        made.append(sim.client.post("/v1/agents", json={"json_definition": body}).json()["workflow_permanent_id"])

    # When the account is watched
    it.reconciler.watcher.account_every = 0.0
    walk(it)

    # Then it is known where their results go
    def seen() -> dict[str, tuple[str, str | None]]:
        found = it.ledger.read(lambda c: account.page_of_agents(c, 10))
        return {each.agent_id: (each.title, each.callback_url) for each in found}

    assert seen() == {made[0]: ("Silent", None), made[1]: ("Other", "https://hooks.example/x")}

    # And one that is gone at Skyvern is gone here
    del sim.world.agents[made[1]]
    walk(it)
    assert list(seen()) == [made[0]]


def test_source_without_a_key_is_not_watched(rig: MakeRig, caplog: pytest.LogCaptureFixture) -> None:
    it = rig()
    source = it.config.sources["skyvern"].model_copy(update={"api_key": None, "watch": True})

    reconciler = poller.build(it.settings, it.config.model_copy(update={"sources": {"skyvern": source}}))

    assert reconciler.sources == []
    assert "watch.off source=skyvern: it has no api_key, so its runs can't be listed" in caplog.messages
    reconciler.close()


def test_active_run_of_the_first_walk_is_found_when_it_ends(simulate_skyvern: Simulate, rig: MakeRig) -> None:
    sim = simulate_skyvern(run_seconds=1000.0)
    it = rig(sim, watch=True, watch_back=0)
    slow = sim.submit("slow")["run_id"]
    sim.run(slow).created_at = sim.run(slow).created_at.replace(year=2020)
    sim.submit("a younger one")

    walk(it)
    sim.client.post(f"/v1/runs/{slow}/cancel")
    eventually(lambda: sim.run(slow).output)
    walk(it)

    assert it.events() == [(slow, "import", "new")]


def test_first_walk_goes_back_as_configured(rigged: Rigged) -> None:
    it, sim = rigged(watch=True, watch_back=3600)
    old, new = sim.ended("old", "new")
    sim.run(old).created_at = sim.run(old).created_at.replace(year=2020)

    walk(it)

    assert it.events() == [(new, "import", "new")]


def test_first_run_of_an_empty_account_is_imported(rigged: Rigged) -> None:
    it, sim = rigged(watch=True, watch_back=0)
    walk(it)
    (first,) = sim.ended("first")

    walk(it)

    assert it.events() == [(first, "import", "new")]


def rows_of(count: int) -> list[dict[str, Any]]:
    """Completed runs r0, r1 …, the newest first, a minute apart."""
    return [row(f"r{number}", f"2026-01-01T00:{59 - number:02d}:00") for number in range(count)]


def test_row_without_an_id_does_not_end_the_list() -> None:
    rows = rows_of(12)
    rows[2]["run_id"] = None

    _, seen = read(Paged(rows, pages=9, size=5), 0.0)

    assert seen == {f"r{number}" for number in range(12) if number != 2}


def test_run_that_ends_between_lists_by_status_is_found() -> None:
    # Given a list that has to be read by status, and a run that ends after the first of these lists was read
    rows = rows_of(14)
    rows[-1]["status"] = "running"

    class Ending(Paged):
        def list_runs(self, page: int, size: int, status: Any = (), run_type: Any = (), search_key: str = "") -> Any:
            answer = super().list_runs(page, size, status, run_type, search_key)
            if status in (["completed"], ["running"]) and page == 1 and not run_type:
                self.rows[-1]["status"] = "completed"
            return answer

    # When it is read
    _, seen = read(Ending(rows, pages=2, size=5), 0.0)

    # Then it is seen
    assert "r13" in seen


def test_first_walk_stops_at_the_retention_time(rigged: Rigged) -> None:
    # Given a run of two hours ago, whose events, if there were any, are removed by now
    it, sim = rigged(watch=True)
    old, young = sim.ended("old", "young")
    sim.run(old).created_at -= timedelta(hours=2)
    retention = it.config.retention.model_copy(update={"events": 3600.0})
    keeping = poller.build(it.settings, it.config.model_copy(update={"retention": retention}))

    # When the account is walked for the first time
    keeping.drain(20)
    keeping.drain(20)
    keeping.close()

    # Then it is not told again
    assert it.events() == [(young, "import", "new")]


def test_too_large_foreign_result_is_fetched(rigged: Rigged, redis_url: str) -> None:
    it, sim = rigged()
    (run_id,) = sim.ended("invoice")
    client = redis.Redis.from_url(redis_url)
    client.zadd(HINTS, {f"skyvern {run_id}": 1.0, "nobody tsk_1": 0.5})
    client.close()

    it.reconciler.tick()
    it.reconciler.drain(20)

    assert it.events() == [(run_id, "poll", "new")]
    assert sim.run(run_id).polls == 1
