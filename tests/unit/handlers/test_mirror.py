"""Which files belong to a run and what they are called, whatever the body holds; and threads that nobody waits for."""

from __future__ import annotations

import json
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.contract import Artifact, Unavailable
from handlers.files import LocalStore
from handlers.mirror import artifacts_of, safe_file_name
from handlers.mirror.artifacts import is_content_path, renewed, url_identity, with_listed
from handlers.mirror.content_types import content_type, is_inline_safe
from handlers.mirror.download import IncomingFile
from handlers.mirror.fan_out import FanOut, run_within
from handlers.mirror.manifest import (
    Manifest,
    SkippedFile,
    StoredFile,
    event_fields,
    event_order,
    latest_document,
    order_in_latest,
    stored_files,
)
from handlers.mirror.mirror import Mirror
from handlers.mirror.names import MAX_NAME, MAX_PART, UsedNames, key_part
from handlers.mirror.options import MirrorOptions
from handlers.mirror.store import ObjectTarget
from handlers.support.daemon_pool import DaemonPool
from handlers.support.guarded_client import MAX_URL, Deadline
from handlers.testing.conformance import make_delivery, sample_run
from tests.servers.artifacts import ArtifactServer
from tests.support.mirror import Loopback
from tests.support.waiting import Stopwatch, eventually

API = "https://api.example/v1/artifacts"
SHA = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
TEXT = st.text(st.characters(exclude_categories=[]), max_size=400)


def content(artifact: str, signature: str = "s") -> str:
    return f"{API}/{artifact}/content?expiry=1&kid=k&sig={signature}"


def names_and_kinds(run: dict[str, Any]) -> list[tuple[str, str]]:
    return [(artifact.kind, artifact.name) for artifact in artifacts_of(run)]


