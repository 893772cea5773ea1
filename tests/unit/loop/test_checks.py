"""The judge of the loop: that each kind of difference is found, and that none is found where there is none."""

from __future__ import annotations

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
from tests.loop.truth import Expected, differences, expect, settled
from tests.servers.http import Request

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


def test_a_run_goes_where_its_own_webhook_says(world: World) -> None:
    assert expected(world).sinks == {"first", "rows", "archive", "odd", "orders", "north"}
    assert expected(world, type_="task_v1", status="failed").sinks == {"first", "rows", "archive", "odd", "chat"}
    assert expect(world, ended(world, type_=TASK_V2), {}, None).sinks == {"first", "rows", "archive"}


def test_a_sink_that_was_told_each_result_once_is_as_it_should_be(world: World) -> None:
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


def test_a_row_is_compared_in_each_column_that_its_webhook_fills(world: World) -> None:
    each = expected(world)
    row = dict(each.row)

    assert differences([each], {each.run.id: row}) == {}
    for name, value in {"x_title": None, "x_region": "south", "workflow_id": "w_1", "status": "failed"}.items():
        assert list(differences([each], {each.run.id: {**row, name: value}})) == [name]
    assert differences([each], {each.run.id: {**row, "via": "poll", "event_id": "evt"}}) == {}


def test_a_column_that_one_road_fills_and_another_does_not_is_found(world: World) -> None:
    one, other = expected(world, type_="task_v1"), expected(world, type_="task_v1")
    rows = {each.run.id: {**each.row, "x_prompt": "p"} for each in (one, other)}

    assert differences([one, other], rows) == {}
    rows[other.run.id]["x_prompt"] = None
    assert list(differences([one, other], rows)) == ["x_prompt"]


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


def test_a_value_is_the_same_on_each_road() -> None:
    signed = "http://sky/v1/artifacts/a_1/content"

    assert settled(f"{signed}?expiry=1&kid=k&sig=s") == settled(f"{signed}?expiry=2&kid=k&sig=t") == signed
    assert settled(b'{"a": [1500.0]}') == settled('{"a":[1500]}')
    assert settled("2026-11-25 10:00:00.5") == settled("2026-11-25T10:00:00.500000+00:00")
    assert settled(True) == settled(1)


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


def test_a_run_is_found_in_a_message_to_people() -> None:
    assert checks.mentioned("see <http://sky/tasks/tsk_v2_1795624|run>") == "tsk_v2_1795624"
    assert checks.mentioned("tsk_sample_123456789 arrived") == "tsk_sample_123456789"
    assert checks.mentioned("nothing") == ""


def test_what_did_not_come_whole_did_not_arrive() -> None:
    def request(body: bytes, length: int) -> Request:
        return Request("POST", "/", {"content-length": str(length), "content-type": "x/y"}, body, 1, None)

    whole, cut, other = request(b'{"run_id": "tsk_1"}', 19), request(b"", 9), request(b"[]", 2)

    assert checks.arrived([whole, cut, other]) == [whole, other]
    assert checks.run_of(whole) == "tsk_1"
    assert checks.run_of(other) == "POST with 2 bytes of x/y, no run"


def test_a_cancelled_run_may_say_twice_that_it_ended(world: World) -> None:
    assert (expected(world, status="canceled").copies, expected(world).copies) == (2, 1)
