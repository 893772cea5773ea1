"""The spool on a real disk: what was appended is found again, by this process or the next, whatever killed the last."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from receiver.domain.event import Event
from receiver.errors import NotStarted
from receiver.ingest.spool import SEGMENT_BYTES, Spool, SpoolFull, free_bytes
from receiver.ingest.spool_segment import HEADER, Segment, frame
from tests.support.paths import ROOT
from tests.support.spool import event, events, open_spool


def drained(spool: Spool, count: int = 10) -> list[Event]:
    """Everything in the spool, taken out in batches, while it says that there is any: so the receiver does it."""
    found: list[Event] = []
    while spool.events:
        batch = spool.peek(count)
        found += batch.events
        spool.done(batch)
    assert all(segment.empty for partition in spool._partitions() for segment in partition.segments)
    return found


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = open_spool(tmp_path)
    yield spool
    spool.close()


def descriptors() -> int:
    """How many files this process has open."""
    return len(list(Path("/dev/fd").iterdir()))


def files(path: Path) -> list[str]:
    return sorted(each.name for each in path.rglob("*.*"))


def test_events_come_out_as_they_went_in_and_in_order(spool: Spool) -> None:
    wanted = [event(0), Event("evt_" + 32 * "e", "other", bytes(range(256)) * 9, 1600000001.5, "poll"), *events(1, 50)]
    for at in range(0, len(wanted), 7):
        spool.append(wanted[at : at + 7])
    assert spool.events == len(wanted)
    assert drained(spool) == wanted
    assert (spool.events, spool.bytes) == (0, 0)


def test_an_empty_spool_has_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    assert spool.peek().events == ()
    spool.close()
    assert [path.name for path in (tmp_path / "spool").iterdir()] == ["lock"]


def test_what_was_appended_is_on_disk_with_the_names_that_lead_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a disk that tells what is synced: kill -9 can't, since the page cache survives that
    synced: list[int] = []
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, lambda handle: synced.append(os.fstat(handle).st_ino))
    spool = open_spool(tmp_path / "var")
    # When events are appended to a spool that is new
    spool.append(events(0, 2))
    # Then these are synced: each folder that has a new one, the file, the partition that has it, and the events
    (path,) = tmp_path.rglob("*.seg")
    partition, folder, data = path.parents[:3]
    assert synced == [each.stat().st_ino for each in (data.parent, data, folder, path, partition, path)]
    # And further ones need no name
    spool.append(events(2, 3))
    assert synced[6:] == [path.stat().st_ino]
    # And a proof that the disk takes events is synced as well
    spool.check()
    assert synced[7:] == [(partition / "lock").stat().st_ino]
    spool.close()


def test_peeking_takes_nothing_out(spool: Spool) -> None:
    spool.append(events(0, 3))
    assert spool.peek().events == spool.peek().events == tuple(events(0, 3))


def test_a_batch_is_bounded_in_number_and_bytes_but_never_empty(spool: Spool) -> None:
    spool.append([event(number, 1000) for number in range(10)])
    assert len(spool.peek(4).events) == 4
    assert len(spool.peek(100, 2500).events) == 3
    assert len(spool.peek(100, 1).events) == 1


def test_events_appended_while_it_drains_come_after(spool: Spool) -> None:
    spool.append(events(0, 4))
    batch = spool.peek(2)
    spool.append(events(4, 6))
    spool.done(batch)
    assert drained(spool) == events(2, 6)


def test_it_goes_on_in_a_new_file_when_one_is_large_and_deletes_the_drained_one(spool: Spool, tmp_path: Path) -> None:
    large = [event(number, SEGMENT_BYTES // 2) for number in range(5)]
    for each in large:
        spool.append([each])
    assert len(files(tmp_path)) == 3
    assert drained(spool, 1) == large
    assert files(tmp_path) == []


def test_what_a_stopped_process_left_is_found_by_the_next(tmp_path: Path) -> None:
    opened = descriptors()
    first = open_spool(tmp_path)
    first.append(events(0, 10))
    first.close()
    second = open_spool(tmp_path)
    second.append(events(10, 12))
    assert second.events == 12
    assert drained(second, 3) == events(0, 12)
    second.close()
    assert [path.name for path in (tmp_path / "spool").iterdir()] == ["lock"]
    assert descriptors() == opened


def test_what_was_drained_before_a_stop_is_not_drained_again(tmp_path: Path) -> None:
    first = open_spool(tmp_path)
    first.append(events(0, 10))
    first.done(first.peek(4))
    assert first.events == 6
    first.close()
    second = open_spool(tmp_path)
    assert drained(second) == events(4, 10)
    second.close()


def test_a_partition_whose_owner_lives_is_left_alone_and_adopted_when_it_is_gone(tmp_path: Path) -> None:
    first, second = open_spool(tmp_path), open_spool(tmp_path)
    first.append(events(0, 3))
    second.append(events(3, 5))
    assert second.adopt() == 0
    assert drained(second) == events(3, 5)
    first.close()
    assert second.adopt() == 3
    assert drained(second) == events(0, 3)
    second.close()


def test_what_a_dead_process_left_is_opened_little_by_little_and_drained_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a process that is gone, and left six files of two events each
    monkeypatch.setattr("receiver.ingest.spool.SEGMENT_BYTES", 1)
    first, second = open_spool(tmp_path), open_spool(tmp_path)
    for number in range(0, 12, 2):
        first.append(events(number, number + 2))
    left = first.bytes
    first.close()
    # When another takes them over
    assert second.adopt(2) == 4
    second.append(events(12, 14))
    # Then it opens no more than asked, and knows of the rest
    assert (second.whole, second.events, second.bytes) == (False, 6, left + second._own.bytes)  # type: ignore[union-attr]
    # And the rest has its turn before what came later, also when nobody opens it beforehand
    assert drained(second, 3) == events(0, 14)
    assert (second.whole, second.events) == (True, 0)
    assert second.adopt(2) == 0
    second.close()
    assert files(tmp_path) == []


def test_a_file_that_can_not_be_read_holds_up_no_other_and_is_left_for_the_next_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("receiver.ingest.spool.SEGMENT_BYTES", 1)
    first = open_spool(tmp_path)
    for number in range(0, 6, 2):
        first.append(events(number, number + 2))
    first.close()
    before = Segment.open

    def failing(path: Path) -> Segment:
        if path.name == "00000002.seg":
            raise OSError(5, "Input/output error")
        return before(path)

    with monkeypatch.context() as disk:
        disk.setattr(Segment, "open", failing)
        second = open_spool(tmp_path)
        assert drained(second) == [*events(0, 2), *events(4, 6)]
        second.close()
    assert caplog.text.count("spool.unreadable file=") == 1
    third = open_spool(tmp_path)
    assert drained(third) == events(2, 4)
    third.close()
    assert files(tmp_path) == []


def test_nothing_that_was_appended_is_lost_by_kill_9(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.support.spool import open_spool, events\n"
        "spool = open_spool(Path(sys.argv[1]))\n"
        "for n in range(10**6): spool.append(events(n * 5, n * 5 + 5)); print(n * 5 + 5, flush=True)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE)
    assert child.stdout is not None
    for _ in range(200):
        child.stdout.readline()
    child.send_signal(signal.SIGKILL)
    said = child.stdout.read().split()
    child.wait()
    child.stdout.close()
    acked = int(said[-1]) if said else 1000
    spool = open_spool(tmp_path)
    found = drained(spool)
    spool.close()
    assert found[:acked] == events(0, acked)
    assert len(found) - acked <= 5


@pytest.mark.parametrize("cut", [1, 5, 8, 9, 30, -16, -1])
def test_a_torn_end_is_passed_over(tmp_path: Path, cut: int) -> None:
    spool = open_spool(tmp_path)
    spool.append(events(0, 3))
    spool.close()
    (path,) = (tmp_path / "spool").rglob("*.seg")
    with path.open("ab") as file:
        file.write(frame(event(3))[:cut])
    spool = open_spool(tmp_path)
    assert drained(spool) == events(0, 3)
    spool.close()
    assert files(tmp_path) == []


def test_zeros_that_a_power_cut_left_at_the_end_are_no_events(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    spool.append(events(0, 3))
    spool.close()
    (path,) = (tmp_path / "spool").rglob("*.seg")
    os.truncate(path, path.stat().st_size + 4096)
    spool = open_spool(tmp_path)
    assert drained(spool) == events(0, 3)
    spool.close()


def test_a_damaged_frame_that_is_larger_than_a_batch_costs_no_other(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    spool.append([event(0, 5000), *events(1, 4)])
    spool.close()
    (path,) = (tmp_path / "spool").rglob("*.seg")
    content = bytearray(path.read_bytes())
    content[HEADER + 4000] ^= 1
    path.write_bytes(content)
    spool = open_spool(tmp_path)
    assert spool.peek(10, 1000).events == (event(1),)
    assert drained(spool) == events(1, 4)
    spool.close()


def test_a_frame_that_holds_no_event_is_kept_for_a_person_and_costs_no_other(tmp_path: Path) -> None:
    # Given three frames whose checksums are right, and one of them is none of ours
    stranger = Event("evt_1", "skyvern", b"whose id this is not", 1.7e9)
    spool = open_spool(tmp_path)
    spool.append([event(0), stranger, event(2)])
    spool.close()
    # When the next process drains them
    spool = open_spool(tmp_path)
    assert drained(spool) == [event(0), event(2)]
    spool.close()
    # Then the third one is on disk still
    (left,) = (tmp_path / "spool").rglob("*.damaged")
    assert stranger.body in left.read_bytes()


def test_a_damaged_frame_is_passed_over_and_its_file_set_aside(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    spool.append(events(0, 5))
    spool.close()
    (path,) = (tmp_path / "spool").rglob("*.seg")
    content = bytearray(path.read_bytes())
    content[HEADER + len(frame(event(0))) + 12] ^= 1
    path.write_bytes(content)
    spool = open_spool(tmp_path)
    assert drained(spool) == [event(0), *events(2, 5)]
    spool.close()
    assert [name.rpartition(".")[2] for name in files(tmp_path)] == ["damaged"]


# The last one leads to the end of the next frame.
@pytest.mark.parametrize("length", [0, 3, 1 << 20, 0xFFFFFFFF, 2 * len(frame(event(0))) - 8])
@pytest.mark.parametrize("hurt", [0, 2, 4])
def test_a_damaged_length_loses_nothing_that_can_still_be_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, length: int, hurt: int
) -> None:
    # Given five events on disk, and a length that the disk has changed
    spool = open_spool(tmp_path)
    spool.append(events(0, 5))
    spool.close()
    (path,) = (tmp_path / "spool").rglob("*.seg")
    content = bytearray(path.read_bytes())
    place = HEADER + sum(len(frame(event(number))) for number in range(hurt))
    content[place : place + 4] = length.to_bytes(4, "little")
    path.write_bytes(content)
    # When the next process drains it
    spool = open_spool(tmp_path)
    found = drained(spool, 2)
    spool.close()
    # Then all five are there, the file is kept for a person to examine, and a line says so
    assert found == events(0, 5)
    assert [name.rpartition(".")[2] for name in files(tmp_path)] == ["damaged"]
    assert [record.message.split()[0] for record in caplog.records if record.levelname == "ERROR"] == ["spool.damaged"]


@pytest.mark.parametrize("header", [b"RHSPOOL?" + bytes(8), b"RHSPOOL1" + b"\xff" * 8])
def test_a_damaged_header_loses_nothing(tmp_path: Path, header: bytes) -> None:
    spool = open_spool(tmp_path)
    spool.append(events(0, 5))
    spool.close()
    (path,) = (tmp_path / "spool").rglob("*.seg")
    path.write_bytes(header + path.read_bytes()[HEADER:])
    spool = open_spool(tmp_path)
    assert drained(spool) == events(0, 5)
    spool.close()
    assert [name.rpartition(".")[2] for name in files(tmp_path)] == ["damaged"]


def test_a_file_of_which_nothing_can_be_read_is_kept_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # Given an event on disk, of whose frame the disk has changed the beginning: its length leads into its body
    spool = open_spool(tmp_path)
    spool.append([event(0, 500)])
    spool.close()
    (path,) = (tmp_path / "spool").rglob("*.seg")
    content = bytearray(path.read_bytes())
    content[HEADER : HEADER + 100] = (99).to_bytes(4, "little") + b"?" * 96
    path.write_bytes(content)
    # When the next process drains its spool
    spool = open_spool(tmp_path)
    assert drained(spool) == []
    assert spool.events == 0
    # Then it has set the file aside, and a line says so
    assert [name.rpartition(".")[2] for name in files(tmp_path)] == ["damaged"]
    assert [record.message.split()[0] for record in caplog.records if record.levelname == "ERROR"] == ["spool.damaged"]
    spool.close()


# Bytes that are left of the event before: with 0 the hole begins with the length of a frame.
@pytest.mark.parametrize("before", [20, 0])
def test_a_hole_in_the_middle_costs_only_what_was_in_it(tmp_path: Path, before: int) -> None:
    spool = open_spool(tmp_path)
    spool.append([*events(0, 3), event(3, 3000), *events(4, 9)])
    spool.close()
    (path,) = (tmp_path / "spool").rglob("*.seg")
    content = bytearray(path.read_bytes())
    place = HEADER + sum(len(frame(event(number))) for number in range(3))
    content[place - before : place + 1000] = bytes(before + 1000)
    path.write_bytes(content)
    spool = open_spool(tmp_path)
    readable = [*events(0, 2 if before else 3), *events(4, 9)]
    assert spool.events == len(readable)
    assert drained(spool, 3) == readable
    spool.close()


@pytest.mark.parametrize("content", [b"", b"RHSP", b"something else altogether"])
def test_a_file_that_is_no_segment_holds_nothing_up(tmp_path: Path, content: bytes) -> None:
    partition = tmp_path / "spool" / "0-1"
    partition.mkdir(parents=True)
    (partition / "lock").touch()
    (partition / "00000001.seg").write_bytes(content)
    spool = open_spool(tmp_path)
    assert drained(spool) == []
    # Then it is set aside, unless it is empty
    assert [name.rpartition(".")[2] for name in files(tmp_path)] == (["damaged"] if content else [])
    spool.append(events(0, 1))
    assert drained(spool) == events(0, 1)
    spool.close()


def test_it_takes_no_more_than_its_size_and_takes_again_when_drained(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, max_bytes=10_000)
    spool.append([event(0, 6000)])
    with pytest.raises(SpoolFull, match=r"spool\.max_bytes"):
        spool.append([event(1, 6000)])
    spool.append([event(2, 1000)])
    assert drained(spool) == [event(0, 6000), event(2, 1000)]
    spool.append([event(1, 6000)])
    spool.close()


def test_the_size_counts_what_other_processes_keep(tmp_path: Path) -> None:
    first, second = open_spool(tmp_path, 10_000), open_spool(tmp_path, 10_000)
    first.append([event(0, 6000)])
    with pytest.raises(SpoolFull):
        second.append([event(1, 6000)])
    first.close()
    second.close()


def test_it_leaves_the_reserve_of_free_disk_alone(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, reserve_bytes=free_bytes(tmp_path) * 2)
    assert spool.free() < 0
    with pytest.raises(SpoolFull, match=r"spool\.reserve_bytes"):
        spool.append(events(0, 1))
    with pytest.raises(SpoolFull):
        spool.check()
    spool.close()


@contextmanager
def small_files(most: int) -> Iterator[None]:
    """A disk on which no file gets larger than `most` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)