def test_a_run_lists_downloads_then_recordings_then_screenshots_each_once() -> None:
    run = {
        "downloaded_files": [
            {
                "url": content("a_1"),
                "filename": "invoice.pdf",
                "checksum": SHA.upper(),
                "file_size": 0,
                "artifact_id": "a_1",
            }
        ],
        "downloaded_file_urls": [
            content("a_1", "other-signature"),
            content("a_2"),
            "https://s3.example/b/r%C3%BC.csv?X-Amz-Date=1",
        ],
        "recording_url": content("a_9"),
        "recording_urls": [content("a_9", "x"), "https://s3.example/b/second.mp4?X-Amz-Signature=1"],
        "screenshot_url": content("a_5"),
        "screenshot_urls": [content("a_5"), content("a_4")],
        "action_screenshot_urls": [content("a_4", "y"), "https://s3.example/b/shot.JPG"],
        "browser_console_log_url": content("a_6"),
    }
    assert names_and_kinds(run) == [
        ("download", "invoice.pdf"),
        ("download", "download"),
        ("download", "rü.csv"),
        ("recording", "recording.webm"),
        ("recording", "recording-2.mp4"),
        ("screenshot", "screenshot-1.png"),
        ("screenshot", "screenshot-2.png"),
        ("screenshot", "screenshot-3.jpg"),
        ("browser_console_log", "browser-console.log"),
    ]
    first = artifacts_of(run)[0]
    assert (first.sha256, first.size, first.artifact_id) == (SHA, 0, "a_1")
    assert artifacts_of(run)[1].artifact_id == "a_2"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"checksum": "md5-or-so"}, {"sha256": None}),
        ({"checksum": 5}, {"sha256": None}),
        ({"file_size": "12"}, {"size": None}),
        ({"file_size": True}, {"size": None}),
        ({"file_size": -1}, {"size": None}),
        ({"file_size": 2.0}, {"size": None}),
        ({"filename": None}, {"name": "file.bin"}),
        ({"filename": ["x"]}, {"name": "file.bin"}),
        ({"url": None}, {"url": "", "name": "f"}),
        ({"url": 7}, {"url": "", "name": "f"}),
        ({"url": "http://[::1/x"}, {"url": "http://[::1/x", "name": "f"}),
    ],
)
def test_an_odd_field_is_as_if_it_were_not_there(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    entry = {"url": "https://x.example/file.bin", "filename": "f", **fields}
    (artifact,) = artifacts_of({"downloaded_files": [entry]})
    assert {name: getattr(artifact, name) for name in expected} == expected


@given(
    st.dictionaries(
        st.sampled_from(
            ["downloaded_files", "downloaded_file_urls", "recording_url", "recording_urls", "screenshot_url",
             "screenshot_urls", "action_screenshot_urls", "browser_console_log_url"]
        ),
        JSON | st.lists(st.dictionaries(st.sampled_from(["url", "filename", "checksum", "file_size"]), JSON | TEXT)),
    )
)  # fmt: skip
def test_any_body_gives_the_same_safe_and_different_names_each_time(run: dict[str, Any]) -> None:
    found = artifacts_of(run)
    assert artifacts_of(run) == found
    names = [artifact.name for artifact in found]
    assert len({name.casefold() for name in names}) == len(names)
    assert all(is_safe(name, MAX_NAME + 8) for name in names)
    assert not {"run.json", "manifest.json", "latest.json"} & set(names)
    json.dumps([artifact.url for artifact in found]).encode()


def is_safe(name: str, cap: int) -> bool:
    return (
        bool(name)
        and name not in (".", "..")
        and not name.startswith((".", " "))
        and not name.endswith((".", " "))
        and not set(name) & set('/\\:*?"<>|#%^`{}~')
        and all(ord(char) >= 32 and not 127 <= ord(char) < 160 for char in name)
        and len(name.encode()) <= cap
    )


@given(TEXT)
def test_every_text_becomes_one_safe_name_and_stays_it(text: str) -> None:
    name = safe_file_name(text)
    assert is_safe(name, MAX_NAME)
    assert safe_file_name(name) == name


@given(TEXT | JSON)
def test_every_value_becomes_one_safe_part_of_a_prefix(value: Any) -> None:
    part = key_part(value)
    assert is_safe(part, MAX_PART)
    assert key_part(part) == part


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("invoice.pdf", "invoice.pdf"),
        ("Rechnung März (1).pdf", "Rechnung März (1).pdf"),
        ("日本語.pdf", "日本語.pdf"),
        ("../../etc/passwd", "_._.._etc_passwd"),
        ("..", "_"),
        ("", "_"),
        (".bashrc", "_bashrc"),
        ("a\u202egnp.exe", "a_gnp.exe"),
        ("two  spaces\u00a0.txt", "two  spaces .txt"),
        ("e\u0301.txt", "\u00e9.txt"),
        ("x" * 300 + ".pdf", "x" * 176 + ".pdf"),
        ("ü" * 300 + ".pdf", "ü" * 88 + ".pdf"),
    ],
)
def test_a_name_stays_as_people_wrote_it_where_that_is_safe(text: str, name: str) -> None:
    assert safe_file_name(text) == name


def test_two_values_never_become_one_part() -> None:
    parts = [key_part(value) for value in ("a/b", "a_b", "a\\b", "a:b", "..", ".", "/", "A" * 200, "A" * 201, "", "_x")]
    assert len(set(parts)) == len(parts)


def test_taken_names_get_the_first_free_number_also_where_only_case_differs() -> None:
    taken = UsedNames(["run.json"])
    given_names = [
        taken.reserve(name) for name in ("a.pdf", "A.pdf", "a-2.pdf", "a.pdf", "run.json", "README", "README")
    ]
    assert given_names == ["a.pdf", "A-2.pdf", "a-2-2.pdf", "a-3.pdf", "run-2.json", "README", "README-2"]


