"""Where a run's files are stored: one name for one file, whatever event names it."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.contract import Artifact, Delivery
from handlers.files.store import LocalStore
from handlers.mirror.names import MAX_NAME
from handlers.mirror.run_folder import RunFolder
from handlers.support.deadline import Deadline
from handlers.testing.conformance import make_delivery, sample_run

SHA = hashlib.sha256(b"x").hexdigest()
CONTENT = "https://api.example/v1/artifacts/a_9/content?expiry=1&sig="


def folder(
    delivery: Delivery | None = None, prefix: str = "task_v1/tsk_1/", root: Path = Path("/nowhere")
) -> RunFolder:
    return RunFolder(LocalStore(root), delivery or make_delivery(sample_run("tsk_1")), prefix, Deadline(60))


def key(artifact: Artifact, size: int | None, **where: object) -> str:
    return folder(**where).target_of(artifact, size).key  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Artifact("recording", "recording.webm", CONTENT + "1", artifact_id="a_9"),
         Artifact("recording", "recording-2.webm", CONTENT + "2", artifact_id="a_9")),
        (Artifact("recording", "recording.webm", "https://s.example/r.webm?X-Amz-Signature=1"),
         Artifact("recording", "recording.webm", "https://s.example/r.webm?X-Amz-Signature=2")),
        (Artifact("screenshot", "screenshot-1.png", CONTENT, artifact_id="a_3"),
         Artifact("screenshot", "screenshot-7.png", CONTENT, artifact_id="a_3")),
        (Artifact("download", "a.pdf", CONTENT, sha256=SHA, artifact_id="a_1"),
         Artifact("download", "a.pdf", CONTENT, sha256=SHA, artifact_id="a_2")),
    ],
)  # fmt: skip
def test_file_has_one_place_in_every_event_and_order(one: Artifact, other: Artifact) -> None:
    later = make_delivery(sample_run("tsk_1", output="more"))
    assert key(one, 5) == key(other, 5, delivery=later)
    assert key(one, 5).startswith("task_v1/tsk_1/files/")


@pytest.mark.parametrize(
    ("one", "size", "other", "other_size"),
    [
        (Artifact("recording", "recording.webm", CONTENT, artifact_id="a_9"), 5,
         Artifact("recording", "recording.webm", CONTENT, artifact_id="a_9"), 6),
        (Artifact("skyvern_log", "log.log", CONTENT, artifact_id="a_9"), 5,
         Artifact("skyvern_log", "log.log", CONTENT, artifact_id="a_8"), 5),
        (Artifact("download", "a.pdf", CONTENT, sha256=SHA), 5,
         Artifact("download", "a.pdf", CONTENT, sha256=SHA[::-1]), 5),
        (Artifact("screenshot", "s.png", CONTENT, artifact_id="a_1"), 5,
         Artifact("screenshot", "s.png", CONTENT, artifact_id="a_2"), 5),
    ],
)  # fmt: skip
def test_two_files_have_two_places(one: Artifact, size: int, other: Artifact, other_size: int) -> None:
    assert key(one, size) != key(other, other_size)


def test_incomplete_files_and_unknown_sizes_are_stored_apart() -> None:
    recording = Artifact("recording", "recording.webm", CONTENT, artifact_id="a_9")
    delivery = make_delivery(sample_run("tsk_1"))
    there = folder(delivery)
    part = there.target_of(recording, 5, incomplete=True).key
    assert part.startswith("task_v1/tsk_1/files/recording-incomplete-")
    assert there.target_of(recording, None).key == f"task_v1/tsk_1/{delivery.event_id}/recording.webm"
    own = there.target_of(recording, None, incomplete=True)
    assert own.key == f"task_v1/tsk_1/{delivery.event_id}/recording-incomplete.webm"
    assert there.keys([there.stored(recording, own, 5, SHA)])["recording.webm"] == own.key


def test_two_sources_and_two_runs_below_one_prefix_share_nothing() -> None:
    recording = Artifact("recording", "recording.webm", CONTENT, artifact_id="a_9")
    ours = make_delivery(sample_run("tsk_1"))
    assert key(recording, 5, delivery=ours) != key(recording, 5, delivery=replace(ours, source="other"))
    shared = {key(recording, 5, delivery=make_delivery(sample_run(run)), prefix="all/") for run in ("tsk_1", "tsk_2")}
    assert {name.rpartition("/")[0] for name in shared} == {"all/files/tsk_1", "all/files/tsk_2"}


@given(st.text(max_size=400), st.integers(0, 1 << 40))
def test_every_place_is_one_safe_name_in_the_runs_folder(identity: str, size: int) -> None:
    name = "ü" * 80 + ".pdf"
    place = key(Artifact("download", name, identity, artifact_id=identity), size)
    directory, _, file = place.rpartition("/")
    assert directory == "task_v1/tsk_1/files"
    assert len(file.encode()) <= MAX_NAME
    assert file.endswith(".pdf")


@pytest.mark.parametrize("path", ["../../x", "/etc/passwd", "../files/../../x", "..", "../.hidden", "a\\b"])
def test_a_manifest_that_leads_out_of_the_run_is_not_followed(tmp_path: Path, path: str) -> None:
    delivery = make_delivery(sample_run("tsk_1"), attempt=2)
    own = tmp_path / "task_v1" / "tsk_1" / delivery.event_id
    own.mkdir(parents=True)
    entry = {"name": "a.pdf", "kind": "download", "size": 1, "sha256": SHA, "content_type": "x", "path": path}
    (own / "manifest.json").write_text(json.dumps({"version": 2, "files": [entry]}))
    there = folder(delivery, root=tmp_path)
    there.write_body()
    assert there.find(Artifact("download", "a.pdf", CONTENT), None) is None
