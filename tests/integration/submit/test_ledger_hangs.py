"""A ledger that hangs: no call waits for it longer than 5 s, and no submit is lost or made twice by that."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from handlers.support.file_lock import FileLock
from receiver.domain.submission import NewSubmission
from receiver.ledger import Connection, Ledger, LedgerUnavailable
from receiver.ledger.database.async_ledger import THREADS, WAIT, AsyncLedger, limit_waits
from receiver.ledger.submissions import lifecycle, records
from receiver.submit.limits import SubmitLimits
from tests.servers.gate import Gate
from tests.servers.postgres import PostgresProcess
from tests.servers.skyvern import Simulate
from tests.servers.submitting import Make, Submitting
from tests.support.ledger import polls_due
from tests.support.waiting import PATIENCE, Stopwatch, eventually

# Seconds that any call may take.
LONGEST = 5.0


@contextlib.contextmanager
def hanging(rig: Submitting, server: PostgresProcess) -> Iterator[None]:
    """A ledger that answers nobody, on either database: a stopped server, or a lock that is held."""
    if rig.ledger.dialect == "postgresql":
        server.hang()
        try:
            yield
        finally:
            server.resume()
    else:
        with FileLock(Path(f"{rig.ledger.url.database}.lock")).held(5):
            yield


def test_hanging_ledger_bounds_calls_and_sends_nothing(
    submitting: Make,
    simulate_skyvern: Simulate,
    ledger_url: str,
    postgres: PostgresProcess,
) -> None:
    assert WAIT < LONGEST
    sim = simulate_skyvern(run_seconds=1000.0)
    rig = submitting(sim.url, database_url=ledger_url, dispatching=False, ledger_wait=WAIT)
    run_id = rig.task("known").json()["run_id"]
    headers = {"idempotency-key": "k"}
    calls: dict[str, Callable[[], Any]] = {
        "submit": lambda: rig.task("p", headers),
        "submit without a key": lambda: rig.task("q"),
        "get": lambda: rig.client.get(f"/v1/runs/{run_id}"),
        "wait": lambda: rig.client.get(f"/v1/runs/{run_id}?wait=0.5"),
        "retry_webhook": lambda: rig.client.post(f"/v1/runs/{run_id}/retry_webhook"),
    }
    watch = Stopwatch()

    def timed(call: Callable[[], Any]) -> tuple[Any, float]:
        began = time.monotonic()
        return call(), time.monotonic() - began

    with hanging(rig, postgres), ThreadPoolExecutor(len(calls)) as pool:
        answers = dict(zip(calls, pool.map(timed, calls.values()), strict=True))
        watch.at_most(LONGEST)

    assert {name: seconds for name, (_, seconds) in answers.items() if seconds > LONGEST * watch.slowness} == {}
    for name in ("submit", "submit without a key"):
        answer, _ = answers[name]
        assert (answer.status_code, "retry-after" in answer.headers) == (503, True), name
    assert {answer.status_code for answer, _ in answers.values()} <= {200, 400, 404, 503}
    eventually(lambda: rig.client.get("/v1/runs").status_code == 200)
    again = [rig.task("p", headers), rig.task("q")]
    assert [answer.status_code for answer in again] == [200, 200]
    assert sorted(run.title for run in sim.world.runs.values()) == ["known", "p", "q"]
    assert rig.task("p", headers).json()["run_id"] == again[0].json()["run_id"]


def test_response_is_relayed_while_the_ledger_hangs(
    submitting: Make,
    simulate_skyvern: Simulate,
    ledger_url: str,
    postgres: PostgresProcess,
) -> None:
    sim = simulate_skyvern(run_seconds=1000.0, slow_seconds=20.0)  # 1 s at this speed
    limits = SubmitLimits(recording=0.5)
    rig = submitting(sim.url, database_url=ledger_url, dispatching=False, limits=limits, ledger_wait=WAIT)
    answers = []
    asking = threading.Thread(target=lambda: answers.append(rig.task("p [slow]")))
    asking.start()
    eventually(rig.rows)

    with hanging(rig, postgres):
        watch = Stopwatch()
        asking.join()
        watch.at_most(1 + LONGEST)

    (answer,) = answers
    assert (answer.status_code, answer.json()["run_id"]) == (200, *sim.world.runs)
    eventually(lambda: rig.rows()[0]["state"] == "accepted")
    assert rig.rows()[0]["run_id"] == answer.json()["run_id"]


class _LateCommit(Ledger):
    """A ledger whose first commit takes until it is let go."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.let_go = threading.Event()
        self.began = threading.Event()
        self.late = True

    def write(self, work: Callable[[Connection], Any]) -> Any:
        result = super().write(work)
        if self.late:
            self.late = False
            self.began.set()
            self.let_go.wait(60)
        return result