def test_thousands_of_files_with_one_name_and_names_and_addresses_of_megabytes_cost_little() -> None:
    began = time.thread_time()
    same = artifacts_of({"downloaded_files": [{"url": f"{API}/{n}", "filename": "a.pdf"} for n in range(10_000)]})
    assert [artifact.name for artifact in (same[0], same[1], same[-1])] == ["a.pdf", "a-2.pdf", "a-10000.pdf"]
    assert len({artifact.name for artifact in same}) == 10_000
    long = "a/" * 5_000_000
    (download, recording) = artifacts_of(
        {"downloaded_files": [{"url": API, "filename": long + ".pdf"}], "recording_url": f"{API}/{'%' * 10_000_000}"}
    )
    assert download.name.endswith(".pdf")
    assert len(recording.url) > MAX_URL, "still longer than what is fetched"
    assert is_safe(key_part(long), MAX_PART)
    assert key_part(long) != key_part(long + "/")
    assert time.thread_time() - began < 3


@pytest.mark.parametrize(
    ("url", "same"),
    [
        (content("a_1"), content("a_1", "new")),
        ("https://b.s3.example/k?X-Amz-Date=1&X-Amz-Signature=2", "https://b.s3.example/k?X-Amz-Signature=3"),
        ("https://x.example/get?id=1&sig=2", "https://x.example/get?sig=9&id=1"),
        ("https://x.example/a", "http://x.example/a"),
    ],
)
def test_a_place_is_the_same_when_it_is_signed_anew(url: str, same: str) -> None:
    assert url_identity(url) == url_identity(same)


def test_a_place_keeps_what_tells_two_files_apart() -> None:
    assert url_identity("https://x.example/get?id=1") != url_identity("https://x.example/get?id=2")
    assert url_identity("https://x.example/get?token=1") != url_identity("https://x.example/get?token=2")


@pytest.mark.parametrize(
    ("artifact", "found"),
    [
        (Artifact("download", "f", "", artifact_id="a_1"), "by-id"),
        (Artifact("download", "f", "", sha256=SHA), "by-sha"),
        (Artifact("download", "f", "https://s3.example/place?sig=1"), "place"),
        (Artifact("recording", "f", "https://elsewhere.example/r"), "recording"),
        (Artifact("download", "f", "https://elsewhere.example/r"), None),
        (Artifact("screenshot", "f", "https://elsewhere.example/r", artifact_id="a_99"), None),
    ],
)
def test_a_fresh_address_is_taken_only_from_the_same_file(artifact: Artifact, found: str | None) -> None:
    listed = [
        Artifact("download", "x", "https://s3.example/by-id", artifact_id="a_1"),
        Artifact("download", "x", "https://s3.example/by-sha", sha256=SHA),
        Artifact("screenshot", "x", "https://s3.example/place?sig=2"),
        Artifact("recording", "x", "https://s3.example/recording"),
        Artifact("recording", "x", ""),
    ]
    fresh = renewed(artifact, listed)
    assert (fresh.url.split("?")[0].rpartition("/")[2] if fresh else None) == found
    assert fresh is None or (fresh.name, fresh.sha256) == (artifact.name, artifact.sha256)


def test_a_path_on_skyverns_own_disk_names_the_artifact_that_the_api_gives() -> None:
    path = "file:///skyvern/artifacts/o_1/tsk_1/00_0_stp_1/2026-11-24T20:25:13.757258_a_600731_screenshot_action.png"
    (named,) = artifacts_of({"screenshot_urls": [path]})
    listed = [
        Artifact("screenshot_final", "x", content("a_600732"), artifact_id="a_600732"),
        Artifact("screenshot_action", "x", content("a_600731"), artifact_id="a_600731"),
    ]
    fresh = renewed(named, listed)
    assert fresh is not None
    assert (fresh.name, fresh.url) == ("screenshot-1.png", content("a_600731"))
    assert [each.artifact_id for each in with_listed([named], listed, ["screenshot*"])] == ["a_600731", "a_600732"]


