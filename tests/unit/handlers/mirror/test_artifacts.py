"""Which files belong to a run, whatever its body holds."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.contract import Artifact
from handlers.mirror.artifacts import artifacts_of, is_content_path, url_identity, with_fresh_url, with_listed
from handlers.mirror.names import MAX_NAME, MAX_PART, key_part
from handlers.support.url import MAX_URL
from tests.support.formats import JSON, TEXT, is_safe

API = "https://api.example/v1/artifacts"
SHA = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def content(artifact: str, signature: str = "s") -> str:
    return f"{API}/{artifact}/content?expiry=1&kid=k&sig={signature}"


def names_and_kinds(run: dict[str, Any]) -> list[tuple[str, str]]:
    return [(artifact.kind, artifact.name) for artifact in artifacts_of(run)]


def test_run_lists_downloads_recordings_and_screenshots_once() -> None:
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
def test_any_body_gives_the_same_safe_and_unique_names(run: dict[str, Any]) -> None:
    found = artifacts_of(run)
    assert artifacts_of(run) == found
    names = [artifact.name for artifact in found]
    assert len({name.casefold() for name in names}) == len(names)
    assert all(is_safe(name, MAX_NAME + 8) for name in names)
    assert not {"run.json", "manifest.json", "latest.json"} & set(names)
    json.dumps([artifact.url for artifact in found]).encode()


def test_huge_names_and_thousands_of_files_cost_little() -> None:
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
def test_a_urls_identity_stays_when_it_is_signed_anew(url: str, same: str) -> None:
    assert url_identity(url) == url_identity(same)


def test_a_urls_identity_keeps_what_distinguishes_two_files() -> None:
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
    fresh = with_fresh_url(artifact, listed)
    assert (fresh.url.split("?")[0].rpartition("/")[2] if fresh else None) == found
    assert fresh is None or (fresh.name, fresh.sha256) == (artifact.name, artifact.sha256)


def test_path_on_skyverns_disk_names_the_apis_artifact() -> None:
    path = "file:///skyvern/artifacts/o_1/tsk_1/00_0_stp_1/2026-11-24T20:25:13.757258_a_600731_screenshot_action.png"
    (named,) = artifacts_of({"screenshot_urls": [path]})
    listed = [
        Artifact("screenshot_final", "x", content("a_600732"), artifact_id="a_600732"),
        Artifact("screenshot_action", "x", content("a_600731"), artifact_id="a_600731"),
    ]
    fresh = with_fresh_url(named, listed)
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
