"""The sink `files` on a real disk."""

import errno
import fcntl
import json
import os
import resource
import shutil
import signal
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest

from handlers.contract import Refused, Unavailable
from handlers.files import FilesSink
from handlers.files.disk import translated_errors
from handlers.testing.conformance import SinkConformance, SinkUnderTest, make_delivery, sample_run
from tests.servers import warm_python
from tests.servers.artifacts import ArtifactServer
from tests.support.mirror import PDF, Loopback, Place, entry, full_run, plain, tree_of
from tests.support.store_suite import StoreSuite
from tests.support.waiting import eventually


class Disk:
    """A disk with `free` bytes; with `grows`, each look at it finds 4 MB less."""

    def __init__(self, free: int) -> None:
        self.free = free
        self.grows = False

    def fstatvfs(self, _: int) -> Any:
        self.free -= 4_000_000 if self.grows else 0
        return SimpleNamespace(f_bavail=self.free, f_frsize=1)


class TestConformance(SinkConformance):
    @pytest.fixture
    def target(self, tmp_path: Path) -> SinkUnderTest:
        root = tmp_path / "archive"
        (tmp_path / "taken").write_text("a file")
        return SinkUnderTest(
            FilesSink,
            {"path": str(root)},
            seen=lambda: sorted(tree_of(root)),
            idempotent=True,
            away={"the path leads through a file": {"path": str(tmp_path / "taken" / "archive"), "timeout": 2}},
            is_marked=lambda key: "/test-" in key,
        )


