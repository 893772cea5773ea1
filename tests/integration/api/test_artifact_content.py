"""The bytes of runs' files: whole, in ranges, for those who may see the run, and never as a page."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import httpx2
import pytest

from receiver.api import artifact_content, skyvern_files
from receiver.api.call_pool import THREADS
from tests.servers.artifacts import ArtifactServer
from tests.servers.submitting import Submitting
from tests.support.api import get, problem
from tests.support.demo_runs import FILES, store_files
from tests.support.ledger import new_event, record

VIDEO = FILES["recording.webm"]


class Rig(NamedTuple):
    server: Submitting
    folder: Path
    key: str

    def get(self, name: str, key: str = "", run: str = "tsk_1", **headers: str) -> httpx2.Response:
        return get(self.server, f"/artifacts/content?run_id={run}&name={name}", key or self.key, **headers)


@pytest.fixture
def rig(submitting: Callable[..., Submitting], tmp_path: Path) -> Rig:
    """A receiver, and a run whose files its sink `archive` has stored."""
    sinks = {"archive": {"type": "files", "path": str(tmp_path / "archive")}}
    server = submitting("http://127.0.0.1:9", dispatching=False, sinks=sinks)
    return Rig(server, store_files(server.ledger, tmp_path / "archive", "tsk_1", "archive"), server.key("view"))


def test_a_file_is_given_whole_and_in_ranges(rig: Rig) -> None:
    whole = rig.get("recording.webm")
    assert (whole.status_code, whole.content) == (200, VIDEO)
    assert whole.headers["content-type"] == "video/webm"
    assert whole.headers["accept-ranges"] == "bytes"
    tag = whole.headers["etag"]
    for asked, first, last in (("bytes=0-99", 0, 99), ("bytes=500000-", 500_000, len(VIDEO) - 1)):
        part = rig.get("recording.webm", range=asked)
        assert (part.status_code, part.content) == (206, VIDEO[first : last + 1])
        assert part.headers["content-range"] == f"bytes {first}-{last}/{len(VIDEO)}"
        assert part.headers["etag"] == tag
    beyond = rig.get("recording.webm", range=f"bytes={len(VIDEO)}-")
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(VIDEO)}")
    assert rig.get("recording.webm", range="bytes=0-9", **{"if-range": '"old"'}).content == VIDEO
    # And who has it is told so
    again = rig.get("recording.webm", **{"if-none-match": tag})
    assert (again.status_code, again.content) == (304, b"")


def test_what_there_is_is_told_as_json(rig: Rig) -> None:
    told = rig.get("recording.webm", accept="application/json").json()
    assert told == {
        "source": "skyvern",
        "run_id": "tsk_1",
        "name": "recording.webm",
        "size": len(VIDEO),
        "content_type": "video/webm",
        "sink": "archive",
        "key": str(rig.folder / "recording.webm"),
    }


@pytest.mark.parametrize(
    ("name", "kind", "how"),
    [
        ("page.html", "application/octet-stream", "attachment"),
        ("invoice.pdf", "application/octet-stream", "attachment"),
        ("notes.txt", "text/plain; charset=utf-8", "inline"),
        ("screenshot-1.png", "image/png", "inline"),
    ],
)
def test_no_file_is_a_page(rig: Rig, name: str, kind: str, how: str) -> None:
    answer = rig.get(name)
    assert answer.content == FILES[name]
    assert answer.headers["content-type"] == kind
    assert answer.headers["content-disposition"] == f"{how}; filename*=UTF-8''{name}"
    assert answer.headers["content-security-policy"].endswith("sandbox")
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_only_who_may_see_the_run_gets_its_files(rig: Rig) -> None:
    assert problem(rig.get("notes.txt", rig.server.key("view", source="other")))["status"] == 404
    assert problem(rig.get("notes.txt", rig.server.key("submit")))["status"] == 403
    assert problem(get(rig.server, "/artifacts/content?run_id=tsk_1&name=notes.txt"))["status"] == 401
    asked = get(
        rig.server,
        "/artifacts/content?run_id=tsk_1&name=notes.txt&source=skyvern",
        rig.server.key("view", source="other"),
    )
    assert problem(asked)["status"] == 403


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "run.json", "nothing.txt", "..%2f..%2fx"])
def test_only_what_the_run_names_is_opened(rig: Rig, name: str) -> None:
    assert problem(rig.get(name))["detail"].startswith("run tsk_1 has no file ")


def test_link_is_not_followed_and_missing_file_not_found(rig: Rig) -> None:
    place = rig.folder / "notes.txt"
    place.unlink()
    assert "where it was stored" in problem(rig.get("notes.txt"))["detail"]
    place.symlink_to("/etc/passwd")
    assert problem(rig.get("notes.txt"))["status"] == 503


def test_a_file_of_a_sink_that_the_config_lacks_is_not_found(rig: Rig) -> None:
    asked = get(rig.server, "/artifacts/content?run_id=tsk_1&name=notes.txt&sink=gone", rig.key)
    assert problem(asked)["detail"] == "file notes.txt of run tsk_1: the sink gone does not have it"


def test_a_file_that_ends_early_never_looks_whole(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a store that breaks off in the middle
    chunks = artifact_content.ArtifactContent.chunks

    def broken(self: artifact_content.ArtifactContent, start: int, end: int) -> object:
        yield next(chunks(self, start, 1000))
        raise artifact_content.Busy("the store is away")

    monkeypatch.setattr(artifact_content.ArtifactContent, "chunks", broken)
    # Then the connection is broken off too
    with pytest.raises(httpx2.RemoteProtocolError):
        rig.get("recording.webm")


def test_file_is_fetched_from_skyvern_once_and_served_in_ranges(
    submitting: Callable[..., Submitting],
) -> None:
    with ArtifactServer() as skyvern:
        # Given a file that no sink has stored, whose address signs it
        server = submitting(skyvern.url, dispatching=False)
        url = skyvern.add("/video.webm", VIDEO) + "?signature=s3cr3t"
        record(server.ledger, new_event("tsk_2", recording_url=url))
        key, path = server.key("view"), "/artifacts/content?run_id=tsk_2&name=recording.webm"
        # Then it comes only for who asks for it
        assert problem(get(server, path, key))["status"] == 404
        assert problem(get(server, path + "&skyvern=true", server.key("view", source="other")))["status"] == 404
        assert skyvern.seen == []
        whole = get(server, path + "&skyvern=true", key)
        assert (whole.status_code, whole.content) == (200, VIDEO)
        asked = {"range": "bytes=1000-", "if-range": whole.headers["etag"]}
        part = get(server, path + "&skyvern=true", key, **asked)
        assert (part.status_code, part.content) == (206, VIDEO[1000:])
        assert skyvern.paths() == ["/video.webm"]


def test_what_is_not_what_skyvern_announced_is_not_given(submitting: Callable[..., Submitting]) -> None:
    with ArtifactServer() as skyvern:
        server = submitting(skyvern.url, dispatching=False)
        files = [
            {"url": skyvern.add(f"/{name}", b"x" * 99, **page), "filename": name, **said}
            for name, page, said in (
                ("short.txt", {"short": 9}, {}),
                ("other.txt", {}, {"checksum": "0" * 64}),
                ("long.txt", {}, {"file_size": skyvern_files.MOST_BYTES + 1}),
            )
        ]
        record(server.ledger, new_event("tsk_2", downloaded_files=files))
        for name, status in (("short.txt", 503), ("other.txt", 503), ("long.txt", 404)):
            answer = get(server, f"/artifacts/content?run_id=tsk_2&name={name}&skyvern=true", server.key("view"))
            assert (problem(answer)["status"], b"xxx" in answer.content) == (status, False), name


def test_files_that_come_slowly_hold_up_no_others(submitting: Callable[..., Submitting], tmp_path: Path) -> None:
    with ArtifactServer() as skyvern, ThreadPoolExecutor(THREADS) as pool:
        # Given a stored file, one that was fetched, and one of another source
        source = {"secrets": ["other"], "api_base": skyvern.url, "api_key": "k"}
        sinks = {"archive": {"type": "files", "path": str(tmp_path / "archive")}}
        server = submitting(skyvern.url, dispatching=False, sinks=sinks, sources={"skyvern": source, "other": source})
        store_files(server.ledger, tmp_path / "archive", "tsk_1", "archive")
        going_on = threading.Event()
        files = [
            {"url": skyvern.add(f"/{name}", b"x" * 99, gate=going_on if "slow" in name else None), "filename": name}
            for name in ("kept.txt", "new.txt", *(f"slow-{number}.txt" for number in range(THREADS)))
        ]
        record(server.ledger, new_event("tsk_2", downloaded_files=files))
        record(server.ledger, new_event("tsk_3", source="other", downloaded_files=files[:1]))
        key, other = server.key("view"), server.key("view", source="other")

        def fetch(run: str, name: str, key: str = key) -> int:
            return get(server, f"/artifacts/content?run_id={run}&name={name}&skyvern=true", key).status_code

        assert fetch("tsk_2", "kept.txt") == 200
        # When as many files come slowly as there are threads of calls
        slow = [pool.submit(fetch, "tsk_2", f"slow-{number}.txt") for number in range(THREADS)]
        for number in range(THREADS):
            skyvern.wait_for(f"/slow-{number}.txt", 1)
        # Then the others are given before
        others = [fetch("tsk_1", "notes.txt"), fetch("tsk_2", "kept.txt"), fetch("tsk_3", "kept.txt", other)]
        others.append(fetch("tsk_2", "new.txt"))
        going_on.set()
        assert others == [200, 200, 200, 200]
        assert [each.result() for each in slow] == [200] * THREADS
