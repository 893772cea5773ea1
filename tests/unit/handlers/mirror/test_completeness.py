"""Whether a recording is whole, by Skyvern's record of it."""

from typing import Any

import pytest

from handlers.contract import Artifact
from handlers.mirror.artifacts import completed_by, record_of, why_incomplete, with_ending_of, with_listed

URL = "https://api.example/v1/artifacts/a_9/content"
ENDED = "2026-03-01T10:00:00.5"
ENDED_AT = 1772359200.5  # the same


def recording(**changes: Any) -> Artifact:
    return Artifact(**({"kind": "recording", "name": "recording.webm", "url": URL, "artifact_id": "a_9"} | changes))


@pytest.mark.parametrize(
    ("record", "run", "doubted"),
    [
        ({"size": 5, "unchanged_since": ENDED_AT - 3}, {"finished_at": ENDED}, True),
        ({"size": 0, "unchanged_since": ENDED_AT - 3}, {"finished_at": ENDED + "Z"}, True),
        ({"size": 5, "unchanged_since": None}, {"finished_at": ENDED}, False),  # changed: it was written out
        ({"size": 5, "unchanged_since": ENDED_AT}, {"finished_at": ENDED}, False),  # made when it was written out
        ({"size": 5, "unchanged_since": ENDED_AT - 3, "sha256": "0" * 64}, {"finished_at": ENDED}, False),
        ({"size": None, "unchanged_since": ENDED_AT - 3}, {"finished_at": ENDED}, False),  # an older server
        ({"size": 5, "unchanged_since": ENDED_AT - 3}, {}, False),
        ({"size": 5, "unchanged_since": ENDED_AT - 3}, {"finished_at": 7}, False),
    ],
)
def test_unchanged_record_from_before_the_end_is_incomplete(
    record: dict[str, Any], run: dict[str, Any], doubted: bool
) -> None:
    assert bool(why_incomplete(recording(**record), run)) == doubted


def test_recording_without_record_is_accepted() -> None:
    assert why_incomplete(None, {"finished_at": ENDED}) == ""
    assert completed_by(recording(), None) == recording()
    assert with_ending_of(recording(), None, ()) == recording()


@pytest.mark.parametrize(
    ("listed", "found"),
    [
        ([recording(size=1), recording(artifact_id="a_8", size=2)], 1),
        (
            [recording(artifact_id="a_8", url="https://api.example/v1/artifacts/a_8/content", size=2)],
            None,
        ),  # another recording, though the only one
        ([recording(artifact_id=None, url="https://b.example/x", size=3)], 3),  # the only one, and no id to compare
        ([recording(kind="har", size=4)], None),
        ([], None),
    ],
)
def test_a_record_is_of_the_same_recording(listed: list[Artifact], found: int | None) -> None:
    record = record_of(recording(), listed)
    assert (record.size if record else None) == found


def test_record_gives_the_expected_bytes_and_address() -> None:
    record = recording(size=7, sha256="0" * 64, url="https://b.example/x.mp4", name="x.mp4")
    wanted = completed_by(recording(artifact_id=None), record)
    assert (wanted.size, wanted.sha256, wanted.url, wanted.artifact_id) == (7, "0" * 64, record.url, "a_9")
    assert completed_by(recording(), recording(url="")).url == URL


@pytest.mark.parametrize(
    ("name", "taken", "given"),
    [
        ("2026_a_9_recording.mp4", (), "recording.mp4"),
        ("2026_a_9_recording.MP4", (), "recording.mp4"),
        ("2026_a_9_recording.mp4", ("recording.mp4",), "recording.webm"),
        ("2026_a_9_recording.webm", ("recording.webm",), "recording.webm"),
        ("2026_a_9_recording.exe", (), "recording.webm"),
        ("recording", (), "recording.webm"),
    ],
)
def test_a_recording_has_the_ending_of_its_record(name: str, taken: tuple[str, ...], given: str) -> None:
    assert with_ending_of(recording(), recording(name=name), taken).name == given


def test_of_listed_files_only_a_checksum_vouches_for_the_size() -> None:
    listed = [
        Artifact("skyvern_log", "a.log", URL, size=5, artifact_id="a_1"),
        Artifact("download", "b.pdf", URL, size=6, sha256="0" * 64, artifact_id="a_2"),
    ]
    assert [each.size for each in with_listed([], listed, ["*"])] == [None, 6]
