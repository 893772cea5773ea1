"""The files of a run into a folder: from this machine's sinks and from a service, resumed, checked, and safe."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from receiver.api.artifact_content import ContentParameters
from receiver.api.artifacts import ArtifactRow
from receiver.cli import download
from receiver.cli.client import Client, LocalClient
from receiver.cli.download import names_of
from receiver.cli.progress import ProgressLine
from receiver.cli.remote import RemoteClient, StoredContent, start_and_size
from receiver.errors import Busy, NotStarted
from tests.servers.artifacts import ArtifactServer
from tests.servers.skyvern import KEY
from tests.servers.submitting import Submitting
from tests.support.command import Said
from tests.support.ledger import new_event, record
from tests.support.stored_files import FILES, store_files


@pytest.fixture
def skyvern() -> Iterator[ArtifactServer]:
    with ArtifactServer() as server:
        yield server


@pytest.fixture
def service(
    submitting: Callable[..., Submitting], skyvern: ArtifactServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Submitting:
    """A service, whose ledger and config are this machine's too, and a run whose files its sink has stored."""
    sinks = {"archive": {"type": "files", "path": str(tmp_path / "archive")}}
    server = submitting(skyvern.url, dispatching=False, sinks=sinks)
    source = {"secrets": ["other"], "api_base": skyvern.url, "api_key": KEY}
    (tmp_path / "c.json").write_text(json.dumps({"sources": {"skyvern": source}, "sinks": sinks}))
    monkeypatch.setenv("RUNHOOK_CONFIG", str(tmp_path / "c.json"))
    monkeypatch.setenv("RUNHOOK_DATA", str(server.settings.data))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RUNHOOK_URL", "RUNHOOK_KEY", "DATABASE_URL", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    store_files(server.ledger, tmp_path / "archive", "tsk_1", "archive")
    return server


def where(place: str, service: Submitting) -> list[str]:
    return [] if place == "here" else ["--url", service.url, "--key", service.key("view", source="*")]


@pytest.mark.parametrize("place", ["here", "there"])
def test_the_files_of_a_run_are_fetched_and_nothing_is_overwritten(
    service: Submitting, said: Callable[..., Said], tmp_path: Path, place: str
) -> None:
    folder = tmp_path / "got"
    remote = where(place, service)

    code, shown, _ = said("artifacts", "tsk_1", "--download", str(folder), *remote)

    assert code == 0, shown
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES
    assert "recording.webm: 1000.0 KiB" in shown
    # And what is there stays, unless it may be replaced
    (folder / "notes.txt").write_text("mine")
    code, shown, error = said("artifacts", "tsk_1", "--download", str(folder), *remote)
    assert (code, "notes.txt: is there already, and is left as it is; --force replaces it" in shown) == (1, True)
    assert error.endswith("runhook: 6 of 6 files could not be had\n")
    assert (folder / "notes.txt").read_text() == "mine"
    assert said("artifacts", "tsk_1", "--download", str(folder), "--force", *remote)[0] == 0
    assert (folder / "notes.txt").read_bytes() == FILES["notes.txt"]


