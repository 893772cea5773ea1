"""Results that no webhook has brought, polled for at a simulated Skyvern."""

from __future__ import annotations

import json
import time
from datetime import UTC
from typing import Any

import pytest
import redis
import sqlalchemy as sa

from receiver.domain import poll_schedule, shape
from receiver.domain.event import Event, event_id
from receiver.domain.run import parse
from receiver.domain.submission import NewSubmission, Submission, SubmissionState
from receiver.ingest.poll_hints import KEY as HINTS
from receiver.ledger import Connection
from receiver.ledger.polls import ask, of_runs
from receiver.ledger.schema import events, polls, runs
from receiver.ledger.submissions import lifecycle
from receiver.reconcile import poller
from receiver.reconcile.importer import find_missing
from receiver.skyvern.responses import Answered, Unreachable
from simulator.bodies import dumps, webhook
from simulator.faults import Fault
from tests.servers.scripted import Reply, ScriptedServer
from tests.servers.skyvern import Simulate, SkyvernSimulator
from tests.servers.valkey import free_port
from tests.support.dispatching import dispatch
from tests.support.reconciling import OTHER, TOKEN, MakeRig, Rig, Rigged, change_polls
from tests.support.waiting import eventually


def test_overdue_run_becomes_one_new_event_despite_late_webhook(rigged: Rigged) -> None:
    it, sim = rigged()
    run_id = it.overdue()

    assert it.reconciler.drain(20) == 1

    assert it.events() == [(run_id, "poll", "new")]
    assert (it.submission().state, it.due_at()) == (SubmissionState.ACCEPTED, None)
    run = sim.run(run_id)
    content = dumps(webhook(run, lambda stored: f"https://files.example/{stored.id}?sig=fresh"))
    dispatch(it.dispatcher, [Event(event_id("skyvern", content), "skyvern", content, time.time(), submission_id=TOKEN)])
    assert it.events()[1] == (run_id, "webhook", "repeat")
    assert it.deliveries() == 1


@pytest.mark.parametrize(
    ("path", "engine"),
    [("/v1/run/tasks", "skyvern-1.0"), ("/v1/run/tasks", "skyvern-2.0"), ("/v1/run/agents", "")],
)
def test_polled_run_has_each_webhook_member(rigged: Rigged, path: str, engine: str) -> None:
    # Given a run whose webhook is lost
    it, sim = rigged()
    body = {"engine": engine} if engine else {"agent_id": "wpid_1", "parameters": {"a": 1}}
    run_id = it.overdue("invoice", path, **body)

    # When it is polled
    it.reconciler.drain(20)

    # Then the run has what its webhook would have had, but for where that went and what became of it
    sent = parse(dumps(webhook(sim.run(run_id), lambda stored: f"https://files.example/{stored.id}"))).data
    row = it.ledger.read(lambda c: c.execute(events.select()).one())
    had = shape.completed(parse(row.body).data, json.loads(row.completion or "{}"))
    wanted = {name: value for name, value in sent.items() if not shape.is_empty(value)}
    apart = {"webhook_callback_url", "webhook_failure_reason", "modified_at"}
    files = ("downloaded_files", "output", "outputs", "extracted_information")  # with URLs that are signed anew
    signed = {name for name in sent if "url" in name or name in files}
    signed |= {"attempts", *(name for name in sent if name.endswith("_at"))}  # times are written with Z, or without
    assert [name for name in wanted if shape.is_empty(had.get(name)) and name not in apart] == []
    same = wanted.keys() - apart - signed
    assert {name: had[name] for name in same} == {name: wanted[name] for name in same}
    assert len(same) > 5


