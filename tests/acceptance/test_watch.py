"""`runhook dev` where Skyvern reaches no address of it: every run's result comes by watching the account alone."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from simulator.runs import SimRun
from tests.servers.dev import Dev, a_run
from tests.servers.scripted import ScriptedServer
from tests.servers.skyvern import KEY, SkyvernSimulator
from tests.support.paths import ROOT
from tests.support.waiting import PATIENCE, Stopwatch, eventually

Start = Callable[..., Dev]
Simulate = Callable[..., SkyvernSimulator]

SHIPPED = (ROOT / "config" / "runhook.yaml").read_text() + "\nallowed_addresses: [127.0.0.1]\n"


def start_outside(sim: SkyvernSimulator, **fields: Any) -> SimRun:
    """Start a run as Skyvern's UI, a schedule or n8n does: no webhook is asked for."""
    answer = sim.client.post("/_sim/start", json=fields)
    return sim.run(answer.json()["run_id"])


def rows(dev: Dev) -> set[str]:
    try:
        with closing(sqlite3.connect(f"file:{dev.data}/results.db?mode=ro", uri=True)) as connection:
            return {run_id for (run_id,) in connection.execute("SELECT run_id FROM skyvern_runs")}
    except sqlite3.OperationalError:  # the sink has not made it yet
        return set()


def kept_files(dev: Dev, run: SimRun) -> set[str]:
    """The digests of the files that are kept of a run."""
    found = (dev.data / "archive").glob(f"*/{run.id}/files/*")
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def files_of(run: SimRun) -> set[str]:
    """The digests of a run's recording, screenshots and downloads, as Skyvern has them in the end."""
    wanted = [each for each in run.artifacts if each.type in ("recording", "download") or "screenshot" in each.type]
    assert {each.type for each in wanted} >= {"recording", "download"}
    return {hashlib.sha256(each.content).hexdigest() for each in wanted}


def delivered(dev: Dev, run: SimRun) -> bool:
    return run.settled and run.id in rows(dev) and files_of(run) <= kept_files(dev, run)


def test_results_come_within_30_s_without_any_webhook(start_dev: Start, simulate_skyvern: Simulate) -> None:
    # Given an account with a run that has ended, and dev with its key and nothing else
    sim = simulate_skyvern(speed=1.0, run_seconds=2.0)
    earlier = start_outside(sim, engine="skyvern-2.0", prompt="earlier")
    sim.wait_final(earlier.id)
    dev = start_dev(config=SHIPPED, SKYVERN_API_KEY=KEY, SKYVERN_BASE_URL=sim.url).ready()
    assert f"watching the account at {sim.url}: results are here within about 30 s" in dev.log
    assert "WARNING" not in dev.log
    eventually(lambda: "watch.began source=skyvern" in dev.log, what=lambda: dev.log)

    # When runs end at several moments between two walks, one of them long before its files are there
    runs = []
    for fields in (
        {"engine": "skyvern-2.0", "prompt": "Get the invoice"},
        {"engine": "skyvern-1.0", "prompt": "Get the invoice [gap]"},
        {"workflow_id": "wpid_1", "title": "Invoices"},
    ):
        runs.append(start_outside(sim, **fields))
        eventually(lambda: runs[-1].final)
    seconds, watch = {}, Stopwatch()
    while len(seconds) < len(runs):
        for run in runs:
            if run.id not in seconds and delivered(dev, run):
                assert run.finished_at is not None
                seconds[run.id] = time.time() - run.finished_at.timestamp()
        assert watch.seconds < PATIENCE, dev.log
        time.sleep(0.1)

    # Then each is a row and all its files within 30 s of its end; what ended before the start is not imported
    print(f"seconds from end to result: {', '.join(f'{each:.1f}' for each in seconds.values())}")
    watch.at_most(PATIENCE)
    assert max(seconds.values()) < 30 * watch.slowness, dev.log
    assert rows(dev) == {run.id for run in runs}


def test_runs_of_earlier_are_imported_with_since(simulate_skyvern: Simulate, start_dev: Start) -> None:
    sim = simulate_skyvern()
    earlier = start_outside(sim, engine="skyvern-2.0", prompt="earlier")
    sim.wait_final(earlier.id)

    class Since(Dev):
        def options(self, directory: Path) -> list[str]:
            return [*super().options(directory), "--since", "1h"]

    dev = start_dev(Since, config=SHIPPED, SKYVERN_API_KEY=KEY, SKYVERN_BASE_URL=sim.url)
    eventually(lambda: rows(dev) == {earlier.id}, what=lambda: dev.log)


def test_local_key_is_not_sent_to_an_explicit_api_base(start_dev: Start, scripted_server: ScriptedServer) -> None:
    # Given a source that names Skyvern's address, and no SKYVERN_API_KEY
    config = SHIPPED.replace("watch: true", f"watch: true\n    api_base: {scripted_server.url}")
    dev = start_dev(config=config).ready()
    assert (dev.data / "skyvern-api-key").exists()

    # When the clock does its work, and a webhook is delivered, whose files Skyvern would be asked for
    dev.post(a_run(1))
    eventually(lambda: "tsk_1" in rows(dev), what=lambda: dev.log)
    eventually(lambda: list(dev.data.glob("archive/*/tsk_1/latest.json")), what=lambda: dev.log)

    # Then the server saw no request, and there is no warning about watching
    assert scripted_server.calls == []
    assert "watch." not in dev.log
    assert "watching" not in dev.log