@pytest.mark.parametrize("place", ["here", "there"])
def test_what_broke_off_is_gone_on_with(
    service: Submitting, said: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    # Given a store whose bytes end early, in each of the tries
    client: Any = LocalClient if place == "here" else RemoteClient
    whole, starts = client.content, []

    @contextmanager
    def short(self: Any, wanted: Any, start: int = 0, tag: str = "") -> Iterator[StoredContent]:
        with whole(self, wanted, start, tag) as found:
            starts.append(found.start)
            cut = iter([b"".join(found.chunks)[:1000]])
            yield found._replace(chunks=cut)

    monkeypatch.setattr(client, "content", short)
    monkeypatch.setattr(download, "PAUSE", 0.0)
    monkeypatch.setattr(download, "TRIES", 2)
    folder = tmp_path / "got"
    arguments = ["artifacts", "tsk_1", "--download", str(folder), *where(place, service)]
    code, shown, _ = said(*arguments)
    assert code == 1
    assert "recording.webm: it broke off after 2,000 of 1,024,000 bytes" in shown
    assert not (folder / "recording.webm").exists()
    # When it is called again, and the bytes come
    monkeypatch.setattr(client, "content", whole)
    assert said(*arguments, "--force")[0] == 0
    # Then the rest was asked for, and the file is whole
    assert max(starts) == 1000
    assert (folder / "recording.webm").read_bytes() == FILES["recording.webm"]
    assert [path for path in folder.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("place", ["here", "there"])
def test_what_no_sink_has_stored_comes_from_skyvern(
    service: Submitting, skyvern: ArtifactServer, said: Callable[..., Said], tmp_path: Path, place: str
) -> None:
    # Given a run whose files are at Skyvern alone: one behind its API key, one that is gone, one at an inner address
    skyvern.add("/v1/artifacts/a_1/content", b"behind the key")
    files = [
        {"url": f"{skyvern.url}/v1/artifacts/a_1/content", "filename": "kept.txt", "artifact_id": "a_1"},
        {"url": skyvern.add("/gone.txt", status=404), "filename": "gone.txt"},
        {"url": "http://127.0.0.2:1/inside.txt?token=s3cr3t", "filename": "inside.txt"},
    ]
    record(service.ledger, new_event("tsk_2", downloaded_files=files))
    got = tmp_path / "got"

    code, shown, error = said("artifacts", "tsk_2", "--download", str(got), *where(place, service))

    assert code == 1, shown
    assert {path.name: path.read_bytes() for path in got.iterdir()} == {"kept.txt": b"behind the key"}
    assert "gone.txt: file gone.txt of run tsk_2: no sink has it, nor does Skyvern: " in shown
    assert "inside.txt: file inside.txt of run tsk_2: no sink has it, nor does Skyvern: 127.0.0.2 is " in shown
    assert "s3cr3t" not in shown + error
    keys = [each.headers.get("x-api-key") for each in skyvern.seen if each.path.endswith("/content")]
    assert keys == [KEY]


def test_what_is_no_run_is_said_plainly(service: Submitting, said: Callable[..., Said], tmp_path: Path) -> None:
    assert said("artifacts", "--download", str(tmp_path / "got"))[2].startswith("runhook: --download: say of which run")
    assert said("artifacts", "--force")[0] == 2
    assert "there is no such run" in said("artifacts", "tsk_404", "--download", str(tmp_path / "got"))[2]


def test_a_checksum_that_is_wrong_keeps_nothing(service: Submitting, said: Callable[..., Said], tmp_path: Path) -> None:
    files = [{"url": "https://files.test/notes.txt", "filename": "notes.txt", "checksum": "0" * 64}]
    store_files(service.ledger, tmp_path / "archive", "tsk_3", "archive", downloaded_files=files)
    code, shown, _ = said("artifacts", "tsk_3", "--download", str(tmp_path / "got"))
    assert code == 1
    assert "notes.txt: what is stored is not what the run's checksum is of; it was not kept" in shown
    assert not (tmp_path / "got" / "notes.txt").exists()
    assert not list((tmp_path / "got").glob(".notes*"))


def test_what_stands_in_the_way_of_one_file_keeps_no_other_from_coming(
    service: Submitting, said: Callable[..., Said], tmp_path: Path
) -> None:
    folder = tmp_path / "got"
    (folder / "notes.txt").mkdir(parents=True)
    (tmp_path / "mine").write_text("mine")
    (folder / "page.html").symlink_to(tmp_path / "mine")

    code, shown, error = said("artifacts", "tsk_1", "--download", str(folder), "--force")

    assert code == 1
    assert "notes.txt: a folder of this name is there, and is left as it is" in shown
    assert error.endswith("runhook: 1 of 6 files could not be had\n")
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert (tmp_path / "mine").read_text() == "mine"
    assert (folder / "page.html").read_bytes() == FILES["page.html"]
    assert not (folder / "page.html").is_symlink()


def test_a_disk_that_is_full_names_the_file(
    service: Submitting, said: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: ProgressLine, done: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ProgressLine, "show", full)
    code, _, error = said("artifacts", "tsk_1", "--download", str(tmp_path / "got"))
    assert code == 3
    assert re.search(r"got/\.invoice\.pdf\.[0-9a-f]{12}\.part: no space left on device\n$", error)


def test_an_empty_folder_is_not_the_working_directory(service: Submitting, said: Callable[..., Said]) -> None:
    told = said("artifacts", "tsk_1", "--download", "", "--force")
    assert told[::2] == (2, "runhook: --download: is empty; give it a value, or leave it out\n")


def test_a_name_leads_nowhere_else_and_is_taken_once() -> None:
    def row(name: str) -> ArtifactRow:
        facts = {"source": "s", "run_id": "r", "event_id": "e", "kind": "download", "url": "", "artifact_id": None}
        return ArtifactRow(name=name, sha256=None, size=None, stored=[], **facts)  # type: ignore[arg-type]

    names = names_of([row(each) for each in ("../../etc/passwd", "a.txt", "A.TXT", "/abs", "..", "a\x00b", "a/b")])

    assert len({name.casefold() for name in names}) == 7
    assert len({name.casefold() for name in names_of([row(each) for each in ("a-3.txt", "a.txt", "A.txt")])}) == 3
    assert not any("/" in name or name in (".", "..") or "\x00" in name for name in names)


def test_an_answer_that_tells_no_length_is_refused() -> None:
    assert start_and_size(206, {"content-range": "bytes 5-9/10"}) == (5, 10)
    assert start_and_size(200, {"content-length": "10"}) == (0, 10)
    for status, headers in ((206, {}), (200, {}), (206, {"content-range": "bytes 5-9/*"}), (204, {})):
        with pytest.raises(NotStarted, match="does not say how long"):
            start_and_size(status, headers)


@pytest.mark.parametrize("start", [0, 3])
def test_a_file_that_is_replaced_between_two_parts_is_no_mixture(tmp_path: Path, start: int) -> None:
    # Given a part of one version
    versions = iter(
        [StoredContent(10, 0, '"a"', "", iter([b"aaaaa"])), StoredContent(10, start, '"b"', "", iter([b"b"]))]
    )

    class Replaced:
        @contextmanager
        def content(self, *_: object) -> Iterator[StoredContent]:
            yield next(versions)

    target = tmp_path / "video.webm"
    version = hashlib.sha256(b'"a"').hexdigest()[:12]
    part = tmp_path / f".video.webm.{version}.part"
    part.write_bytes(b"aaaaa")
    # When the rest is of another
    with pytest.raises(Busy, match="replaced"):
        download._receive(cast("Client", Replaced()), cast("ContentParameters", None), target)
    # Then what is there is as it was
    assert part.read_bytes() == b"aaaaa"