def test_a_write_that_fails_keeps_none_of_its_events_and_the_next_goes_on(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    spool.append(events(0, 2))
    with small_files(20_000), pytest.raises(OSError, match="File too large"):
        spool.append([event(2, 15_000), event(3, 15_000)])
    # Then the next go to a file of their own: what the disk has of the first one past its good events is not known
    spool.append(events(4, 6))
    assert files(tmp_path) == ["00000001.seg", "00000002.seg"]
    assert drained(spool) == [*events(0, 2), *events(4, 6)]
    spool.close()


@pytest.mark.parametrize("stays", [False, True])
def test_a_file_that_could_not_be_begun_holds_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stays: bool
) -> None:
    # Given a disk that takes a name and no byte of its file, and perhaps does not let it go either
    opened = descriptors()
    spool = open_spool(tmp_path)
    with monkeypatch.context() as disk, small_files(0):
        if stays:
            disk.setattr(Path, "unlink", lambda _: tmp_path.rmdir())
        with pytest.raises(OSError, match="File too large"):
            spool.append(events(0, 1))
    # When it is well again
    spool.append(events(1, 2))
    # Then the spool is as well, and neither files nor descriptors are left
    assert drained(spool) == events(1, 2)
    spool.close()
    assert files(tmp_path) == (["00000001.seg"] if stays else [])
    assert descriptors() == opened


def test_a_directory_that_cannot_be_used_is_reported_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a file")
    with pytest.raises(NotStarted, match=r"can't use the spool .*spool: Not a directory; set RUNHOOK_DATA"):
        open_spool(tmp_path)


def test_check_writes_for_real(spool: Spool, tmp_path: Path) -> None:
    spool.check()
    (lock,) = (tmp_path / "spool").glob("*/lock")
    assert lock.read_bytes().isdigit()


def test_a_segment_that_was_left_takes_no_more(tmp_path: Path) -> None:
    path = tmp_path / "00000001.seg"
    Segment.create(path).close()
    left = Segment.open(path)
    assert left.sealed
    assert left.empty
    left.close()
