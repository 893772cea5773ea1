"""The judge of the loop: that each kind of difference is found, and that none is found where there is none."""

import hashlib
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from simulator.options import Options
from simulator.runs import TASK_V2, WORKFLOW, SimRun, now
from simulator.world import World
from tests.loop import checks
from tests.loop.truth import Expected, differences, expect

LABELS = {"parity": "odd", "number": "1"}


HOOK = "http://127.0.0.1:9/hook/1"


@pytest.fixture
def world() -> World:
    return World(Options())


def ended(world: World, type_: str = WORKFLOW, status: str = "completed", **fields: Any) -> SimRun:
    """A run that has ended, with its files, as the simulation makes it."""
    number = len(world.runs) + 1
    workflow_id = "wpid_orders" if type_ == WORKFLOW else None
    request = {"prompt": "p", "parameters": {"region": "north"}}
    moment = now()
    run = SimRun(
        number, f"run_{number}", type_, request, "k", HOOK, "http://sky", frozenset(), moment, moment, **fields
    )
    run.workflow_id, run.title = workflow_id, "Fetch orders" if workflow_id else None
    run.workflow_run_id = f"wr_{number}" if type_ == TASK_V2 else None
    run.move("running")
    run.end(status, {"n": 1.0} if status == "completed" else None)
    for kind, name in (("recording", ""), ("screenshot_final", ""), ("download", "invoice.pdf")):
        world.storage.show(run, world.storage.create(run, kind, name))
    world.runs[run.id] = run
    return run


def expected(world: World, **fields: Any) -> Expected:
    return expect(world, ended(world, **fields), LABELS, HOOK)


def test_sink_that_got_each_result_once_passes(world: World) -> None:
    one, other = expected(world), expected(world, type_="task_v1")
    cancelled = expected(world, status="canceled")

    def wrong(*told: str, keys: tuple[str, ...] = ()) -> int:
        return len(checks.at_sink("orders", [one, other, cancelled], told, keys).wrong)

    assert wrong(one.run.id, cancelled.run.id) == 0
    assert wrong(one.run.id, cancelled.run.id, cancelled.run.id) == 0  # once without output, once with it
    assert wrong(cancelled.run.id) == 1
    assert wrong(one.run.id, one.run.id, cancelled.run.id) == 1
    assert wrong(one.run.id, cancelled.run.id, other.run.id) == 1
    assert wrong(one.run.id, cancelled.run.id, "tsk_sample_123456789") == 1
    assert wrong(one.run.id, cancelled.run.id, keys=("a", "b", "a")) == 1


def test_row_is_compared_in_each_column_of_its_webhook(world: World) -> None:
    each = expected(world)
    row = dict(each.row)

    assert differences([each], {each.run.id: row}) == {}
    for name, value in {"x_title": None, "x_region": "south", "workflow_id": "w_1", "status": "failed"}.items():
        assert list(differences([each], {each.run.id: {**row, name: value}})) == [name]
    assert differences([each], {each.run.id: {**row, "via": "poll", "event_id": "evt"}}) == {}


def test_rows_are_one_for_each_run(world: World, tmp_path: Path) -> None:
    each = expected(world)

    def wrong(*run_ids: str) -> list[int]:
        path = tmp_path / f"{len(run_ids)}{run_ids[-1:]}.db"
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("CREATE TABLE runs (run_id TEXT)")
            connection.executemany("INSERT INTO runs VALUES (?)", [(run_id,) for run_id in run_ids])
        return [len(check.wrong) for check in checks.rows([each], path)]

    assert wrong(each.run.id) == [0, 0]
    assert wrong() == [1, 0]
    assert wrong(each.run.id, each.run.id) == [1, 0]
    assert wrong(each.run.id, "wr_0") == [1, 0]


def mirror(folder: Path, files: dict[str, bytes]) -> None:
    """Store files as the files sink does."""
    (folder / "evt").mkdir(parents=True)
    for name, content in files.items():
        (folder / "evt" / name).write_bytes(content)
    sums = [{"name": name, "sha256": hashlib.sha256(content).hexdigest()} for name, content in files.items()]
    (folder / "evt" / "manifest.json").write_text(json.dumps({"files": sums}))
    (folder / "latest.json").write_text(json.dumps({"manifest": "evt/manifest.json"}))


def test_files_are_whole_and_stored_once(world: World, tmp_path: Path) -> None:
    each = expected(world)
    whole = {f"{stored.type}.bin": stored.content for stored in each.run.artifacts}

    def wrong(name: str, files: dict[str, bytes]) -> int:
        root = tmp_path / name
        mirror(root / each.run.type / each.run.id, files)
        return len(checks.files([each], root).wrong)

    assert wrong("whole", whole) == 0
    assert wrong("half", {**whole, "recording.bin": whole["recording.bin"][:100]}) == 2
    assert wrong("missing", {name: content for name, content in whole.items() if "download" not in name}) == 2
    assert wrong("twice", {**whole, "again.bin": whole["recording.bin"]}) == 1