class TestFilesMirror(StoreSuite):
    def test_nothing_is_written_through_a_planted_link(self, place: Place, tmp_path: Path) -> None:
        root, elsewhere = tmp_path / "deep" / "archive", tmp_path / "elsewhere"
        elsewhere.mkdir()
        root.mkdir(parents=True)
        (root / "task_v1").symlink_to(elsewhere)
        with pytest.raises(Unavailable, match="a file or link is where a folder belongs"):
            place.sink().send(make_delivery())
        assert list(elsewhere.iterdir()) == []

    def test_links_and_pipes_are_replaced_and_not_followed(
        self, place: Place, tmp_path: Path, server: ArtifactServer
    ) -> None:
        victim = tmp_path / "victim"
        victim.write_text("precious")
        delivery = make_delivery(sample_run("tsk_1", downloaded_files=[entry(server.add("/a", PDF))]))
        folder = tmp_path / "deep" / "archive" / "task_v1" / "tsk_1" / delivery.event_id
        place.sink().send(delivery)
        (invoice,) = (folder.parent / "files").iterdir()
        shutil.rmtree(folder)
        invoice.unlink()
        (folder.parent / "latest.json").unlink()
        folder.mkdir()
        (folder / "run.json").symlink_to(victim)
        (folder.parent / "latest.json").symlink_to(victim)
        os.mkfifo(invoice)
        with pytest.raises(Unavailable, match="a file or link is where a folder belongs"):
            place.sink().send(delivery)
        (folder.parent / "latest.json").unlink()
        place.sink().send(delivery)
        assert victim.read_text() == "precious"
        assert (folder / "run.json").read_bytes() == delivery.body
        assert not (folder / "run.json").is_symlink()
        assert invoice.read_bytes() == PDF

    def test_the_root_itself_may_be_a_link(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "real")
        sink = FilesSink("a", FilesSink.Options(path=tmp_path / "link"), Loopback())
        sink.send(make_delivery())
        sink.close()
        assert len(tree_of(tmp_path / "real")) == 3

    def test_check_applies_the_reserve_of_the_disk(self, place: Place) -> None:
        assert "can be written" in place.sink(reserve=0).check() or "is made" in place.sink(reserve=0).check()
        with pytest.raises(Unavailable, match=r"free, less than the reserve of 1073741824\.0 GiB$"):
            place.sink(reserve=1 << 60).check()

    def test_the_reserve_of_the_disk_is_left_alone(
        self, place: Place, server: ArtifactServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Given a disk with 10 MB beyond the reserve of 1 MB
        disk = Disk(free=11_000_000)
        monkeypatch.setattr(os, "fstatvfs", disk.fstatvfs)
        sink = place.sink(reserve=1_000_000)
        # When a file is announced that does not fit, then nothing of it is asked to be sent
        huge = entry(server.add("/h", b"x" * 10_000_001), b"", file_size=None, checksum=None)
        with pytest.raises(Unavailable, match=r"a file of 9\.5 MiB does not fit") as caught:
            sink.send(make_delivery(sample_run("tsk_1", downloaded_files=[huge])))
        assert caught.value.dependency
        # When a file of unknown length goes on, then it is ended in time, and nothing is left of it
        body = b"x" * 15_000_000
        endless = entry(server.add("/e", body, no_length=True), body, "e", file_size=None, checksum=None)
        disk.grows = True
        with pytest.raises(Unavailable, match=r"B free, less than the reserve of 976\.6 KiB$") as caught:
            sink.send(make_delivery(sample_run("tsk_2", downloaded_files=[endless])))
        assert caught.value.dependency  # other deliveries go on
        assert not [key for key in place.tree() if "/files/" in key]
        # When the reserve itself is touched, then nothing is written, and the sink says so for all
        disk.free, disk.grows = 999_999, False
        with pytest.raises(Unavailable, match="less than the reserve") as caught:
            sink.send(make_delivery())
        assert not caught.value.dependency
        disk.free = 1_100_000
        sink.send(make_delivery())

    def test_a_write_that_fails_half_way_leaves_nothing(self, place: Place, server: ArtifactServer) -> None:
        body = b"x" * 3_000_000
        run = sample_run(downloaded_files=[entry(server.add("/a", body), body, "big.bin")])
        sink = place.sink()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
        try:
            with pytest.raises(Unavailable, match="File too large"):
                sink.send(make_delivery(run))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert [key.rpartition("/")[2] for key in place.tree()] == ["run.json"]

    def test_a_relative_path_is_where_the_process_started(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "later").mkdir()
        monkeypatch.chdir(tmp_path)
        sink = FilesSink("a", FilesSink.Options(path=Path("var/archive")), Loopback())
        monkeypatch.chdir(tmp_path / "later")
        receipt = sink.send(make_delivery())
        sink.close()
        assert receipt.id.startswith(str(tmp_path / "var/archive/task_v1/"))
        assert [Path(key).is_file() for key in receipt.keys] == [True] * 2

    def test_links_are_given_where_people_can_reach_the_folder(
        self, place: Place, server: ArtifactServer, tmp_path: Path
    ) -> None:
        files = [entry(server.add("/a", PDF), filename="Rechnung März.pdf")]
        delivery = make_delivery(sample_run("tsk_1", downloaded_files=files))
        assert place.sink().send(delivery).urls == {}
        urls = place.sink(public_url="https://files.example/runs").send(delivery).urls
        base = "https://files.example/runs/task_v1/tsk_1/"
        (invoice,) = (tmp_path / "deep" / "archive" / "task_v1" / "tsk_1" / "files").iterdir()
        assert urls == {
            "run.json": f"{base}{delivery.event_id}/run.json",
            "Rechnung März.pdf": f"{base}files/{quote(invoice.name)}",
            "manifest.json": f"{base}{delivery.event_id}/manifest.json",
        }

    def test_next_attempt_repairs_what_a_kill_left(self, place: Place, tmp_path: Path, server: ArtifactServer) -> None:
        run = full_run(server)
        gate = threading.Event()
        server.add("/v1/artifacts/a_9/content", b"v" * 4_000_000, gate=gate)
        delivery = make_delivery(run)
        root = tmp_path / "deep" / "archive"
        line = ["-c", _CHILD, str(root), json.dumps(run), delivery.event_id]
        child = warm_python.start(line, tmp_path / "log")

        def begun() -> bool:
            with suppress(FileNotFoundError):  # a file that is complete leaves the folder
                return any(path.stat().st_size > 100_000 for path in (root / ".parts").glob("*"))
            return False

        eventually(lambda: begun() or child.poll() is not None)
        assert child.poll() is None
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        gate.set()
        # What other processes write is left to them
        living = root / ".parts" / "of-another"
        with living.open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            place.sink().send(replace(delivery, attempt=2))
            assert list(root.rglob(".*/*")) == [living]
        living.unlink()
        kept = ["invoice.pdf", "recording.webm", "screenshot.png", "screenshot.png"]
        assert sorted(map(plain, place.tree())) == sorted([*kept, "latest.json", "manifest.json", "run.json"])

    def test_files_and_names_are_synced_before_the_receipt(
        self, place: Place, tmp_path: Path, server: ArtifactServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Kill -9 can't show it, for the page cache survives that: it is in the order of the calls."""
        fsync, rename, mkdir = os.fsync, os.rename, os.mkdir
        synced: set[tuple[int, int]] = set()  # (inode, size) of files, as synced
        unsynced: set[int] = set()  # folders with a new name in them
        renamed: list[str] = []

        def synced_now(descriptor: int) -> None:
            fsync(descriptor)
            status = os.fstat(descriptor)
            synced.add((status.st_ino, status.st_size))
            unsynced.discard(status.st_ino)

        def named_now(source: str, name: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
            status = os.stat(source, dir_fd=src_dir_fd)
            assert (status.st_ino, status.st_size) in synced, f"{name} has its name before it is on disk"
            rename(source, name, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
            renamed.append(name)
            unsynced.add(os.fstat(dst_dir_fd).st_ino)

        def made_now(name: str, mode: int, *, dir_fd: int) -> None:
            mkdir(name, mode, dir_fd=dir_fd)
            unsynced.add(os.fstat(dir_fd).st_ino)

        (tmp_path / "deep" / "archive").mkdir(parents=True)
        for name, call in (("fsync", synced_now), ("rename", named_now), ("mkdir", made_now)):
            monkeypatch.setattr(os, name, call)
        receipt = place.sink().send(make_delivery(full_run(server)))
        assert unsynced == set(), "folders whose names are not on disk"
        assert len(renamed) == len(receipt.keys) + 1, "and latest.json"


_CHILD = """
import json, sys
from pathlib import Path
from dataclasses import replace
from handlers.testing.conformance import make_delivery
from handlers.files import FilesSink
from tests.support.mirror import Loopback
root, run, event = sys.argv[1:]
sink = FilesSink("a", FilesSink.Options(path=Path(root)), Loopback())
sink.send(replace(make_delivery(json.loads(run)), event_id=event))
"""


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (errno.ENOSPC, Unavailable, "the disk that holds /data is full"),
        (errno.EDQUOT, Unavailable, "is full"),
        (errno.EXDEV, Unavailable, "/data must be one file system"),
        (errno.EROFS, Unavailable, "Read-only file system"),
        (errno.EACCES, Unavailable, "Permission denied"),
        (errno.EIO, Unavailable, "Input/output error"),
        (errno.ENAMETOOLONG, Refused, "too long"),
    ],
)
def test_each_trouble_of_a_disk_is_one_clear_line(code: int, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind) as caught, translated_errors(Path("/data")):
        raise OSError(code, os.strerror(code), "/data/secret-name")
    assert words in str(caught.value)
    assert "secret-name" not in str(caught.value)


def test_sizes_are_written_as_people_write_them() -> None:
    assert FilesSink.Options.model_validate({"path": "x", "max_artifact_bytes": "2GiB"}).max_artifact_bytes == 2 << 30


def test_a_file_that_was_replaced_is_not_read_on(tmp_path: Path) -> None:
    # Given a file of which a reader knows the size
    sink = FilesSink("archive", FilesSink.Options(path=tmp_path), Loopback())
    receipt = sink.send(make_delivery(sample_run()))
    (key,) = [key for key in receipt.keys if key.endswith("/run.json")]
    file = sink.find_file(key)
    assert file is not None
    # When another takes its place
    other = tmp_path / "other"
    other.write_bytes(b"x" * file.size)
    other.replace(key)
    # Then no part of that is taken for the first one's
    with pytest.raises(Unavailable, match="replaced or removed"):
        list(file.chunks(0, file.size))
    # And what a link leads to is no file of ours
    Path(key).unlink()
    Path(key).symlink_to("/etc/passwd")
    with pytest.raises(Unavailable):
        sink.find_file(key)
    sink.close()


class TestContentCoding:
    def stored(self, server: ArtifactServer, root: Path, coding: str) -> str:
        """Store a run's file that is served with a content coding. Returns its path."""
        url = server.add("/a", PDF, headers={"content-encoding": coding} if coding else {})
        sink = FilesSink("archive", FilesSink.Options(path=root), Loopback())
        receipt = sink.send(make_delivery(sample_run("tsk_1", downloaded_files=[entry(url)])))
        sink.close()
        (key,) = [key for key in receipt.keys if plain(key) == "invoice.pdf"]
        return key

    def coding(self, root: Path, key: str) -> str:
        sink = FilesSink("archive", FilesSink.Options(path=root), Loopback())
        file = sink.find_file(key)
        sink.close()
        assert file is not None
        return file.encoding

    def test_it_survives_a_copy_of_the_folder(self, server: ArtifactServer, tmp_path: Path) -> None:
        # Given a file that came with a content coding
        key = self.stored(server, tmp_path / "one", "br")
        # When the folder is copied
        shutil.copytree(tmp_path / "one", tmp_path / "two", copy_function=shutil.copyfile)
        # Then the copy has it too
        copied = key.replace(f"{tmp_path}/one/", f"{tmp_path}/two/")
        assert (self.coding(tmp_path / "two", copied), Path(copied).read_bytes()) == ("br", PDF)

    def test_a_file_that_is_written_again_without_one_has_none(self, server: ArtifactServer, tmp_path: Path) -> None:
        key = self.stored(server, tmp_path, "gzip")
        Path(key).unlink()
        assert self.stored(server, tmp_path, "") == key
        assert self.coding(tmp_path, key) == ""

    def test_what_is_planted_in_its_place_is_no_header(self, server: ArtifactServer, tmp_path: Path) -> None:
        key = self.stored(server, tmp_path, "gzip")
        (note,) = Path(key).parent.glob(".*")
        for planted in (b"gzip\r\nset-cookie: a=b", b"\xff", b"x" * 41):
            note.write_bytes(planted)
            assert self.coding(tmp_path, key) == ""