async def test_commit_without_a_reply_is_undone(postgres: PostgresProcess, postgres_ledger: Ledger) -> None:
    """Its caller has given up before the transaction ran again."""
    with Gate(postgres.port) as gate:
        one = AsyncLedger(Ledger(postgres_ledger.url.set(port=gate.port).render_as_string(hide_password=False)), 1.0)
        new, tries, given_up = NewSubmission("sub_1", "skyvern", "k1", "tasks", "hash"), [], threading.Event()

        def begin(connection: Connection) -> object:
            tries.append(1)
            assert len(tries) == 1 or given_up.wait(PATIENCE)
            return lifecycle.begin(connection, new, 1.0)

        gate.catch(b"COMMIT\0", "cut", after=b"INSERT INTO submissions")
        with pytest.raises(LedgerUnavailable, match="no answer within"):
            await one.write(begin, undo=lambda connection: lifecycle.withdraw(connection, new.id, 2.0))
        given_up.set()

        def state() -> str:
            found = postgres_ledger.read(lambda connection: records.get(connection, "sub_1"))
            return found.state if found else ""

        await asyncio.to_thread(eventually, lambda: state() == "rejected")
        await one.close()


async def test_late_commit_after_refusal_is_undone(ledger_url: str, ledger: Ledger) -> None:
    slow = _LateCommit(ledger.url.render_as_string(hide_password=False))
    one = AsyncLedger(slow, 0.3)
    new = NewSubmission("sub_1", "skyvern", "k1", "tasks", "hash", idempotency_key="once")

    refused = asyncio.create_task(
        one.write(
            lambda connection: lifecycle.begin(connection, new, 1.0),
            undo=lambda connection: lifecycle.withdraw(connection, new.id, 2.0),
        )
    )
    await asyncio.sleep(0)  # its transaction has a thread
    assert slow.began.wait(60)  # keeps the loop busy: the wait cannot be over before the commit
    with pytest.raises(LedgerUnavailable, match="no answer within"):
        await refused
    slow.let_go.set()

    def state() -> tuple[str, str | None, float | None]:
        found = ledger.read(lambda connection: records.get(connection, "sub_1"))
        assert found is not None
        return found.state, found.idempotency_key, polls_due(ledger).get("sub_1")

    await asyncio.to_thread(eventually, lambda: state() == ("rejected", None, None))
    await one.close()


async def test_abandoned_write_is_rolled_back(ledger: Ledger) -> None:
    one, patient = AsyncLedger(ledger, 0.3), AsyncLedger(ledger, PATIENCE)
    go_on = threading.Event()
    new = NewSubmission("sub_1", "skyvern", "k1", "tasks", "hash")

    def begin_slowly(connection: Connection) -> None:
        lifecycle.begin(connection, new, 1.0)
        go_on.wait(60)

    with pytest.raises(LedgerUnavailable):
        await one.write(begin_slowly)
    go_on.set()
    await patient.write(lambda connection: records.get(connection, "none"))  # it has the lock: the first one has ended

    assert ledger.read(lambda connection: records.get(connection, "sub_1")) is None
    await one.close()
    await patient.close()


async def test_one_request_shares_one_wait_limit(postgres_ledger: Ledger) -> None:
    one = AsyncLedger(postgres_ledger, 2.0, last_wait=0.01)
    go_on = threading.Event()
    limit_waits()
    took = []

    for _ in range(4):
        began = time.monotonic()
        with pytest.raises(LedgerUnavailable):
            await one.read(lambda _: go_on.wait(PATIENCE))
        took.append(time.monotonic() - began)

    assert sum(took[1:]) < took[0]  # each by itself would wait as long as the first
    go_on.set()
    async with asyncio.timeout(PATIENCE):
        while True:  # until none hangs any more
            limit_waits()
            with contextlib.suppress(LedgerUnavailable):
                assert await one.read(lambda _: 1) == 1
                break
    await one.close()


async def test_no_wait_when_every_thread_hangs(postgres_ledger: Ledger) -> None:
    one = AsyncLedger(postgres_ledger, 1.0)  # in which each has got its thread
    go_on = threading.Event()

    async def hang() -> None:
        with contextlib.suppress(LedgerUnavailable):
            await one.read(lambda _: go_on.wait(60))

    await asyncio.gather(*(hang() for _ in range(THREADS)))
    with pytest.raises(LedgerUnavailable, match="does not respond"):
        await one.read(lambda _: 1)
    go_on.set()
    await one.close()