@pytest.mark.parametrize("status", [502, 403, 404, 405])
def test_details_are_awaited_for_ten_minutes(rig: MakeRig, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    # Given a Skyvern whose call for details fails, or is missing
    it = rig()
    run_id = it.overdue()
    (source,) = it.reconciler.sources
    monkeypatch.setattr(source.reader, "get_details", lambda *_: Answered(status, b""))
    it.reconciler.drain(20)

    # Then a failure is waited out, for ten minutes
    if status == 502:
        assert it.events() == []
        assert it.reason() == "its details: Skyvern answered 502"
        assert it.due_at() == pytest.approx(time.time() + 30, abs=15)
        change_polls(it.ledger, noted_at=polls.c.noted_at - 601)
        it.poll()
    assert it.events() == [(run_id, "poll", "new")]


@pytest.mark.parametrize(
    "answer", [Answered(400, b""), Answered(503, b""), Answered(200, b"[]"), Unreachable(False, "x")]
)
def test_failed_or_empty_search_proves_nothing(rigged: Rigged, monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    it, sim = rigged()
    callback = f"http://127.0.0.1:9/webhooks/skyvern/{TOKEN}"
    run_id = sim.submit("mine", "/v1/run/agents", agent_id="wpid_1", webhook_url=callback)["run_id"]
    sim.wait_final(run_id)
    it.begin(call="agents")
    it.lost()
    (source,) = it.reconciler.sources
    real = source.reader.list_runs
    monkeypatch.setattr(
        source.reader, "list_runs", lambda *given, **more: answer if more.get("search_key") else real(*given, **more)
    )

    it.reconciler.drain(20)

    assert it.events() == [(run_id, "poll", "new")]


def test_running_run_is_polled_less_often(simulate_skyvern: Simulate, rig: MakeRig) -> None:
    sim = simulate_skyvern(run_seconds=1000.0)
    it = rig(sim)
    run_id = sim.submit("invoice")["run_id"]
    it.begin()
    it.answered(run_id)
    waits = []
    for _ in range(3):
        began = time.time()
        it.poll()
        due_at = it.due_at()
        assert due_at is not None
        waits.append(due_at - began)

    polled = it.poll_of()
    assert polled is not None
    assert polled.polls == 3
    assert waits[0] < 19 < waits[1] < 38 < waits[2] + 1
    assert it.events() == []


@pytest.mark.parametrize("fault", [Fault.THROTTLE, Fault.BUSY, Fault.CRASH, Fault.GARBAGE])
def test_skyvern_error_is_recorded_and_retried(rigged: Rigged, fault: Fault) -> None:
    it, sim = rigged()
    run_id = it.overdue()
    sim.world.options.change({fault: 1.0})
    it.reconciler.drain(20)
    assert it.due_at() is not None
    assert it.reason()
    assert it.events() == []

    sim.world.options.change({fault: 0.0})
    it.due_now()
    it.reconciler.drain(20)
    assert it.events() == [(run_id, "poll", "new")]


def test_lost_response_is_found_by_its_token(rigged: Rigged) -> None:
    it, sim = rigged()
    for number in range(5):
        sim.submit(f"another {number}")
    run_id = sim.submit("mine", webhook_url=f"http://127.0.0.1:9/webhooks/skyvern/{TOKEN}")["run_id"]
    it.begin(title="mine")
    it.lost()
    it.begin(OTHER)
    it.lost(OTHER)
    sim.wait_final(run_id)

    it.reconciler.drain(20)

    assert (it.submission().state, it.submission().run_id, it.due_at()) == (
        SubmissionState.ACCEPTED,
        run_id,
        None,
    )
    assert it.events() == [(run_id, "poll", "new")]
    assert (it.submission(OTHER).state, it.submission(OTHER).run_id) == (SubmissionState.UNKNOWN, "")
    # what was read once is not read again
    calls = sum(each.polls for each in sim.world.runs.values())
    it.due_now(OTHER)
    it.reconciler.drain(20)
    assert sum(each.polls for each in sim.world.runs.values()) == calls


def test_orphaned_submission_is_resolved_or_lost_after_a_day(rig: MakeRig) -> None:
    it = rig()
    new = NewSubmission(TOKEN, "skyvern", "k", "tasks", "h")
    it.ledger.write(lambda c: lifecycle.begin(c, new, time.time() - 200))
    it.reconciler.drain(20)
    assert it.submission().state is SubmissionState.UNKNOWN

    it.ledger.write(lambda c: c.exec_driver_sql(f"UPDATE submissions SET created_at = {time.time() - 9e4}"))
    it.due_now()
    it.reconciler.drain(20)
    assert (it.submission().state, it.due_at()) == (SubmissionState.LOST, None)


class Unsent:
    """A submission whose process was killed before anything was sent, beside one that went well."""

    def __init__(self, it: Rig, *, shown: bool = True) -> None:
        self.it = it
        callback = f"http://127.0.0.1:9/webhooks/skyvern/{OTHER}" if shown else "https://elsewhere.example"
        run_id = it.sim.submit("another", webhook_url=callback)["run_id"]
        it.begin(OTHER)
        it.answered(run_id, OTHER)
        it.begin(idempotency_key="order-1")
        it.sim.wait_final(run_id)
        it.reconciler.drain(20)

    def search(self, age: float) -> Submission:
        """What the submission is after a search at this age, in seconds."""
        change = f"UPDATE submissions SET created_at = {time.time() - age} WHERE id = '{TOKEN}'"
        self.it.ledger.write(lambda c: c.exec_driver_sql(change))
        self.it.due_now()
        self.it.reconciler.drain(20)
        return self.it.submission()


def test_submission_without_a_run_releases_its_key(rig: MakeRig) -> None:
    unsent = Unsent(rig())

    young = unsent.search(200)  # it may be on its way to Skyvern still
    assert (young.state, young.idempotency_key) == (SubmissionState.UNKNOWN, "order-1")
    assert unsent.it.due_at() == pytest.approx(time.time() + 15, abs=15)

    old = unsent.search(700)
    assert (old.state, old.idempotency_key, unsent.it.due_at()) == (SubmissionState.LOST, None, None)
    assert old.reason == "Skyvern has no run with its token"
    unsent.it.begin("sub_" + "1" * 32, idempotency_key="order-1")
    assert unsent.it.submission("sub_" + "1" * 32).state is SubmissionState.PENDING


def test_missing_run_is_proved_among_many_foreign_ones(skyvern_simulator: SkyvernSimulator, rig: MakeRig) -> None:
    # Given an account in which more runs are started past us than one search reads
    unsent = Unsent(rig(skyvern_simulator, budget="1000/s"))
    (source,) = unsent.it.reconciler.sources
    source.reads = 2
    for number in range(9):
        skyvern_simulator.submit(f"of another app {number}")

    # When it is searched for again and again
    found = [unsent.search(700).state for _ in range(6)]

    # Then each search reads further, until it is certain
    assert found[0] is SubmissionState.UNKNOWN
    assert found[-1] is SubmissionState.LOST


@pytest.mark.parametrize(
    "answer",
    [Unreachable(True, "reset"), Answered(200, b'{"status": "created"}', {})],
    ids=["reset", "no request"],
)
def test_unreadable_candidate_leaves_submission_unknown(
    rig: MakeRig, monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    unsent = Unsent(rig())
    run_id = unsent.it.sim.submit("mine", webhook_url=f"http://127.0.0.1:9/webhooks/skyvern/{TOKEN}")["run_id"]
    with monkeypatch.context() as patch:
        (source,) = unsent.it.reconciler.sources
        patch.setattr(source.reader, "get_run", lambda _: answer)
        assert unsent.search(700).state is SubmissionState.UNKNOWN

    assert unsent.search(700).run_id == run_id


@pytest.mark.parametrize("trouble", ["no tokens", "late clock", "unavailable"])
def test_doubtful_list_proves_nothing(rig: MakeRig, trouble: str) -> None:
    unsent = Unsent(rig(), shown=trouble != "no tokens")
    if trouble == "late clock":
        change = f"UPDATE submissions SET created_at = created_at + 3600 WHERE id = '{OTHER}'"
        unsent.it.ledger.write(lambda c: c.exec_driver_sql(change))
    elif trouble == "unavailable":
        unsent.it.sim.world.options.change({Fault.CRASH: 1.0})

    assert unsent.search(700).state is SubmissionState.UNKNOWN


def test_too_large_result_is_fetched_at_once(rigged: Rigged, redis_url: str) -> None:
    it, sim = rigged()
    run_id = sim.submit("invoice")["run_id"]
    it.begin()
    it.answered(run_id, due_at=time.time() + 1000)
    sim.wait_final(run_id)
    assert it.reconciler.drain(20) == 0

    client = redis.Redis.from_url(redis_url)
    client.zadd(HINTS, {f"skyvern {run_id}": 1.0, "not a hint": 0.5})
    it.reconciler.tick()
    client.close()
    it.reconciler.drain(20)

    assert it.events() == [(run_id, "poll", "new")]


def test_hints_that_come_together_are_taken_at_once(rigged: Rigged, redis_url: str) -> None:
    # Given a clock that has found no hint for a while
    it, _ = rigged()
    for _ in range(2 * int(poller.HINTS_AT_ONCE)):
        it.reconciler.tick()

    # When three come together
    with redis.Redis.from_url(redis_url) as client:
        client.zadd(HINTS, {f"skyvern wr_{number}": 1.0 for number in range(3)})
        for _ in range(3):
            it.reconciler.tick()

        # Then none of them waits
        assert client.zcard(HINTS) == 0


@pytest.mark.parametrize("redis_there", [True, False])
def test_budget_bounds_calls_with_and_without_redis(rigged: Rigged, redis_url: str, redis_there: bool) -> None:
    url = redis_url if redis_there else f"redis://127.0.0.1:{free_port()}/0"
    it, sim = rigged(url=url, budget="6/h")
    runs = [sim.submit(f"invoice {number}")["run_id"] for number in range(6)]
    for number, run_id in enumerate(runs):
        token = f"sub_{number:032x}"
        it.begin(token)
        it.answered(run_id, token)
    sim.wait_final(*runs)

    def calls() -> int:
        """Polls, and one more for the details of each result."""
        return sum(each.polls for each in sim.world.runs.values()) + len(it.events())

    eventually(lambda: (it.reconciler.tick(), calls() == 6)[1])
    it.reconciler.drain(0.3)

    assert calls() == 6


def test_several_clocks_share_the_work(rigged: Rigged) -> None:
    it, sim = rigged(budget="100/s")
    another = poller.build(it.settings, it.config)
    runs = [sim.submit(f"invoice {number}")["run_id"] for number in range(20)]
    for number, run_id in enumerate(runs):
        it.begin(f"sub_{number:032x}")
        it.answered(run_id, f"sub_{number:032x}")
    sim.wait_final(*runs)

    eventually(lambda: (it.reconciler.tick(), another.tick(), len(it.events()) >= 20)[-1])

    assert [each.polls for each in sim.world.runs.values()] == [1] * 20
    assert sorted(it.events()) == sorted((run_id, "poll", "new") for run_id in runs)
    another.close()


def test_draining_ends_after_the_last_poll(rigged: Rigged) -> None:
    # Given a missing run, whose poll waits a second for the budget of its other calls
    it, sim = rigged(budget="1000/s")
    run_id = sim.submit("slow import")["run_id"]
    sim.wait_final(run_id)
    (source,) = it.reconciler.sources
    missing = find_missing(it.ledger, source, 0.0, 0.0)
    began: list[float] = []

    def budget(wanted: int) -> int:
        began.append(time.monotonic())
        return wanted if len(began) == 1 or began[-1] > began[0] + 1 else 0

    source.budget = budget
    # When all is polled, then the run is imported
    it.reconciler.drain_all()
    missing.check(it.ledger)
    assert missing.imported == {run_id}


def test_import_takes_final_runs_without_a_submission(rigged: Rigged) -> None:
    it, sim = rigged(budget="1000/s")
    runs = [sim.submit(f"invoice {number}")["run_id"] for number in range(120)]
    sim.wait_final(*runs)
    it.take(sim.client.get(f"/v1/runs/{runs[0]}").content)
    (source,) = it.reconciler.sources

    seen = find_missing(it.ledger, source, 0.0)
    it.reconciler.drain_all()
    seen.check(it.ledger)
    assert (seen.final, len(seen.missing), seen.imported) == (120, 119, set())
    since = sim.run(runs[-10]).created_at.replace(tzinfo=UTC).timestamp()
    taken = find_missing(it.ledger, source, since, 0.0)
    it.reconciler.drain_all()
    taken.check(it.ledger)
    assert taken.imported == set(runs[-10:])
    assert find_missing(it.ledger, source, since, 0.0).missing == []
    assert sorted(it.events()) == sorted([(runs[0], "poll", "new"), *((each, "import", "new") for each in runs[-10:])])
    assert it.deliveries() == 11


def test_cancelled_run_is_polled_once_more_for_its_output(simulate_skyvern: Simulate, rig: MakeRig) -> None:
    # Given a run that is cancelled while it runs: null output at once, output after clean-up
    sim = simulate_skyvern(run_seconds=1000.0)
    it = rig(sim)
    run_id = sim.submit("invoice")["run_id"]
    it.begin()
    it.answered(run_id, due_at=time.time() + 1000)
    sim.client.post(f"/v1/runs/{run_id}/cancel")
    first = it.webhook(run_id, {"status": "canceled", "output": None, "modified_at": "2026-01-01T00:00:00.000001"})

    # When only its first webhook arrives, and a second cancel call says the same again
    dispatch(it.dispatcher, [first])
    again = it.webhook(run_id, {"status": "canceled", "output": None, "modified_at": "2026-01-01T00:00:00.000002"})
    dispatch(it.dispatcher, [again, first])

    # Then it is polled some time later, and its output is new
    due_at = it.due_at()
    assert due_at is not None
    assert 100 < due_at - time.time() < 130
    eventually(lambda: sim.run(run_id).output)
    it.due_now()
    assert it.reconciler.drain(20) == 1
    assert it.events() == [
        (run_id, "webhook", "new"),
        (run_id, "webhook", "repeat"),
        (run_id, "poll", "new"),
    ]
    assert it.due_at() is None


def test_cancelled_run_without_output_is_polled_once(scripted_server: ScriptedServer, rig: MakeRig) -> None:
    it = rig(scripted_server)
    it.begin()
    it.answered("tsk_1", due_at=time.time() + 1000)
    body = {"run_id": "tsk_1", "run_type": "task_v1", "status": "canceled", "output": None}
    dispatch(it.dispatcher, [it.webhook("tsk_1", body)])
    scripted_server.default = Reply(503)

    it.poll()
    assert it.due_at() is not None  # Skyvern was in trouble: that was no poll
    calls = len([each for each in scripted_server.calls if each.path == "/v1/runs/tsk_1"])
    it.due_now()
    scripted_server.default = Reply(200, dumps(body), {"content-type": "application/json"})
    it.reconciler.drain(20)

    assert it.due_at() is None
    assert len([each for each in scripted_server.calls if each.path == "/v1/runs/tsk_1"]) == calls + 1
    assert [what for _, _, what in it.events() if what == "new"] == ["new"]


class Restarted:
    """A workflow run of a submission, which failed and said so, and which Skyvern then started again."""

    def __init__(self, it: Rig) -> None:
        self.it, self.sim = it, it.sim
        callback = f"http://127.0.0.1:9/webhooks/skyvern/{TOKEN}"
        asked = {"agent_id": "wpid_1", "webhook_url": callback}
        self.first = self.sim.submit("mine [restart]", "/v1/run/agents", **asked)["run_id"]
        it.begin(call="agents")
        it.answered(self.first)
        self.again = eventually(lambda: self.sim.run(self.first).retried_by)
        self.sim.wait_final(self.first, self.again)
        content = dumps({**webhook(self.sim.run(self.first), lambda _: ""), "retried_by_workflow_run_id": None})
        event = Event(event_id("skyvern", content), "skyvern", content, time.time(), submission_id=TOKEN)
        dispatch(it.dispatcher, [event])

    def due_at(self) -> float | None:
        """When the first run is polled again."""
        key = "skyvern", self.first
        found = self.it.ledger.read(lambda c: of_runs(c, [key])).get(key)
        return found and found.due_at

    def look(self) -> None:
        change_polls(self.it.ledger, self.first, due_at=1.0, planned_at=1.0)
        self.it.reconciler.drain(20)
        self.it.reconciler.drain(20)  # what the look has found, if it ended as the last thing


def test_restarted_run_is_found_by_its_callback_url(rig: MakeRig) -> None:
    # Given a run that failed, whose webhook was sent before it was started again
    run = Restarted(rig())
    assert run.due_at() == pytest.approx(time.time() + poll_schedule.AFTER_RESTART, abs=30)

    # When its time has come, and no webhook
    run.look()

    # Then the other is found, belongs to the same submission, and Skyvern is asked no more
    assert run.it.events() == [(run.first, "webhook", "new"), (run.again, "poll", "new")]
    assert run.it.submission().run_id in {run.first, run.again}
    owners = run.it.ledger.read(lambda c: set(c.execute(sa.select(runs.c.submission_id)).scalars()))
    assert owners == {TOKEN}
    assert run.due_at() is None


def test_removed_source_does_not_block_another(rigged: Rigged) -> None:
    # Given a great many submissions and runs that are due for a source which is no longer in the config
    it, sim = rigged()

    def strand(connection: Connection) -> None:
        for number in range(300):
            new = NewSubmission(f"sub_{number:032x}", "gone", "k", "tasks", f"hash {number}")
            lifecycle.begin(connection, new, 1.0)
            ask(connection, "gone", {f"tsk_{number}": 1.0}, 1.0)

    it.ledger.write(strand)
    # And a submission and a run of another source
    submitted, alone = sim.submit("submitted")["run_id"], sim.submit("alone")["run_id"]
    it.begin()
    it.answered(submitted, due_at=100.0)
    it.ledger.write(lambda c: ask(c, "skyvern", {alone: 100.0}, 100.0))
    sim.wait_final(submitted, alone)

    # When what is due is polled
    it.reconciler.drain(30)

    # Then that source's results are there
    assert {run_id for run_id, _, _ in it.events()} == {submitted, alone}


def test_lost_workflow_response_is_found_by_one_search(rigged: Rigged, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given many runs, and one with the token, whose answer was lost
    it, sim = rigged()
    callback = f"http://127.0.0.1:9/webhooks/skyvern/{TOKEN}"
    run_id = sim.submit("mine", "/v1/run/agents", agent_id="wpid_1", webhook_url=callback)["run_id"]
    sim.wait_final(run_id, *(sim.submit(f"another {number}")["run_id"] for number in range(8)))
    it.begin(call="agents")
    it.lost()

    it.reconciler.drain(20)

    assert it.events() == [(run_id, "poll", "new")]
    assert sim.world.stats["lists"] == 1
    assert sum(each.polls for each in sim.world.runs.values()) == 2  # for its token, and for its result
