"""Files of a run into a folder: from this machine's sinks and from a service, checked and safe."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from receiver.api.artifacts import ArtifactRow
from receiver.cli.client import Client, open_client
from receiver.cli.download import TRIES, download_files, names_of
from receiver.cli.remote import StoredContent
from receiver.errors import RunhookError
from tests.servers.artifacts import ArtifactServer
from tests.servers.skyvern import KEY
from tests.servers.submitting import Submitting
from tests.support.command import Said
from tests.support.demo_runs import FILES, store_files
from tests.support.ledger import new_event, record


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
def test_download_overwrites_no_file(
    service: Submitting, said: Callable[..., Said], tmp_path: Path, place: str
) -> None:
    folder = tmp_path / "got"
    remote = where(place, service)

    code, shown, _ = said("run", "tsk_1", "--download", str(folder), *remote)

    assert code == 0, shown
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES
    assert "recording.webm: 1000.0 KiB, checksum not known\n" in shown
    # And the run's page has the sizes that its sink stored
    assert ["recording.webm", "recording", "1000.0", "KiB"] in [
        line.split()[:4] for line in said("run", "tsk_1", *remote)[1].splitlines()
    ]
    # And what is there stays, unless it may be replaced
    (folder / "notes.txt").write_text("mine")
    code, shown, error = said("run", "tsk_1", "--download", str(folder), *remote)
    assert (code, "notes.txt: skipped: the file exists, and the run's checksum is not known; --force" in shown) == (
        1,
        True,
    )
    # And a file of the right size is no failure
    assert "recording.webm: exists with the same size, checksum not known; --force replaces it\n" in shown
    assert error.endswith("runhook: 1 of 6 files not downloaded\n")
    assert (folder / "notes.txt").read_text() == "mine"
    assert said("run", "tsk_1", "--download", str(folder), "--force", *remote)[0] == 0
    assert (folder / "notes.txt").read_bytes() == FILES["notes.txt"]


class Short:
    """A client whose files end early."""

    def __init__(self, client: Client) -> None:
        self.call, self._content = client.call, client.content
        self.tries: list[str] = []

    @contextmanager
    def content(self, wanted: Any) -> Iterator[StoredContent]:
        self.tries.append(wanted.name)
        with self._content(wanted) as found:
            yield found._replace(chunks=iter([b"".join(found.chunks)[:1000]]))


@pytest.mark.parametrize("place", ["here", "there"])
def test_interrupted_file_is_retried_and_never_kept(
    service: Submitting, capsys: pytest.CaptureFixture[str], tmp_path: Path, place: str
) -> None:
    folder = tmp_path / "got"
    remote = {} if place == "here" else {"url": service.url, "key": service.key("view", source="*")}
    with open_client(**remote) as client:
        # Given a store whose bytes end early
        short: Any = Short(client)
        with pytest.raises(RunhookError):
            download_files(short, "tsk_1", "", folder, force=False, pause=0.0)
        assert "recording.webm: interrupted after 1,000 of 1,024,000 bytes" in capsys.readouterr().out
        assert short.tries.count("recording.webm") == TRIES
        assert [path.name for path in folder.iterdir() if path.name.startswith((".", "recording"))] == []
        # When it is called again, and the bytes come
        download_files(client, "tsk_1", "", folder, force=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES


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

    code, shown, error = said("run", "tsk_2", "--download", str(got), *where(place, service))

    assert code == 1, shown
    assert {path.name: path.read_bytes() for path in got.iterdir()} == {"kept.txt": b"behind the key"}
    assert "gone.txt: file gone.txt of run tsk_2: no sink has it, nor does Skyvern: " in shown
    assert "inside.txt: file inside.txt of run tsk_2: no sink has it, nor does Skyvern: 127.0.0.2 is " in shown
    assert "s3cr3t" not in shown + error
    keys = [each.headers.get("x-api-key") for each in skyvern.seen if each.path.endswith("/content")]
    assert keys == [KEY]


def test_a_checksum_that_is_wrong_keeps_nothing(service: Submitting, said: Callable[..., Said], tmp_path: Path) -> None:
    files = [{"url": "https://files.test/notes.txt", "filename": "notes.txt", "checksum": "0" * 64}]
    store_files(service.ledger, tmp_path / "archive", "tsk_3", "archive", downloaded_files=files)
    code, shown, _ = said("run", "tsk_3", "--download", str(tmp_path / "got"))
    assert code == 1
    assert "notes.txt: discarded: the stored file does not match the run's checksum" in shown
    assert not (tmp_path / "got" / "notes.txt").exists()
    assert not list((tmp_path / "got").glob(".notes*"))


def test_existing_file_is_compared_by_its_checksum(
    service: Submitting, said: Callable[..., Said], tmp_path: Path
) -> None:
    # Given a run with a file whose checksum is known
    digest = hashlib.sha256(FILES["notes.txt"]).hexdigest()
    files = [{"url": "https://files.test/notes.txt", "filename": "notes.txt", "checksum": digest}]
    alone = {"downloaded_files": files, "recording_url": None, "screenshot_urls": None}
    store_files(service.ledger, tmp_path / "archive", "tsk_4", "archive", **alone)
    download = ("run", "tsk_4", "--download", str(tmp_path / "got"))
    # When it is downloaded twice, it is verified, and then up to date
    assert said(*download)[:2] == (0, "notes.txt: 35 B, checksum verified\n")
    assert said(*download)[:2] == (0, "notes.txt: up to date, checksum verified\n")
    # And the file of another run stays, as an error
    (tmp_path / "got" / "notes.txt").write_text("of another run")
    code, shown, _ = said(*download)
    assert (code, shown) == (1, "notes.txt: skipped: a different file of this name exists; --force replaces it\n")


def test_one_blocked_file_stops_no_other_download(
    service: Submitting, said: Callable[..., Said], tmp_path: Path
) -> None:
    folder = tmp_path / "got"
    (folder / "notes.txt").mkdir(parents=True)
    (tmp_path / "mine").write_text("mine")
    (folder / "page.html").symlink_to(tmp_path / "mine")

    code, shown, error = said("run", "tsk_1", "--download", str(folder), "--force")

    assert code == 1
    assert "notes.txt: skipped: a folder of this name exists" in shown
    assert error.endswith("runhook: 1 of 6 files not downloaded\n")
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert (tmp_path / "mine").read_text() == "mine"
    assert (folder / "page.html").read_bytes() == FILES["page.html"]
    assert not (folder / "page.html").is_symlink()


def test_a_name_leads_nowhere_else_and_is_taken_once() -> None:
    def row(name: str) -> ArtifactRow:
        facts = {"source": "s", "run_id": "r", "event_id": "e", "kind": "download", "url": "", "artifact_id": None}
        return ArtifactRow(name=name, sha256=None, size=None, stored=[], **facts)  # type: ignore[arg-type]

    names = names_of([row(each) for each in ("../../etc/passwd", "a.txt", "A.TXT", "/abs", "..", "a\x00b", "a/b")])

    assert len({name.casefold() for name in names}) == 7
    assert len({name.casefold() for name in names_of([row(each) for each in ("a-3.txt", "a.txt", "A.txt")])}) == 3
    assert not any("/" in name or name in (".", "..") or "\x00" in name for name in names)


def test_unknown_run_or_missing_folder_is_a_mistake(
    service: Submitting, said: Callable[..., Said], tmp_path: Path
) -> None:
    assert said("run", "tsk_1", "--force")[::2] == (2, "runhook: --force requires --download DIR\n")
    assert said("run", "tsk_1", "--download", "")[0] == 2
    assert said("run", "tsk_404", "--download", str(tmp_path / "got"))[0] == 2