def test_what_the_api_lists_is_added_by_type_and_never_twice() -> None:
    named = artifacts_of({"recording_url": content("a_9")})
    listed = [
        Artifact("recording", "recording.webm", content("a_9", "new"), artifact_id="a_9"),
        Artifact("har", "../net.har", content("a_2"), artifact_id="a_2"),
        Artifact("har", "../net.har", content("a_3"), artifact_id="a_3"),
        Artifact("llm_prompt", "p", content("a_4"), artifact_id="a_4"),
        Artifact("har", "", "", artifact_id="a_5"),
    ]
    assert [artifact.name for artifact in with_listed(named, listed, ["har", "rec*"])] == [
        "recording.webm", "_._net.har", "_._net-2.har", "a_5",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("url", "is_content"),
    [
        (content("a_1"), True),
        ("http://localhost:8000/v1/artifacts/a_1/content", True),
        ("https://api.example/v1/artifacts/a_1/content/../../keys", False),
        ("https://api.example/v1/organizations/keys", False),
        ("https://api.example/v1/x?/artifacts/a/content", False),
        ("https://api.example/v1/artifacts/a%2f..%2fb/content", False),
        ("http://[", False),
    ],
)
def test_only_a_content_path_gets_the_key_unasked(url: str, is_content: bool) -> None:
    assert is_content_path(url) is is_content


def test_a_manifest_reads_back_what_it_wrote() -> None:
    kept = StoredFile(
        "a.pdf", "download", 3, SHA, "application/pdf", "https://x/a", "a_1", True, "", "2026-03-01T00:00:00Z"
    )
    manifest = Manifest({"event_id": "evt_1"}, [kept], [SkippedFile("b", "recording", "gone", size=4)])
    assert stored_files(manifest.dump()) == {"a.pdf": kept}
    document = json.loads(manifest.dump())
    assert document["skipped"] == [{"name": "b", "kind": "recording", "reason": "gone", "size": 4}]


@pytest.mark.parametrize(
    "document", [b"", b"{", b"[]", b'{"files": [{}]}', b'{"files": [1]}', b'{"files": 1}', b"null", b"\xff"]
)
def test_a_manifest_that_can_not_be_read_counts_as_not_there(document: bytes) -> None:
    assert stored_files(document) == {}
    assert order_in_latest(document) is None


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ({"modified_at": "2026-03-01T10:00:00.1"}, {"modified_at": "2026-03-01T10:00:00.2Z"}),
        ({"modified_at": "2026-03-01T12:00:00+02:00"}, {"modified_at": "2026-03-01T10:00:01"}),
        ({"modified_at": "2026-03-02T10:00:00"}, {"modified_at": "2026-03-01T10:00:00", "attempt": 2}),
        ({"modified_at": "never"}, {"modified_at": "2026-03-01T10:00:00"}),
        ({"attempt": True, "modified_at": None}, {"attempt": 2, "modified_at": None}),
        ({"attempt": "9", "modified_at": None}, {"attempt": 2, "modified_at": None}),
        ({"modified_at": None}, {"modified_at": None}),
    ],
)
def test_the_events_of_a_run_are_in_order(older: dict[str, Any], newer: dict[str, Any]) -> None:
    first, second = make_delivery({"run_id": "r", **older}), make_delivery({"run_id": "r", **newer})
    assert event_order(first) < event_order(second)
    assert order_in_latest(latest_document(second, "x/")) == event_order(second)


def test_a_document_can_always_be_written() -> None:
    delivery = make_delivery(
        body=b'{"run_id": "\\ud800", "status": "\\ud800"}', received_at=datetime(2026, 3, 1, tzinfo=UTC)
    )
    assert json.loads(Manifest(event_fields(delivery), []).dump())["received_at"] == "2026-03-01T00:00:00Z"


@pytest.mark.parametrize(
    ("name", "kind", "shown"),
    [
        ("a.PDF", "application/pdf", True),
        ("recording.webm", "video/webm", True),
        ("page.html", "text/html", False),
        ("drawing.svg", "image/svg+xml", False),
        ("feed.xml", "application/xml", False),
        ("script.js", "application/octet-stream", False),
        ("nothing", "application/octet-stream", False),
    ],
)
def test_what_could_run_in_a_browser_is_not_shown_in_place(name: str, kind: str, shown: bool) -> None:
    assert content_type(name) == kind
    assert is_inline_safe(kind) is shown


def test_a_crew_keeps_the_order_and_hands_over_what_went_wrong() -> None:
    def work(number: int) -> int:
        if number == 3:
            raise ValueError("three")
        return number * 2

    pool = DaemonPool(4, "test")
    results = FanOut(range(50), work).run(pool, 8, Deadline(10))
    pool.close()
    assert isinstance(results[3], ValueError)
    assert [result for number, result in enumerate(results) if number != 3] == [n * 2 for n in range(50) if n != 3]


def test_a_crew_goes_on_alone_when_the_pool_is_busy_and_leaves_what_hangs() -> None:
    release = threading.Event()
    pool = DaemonPool(1, "test")
    pool.submit(lambda: release.wait(30) and None)
    assert FanOut(range(5), lambda number: number).run(pool, 4, Deadline(10)) == [0, 1, 2, 3, 4]
    hung = DaemonPool(1, "test")
    first = threading.Event()

    def work(number: int) -> int:
        if threading.current_thread() is not main:
            first.set()
            release.wait(30)
        else:
            first.wait(30)
        return number

    main = threading.current_thread()
    watch = Stopwatch()
    with pytest.raises(Unavailable):
        FanOut(range(2), work).run(hung, 1, Deadline(0.2))
    watch.at_most(10)
    release.set()
    pool.close()
    hung.close()


def test_a_pool_never_has_more_threads_than_its_size_and_ends_them() -> None:
    before = threading.active_count()
    pool = DaemonPool(3, "test")
    done = threading.Semaphore(0)
    for _ in range(100):
        pool.submit(done.release)
    for _ in range(100):
        assert done.acquire(timeout=10)
    assert threading.active_count() - before <= 3
    pool.close()
    eventually(lambda: threading.active_count() <= before)


def test_within_gives_results_errors_and_up() -> None:
    release = threading.Event()
    assert run_within(Deadline(10), lambda: 7) == 7
    with pytest.raises(KeyError):
        run_within(Deadline(10), lambda: {}["x"])
    with pytest.raises(Unavailable, match=r"not done within 0\.1 s"):
        run_within(Deadline(0.1), lambda: release.wait(30))
    release.set()


class SlowStore(LocalStore):
    """A place that takes longer over the first piece of a file than a send may take."""

    def put_stream(self, target: ObjectTarget, incoming: IncomingFile) -> None:
        for _ in incoming:
            time.sleep(2)


def test_a_place_that_takes_all_the_time_is_not_excused_by_the_server_that_the_file_comes_from(tmp_path: Path) -> None:
    stop = threading.Event()
    with ArtifactServer() as server:
        run = sample_run(downloaded_files=[{"url": server.add("/slow", trickle=stop), "filename": "a.bin"}])
        mirror = Mirror(MirrorOptions(timeout=1.5), Loopback(), SlowStore(tmp_path))
        with pytest.raises(Unavailable) as caught:
            mirror.send(make_delivery(run))
        mirror.close()
        stop.set()
    assert not caught.value.dependency


class LastMoment(LocalStore):
    """A place that is at work on a piece when the time runs out, and had none of the time before."""

    def put_stream(self, target: ObjectTarget, incoming: IncomingFile) -> None:
        for _ in incoming:
            if (left := target.deadline.remaining()) < 0.1:
                time.sleep(left)
            target.deadline.remaining()


def test_time_that_runs_out_between_two_pieces_is_the_trouble_of_the_server_that_had_it(tmp_path: Path) -> None:
    stop = threading.Event()
    with ArtifactServer() as server:
        run = sample_run(downloaded_files=[{"url": server.add("/slow", trickle=stop), "filename": "a.bin"}])
        mirror = Mirror(MirrorOptions(timeout=0.5), Loopback(), LastMoment(tmp_path))
        with pytest.raises(Unavailable, match=r"not done within 0\.5 s") as caught:
            mirror.send(make_delivery(run))
        mirror.close()
        stop.set()
    assert caught.value.dependency
