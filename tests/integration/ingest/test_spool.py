"""The spool on a real disk: what was appended is found again, by this process or the next, whatever ended the last."""

from __future__ import annotations

import itertools
import logging
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from receiver.domain.event import Event, event_id
from receiver.domain.frame import frame_of
from receiver.errors import NotStarted
from receiver.ingest.spool import Spool, SpoolFull, usage
from tests.support.inbox import event, events, open_spool
from tests.support.paths import ROOT
from tests.support.waiting import eventually


def drained(spool: Spool, count: int = 10) -> list[Event]:
    """Everything in the spool, taken out in batches, while it says that there is any: so the receiver does it."""
    found: list[Event] = []
    while spool.events:
        batch = spool.peek(count)
        assert batch.last
        found += batch.events
        spool.done(batch)
    return found


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = open_spool(tmp_path)
    yield spool
    spool.close()


def file_of(path: Path) -> Path:
    return path / "spool" / "events.db"


def damage(path: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(file_of(path), isolation_level=None)) as connection:
        connection.execute(statement, values)


def test_events_come_out_as_they_went_in_and_in_order(spool: Spool) -> None:
    body = bytes(range(256)) * 9
    wanted = [event(0), Event(event_id("other", body), "other", body, 1600000001.5, "poll"), *events(1, 50)]
    for at in range(0, len(wanted), 7):
        spool.append(wanted[at : at + 7])
    assert spool.events == len(wanted)
    assert drained(spool) == wanted
    assert (spool.events, spool.bytes) == (0, 0)


def test_a_batch_is_bounded_in_number_and_bytes_but_never_empty(spool: Spool) -> None:
    spool.append([event(number, 1000) for number in range(10)])
    assert len(spool.peek(4).events) == 4
    assert len(spool.peek(100, 2500).events) == 2
    assert len(spool.peek(100, 1).events) == 1


def test_events_appended_while_it_drains_come_after(spool: Spool) -> None:
    spool.append(events(0, 4))
    batch = spool.peek(2)
    spool.append(events(4, 6))
    spool.done(batch)
    assert drained(spool) == events(2, 6)


def test_what_a_stopped_process_left_is_found_by_the_next(tmp_path: Path) -> None:
    first = open_spool(tmp_path)
    first.append(events(0, 10))
    first.done(first.peek(4))
    first.close()
    second = open_spool(tmp_path)
    second.append(events(10, 12))
    assert second.events == 8
    assert drained(second, 3) == events(4, 12)
    second.close()


def test_two_receivers_drain_what_both_append_and_lose_none(tmp_path: Path) -> None:
    first, second = open_spool(tmp_path), open_spool(tmp_path)
    first.append(events(0, 3))
    second.append(events(3, 5))
    batch = first.peek(2)
    assert batch.events == second.peek(2).events == tuple(events(0, 2))
    first.done(batch)
    first.close()  # in the middle of it
    assert drained(second) == events(2, 5)
    second.close()


def test_an_empty_spool_gives_its_disk_back(spool: Spool, tmp_path: Path) -> None:
    for number in range(8):
        spool.append([event(number, 1 << 20)])
    drained(spool)
    assert file_of(tmp_path).stat().st_size < 1 << 20


def test_nothing_that_was_appended_is_lost_by_kill_9(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.support.inbox import open_spool, events\n"
        "spool = open_spool(Path(sys.argv[1]))\n"
        "for n in range(10**6): spool.append(events(n * 5, n * 5 + 5)); print(n * 5 + 5, flush=True)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE)
    assert child.stdout is not None
    for _ in range(50):
        child.stdout.readline()
    child.send_signal(signal.SIGKILL)
    said = child.stdout.read().split()
    child.wait()
    child.stdout.close()
    acked = int(said[-1]) if said else 250
    spool = open_spool(tmp_path)
    found = drained(spool)
    spool.close()
    assert found[:acked] == events(0, acked)
    assert len(found) - acked <= 5


# --- A file that is deleted or damaged


@pytest.mark.parametrize("gone", ["events.db*", "events.db", "events.db-wal", "*"])
def test_no_event_goes_into_a_file_that_was_deleted(spool: Spool, tmp_path: Path, gone: str) -> None:
    # Given a spool with events, whose file is deleted while it is open
    spool.append(events(0, 3))
    for path in (tmp_path / "spool").glob(gone):
        path.unlink()
    # When more events come
    spool.append(events(3, 5))
    # Then another process finds all of them
    spool.close()
    other = open_spool(tmp_path)
    assert drained(other) == events(0, 5)
    other.close()


def test_no_event_is_lost_with_files_deleted_during_commits(spool: Spool, tmp_path: Path) -> None:
    # Given a program that deletes the spool's file again and again
    ended = threading.Event()

    def delete() -> None:
        while not ended.wait(0.05):
            for path in (tmp_path / "spool").glob("events.db*"):
                path.unlink(missing_ok=True)

    thread = threading.Thread(target=delete)
    thread.start()
    # When events are added meanwhile
    kept = []
    try:
        for number in itertools.count():
            if len(kept) == 30:
                break
            with suppress(OSError):  # it was deleted twice in one commit
                spool.append([event(number)])
                kept.append(event(number).id)
    finally:
        ended.set()
        thread.join()
    # Then another process finds each one that was taken
    spool.count()
    spool.close()
    other = open_spool(tmp_path)
    assert set(kept) <= {each.id for each in drained(other)}
    other.close()


def test_a_folder_that_was_removed_is_made_again(spool: Spool, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "spool")
    assert spool.peek().events == ()
    shutil.rmtree(tmp_path / "spool")
    spool.check()
    shutil.rmtree(tmp_path / "spool")
    spool.append(events(0, 2))
    assert drained(spool) == events(0, 2)
    assert (tmp_path / "spool").stat().st_mode & 0o777 == 0o700
    assert file_of(tmp_path).stat().st_mode & 0o777 == 0o600


def test_a_damaged_row_is_kept_for_a_person_and_costs_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool = open_spool(tmp_path)
    spool.append([event(0), event(1, 5000), event(2)])
    spool.close()
    damage(tmp_path, "UPDATE events SET frame = ? WHERE id = 2", frame_of(event(1, 5000)).replace(b"xxxx", b"xxyx", 1))
    spool = open_spool(tmp_path)
    assert spool.peek(10, 1000).events == (event(0),)
    assert drained(spool) == [event(0), event(2)]
    assert spool.events == 0
    spool.close()
    assert usage(tmp_path / "spool") == (0, 0, 1, 0)
    assert caplog.text.count("spool.damaged row=2 ") == 1
    with closing(sqlite3.connect(file_of(tmp_path))) as connection:
        ((frame,),) = connection.execute("SELECT frame FROM events").fetchall()
    assert event(1, 5000).id.encode() in frame


@pytest.mark.parametrize("content", [b"something else altogether" * 100, b"SQLite format 3\0" + bytes(5000)])
def test_a_file_that_sqlite_cannot_read_is_set_aside(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "spool"
    folder.mkdir()
    file_of(tmp_path).write_bytes(content)
    with pytest.raises(NotStarted, match="was set aside"):
        open_spool(tmp_path)
    spool = open_spool(tmp_path)
    spool.append(events(0, 1))
    assert drained(spool) == events(0, 1)
    spool.close()
    (aside,) = folder.glob("events-*.damaged")
    assert aside.read_bytes() == content
    assert usage(folder) == (0, 0, 1, 0)
    assert "events.damaged file=" in caplog.text


def test_file_damaged_while_open_is_set_aside_and_replaced(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    spool.append([event(number, 3000) for number in range(50)])
    spool.close()
    spool = open_spool(tmp_path)
    overwrite_pages(tmp_path)
    found = False
    for _ in range(10):
        try:
            spool.append(events(0, 1))
            spool.count()
            found = found or events(0, 1)[0] in drained(spool)
        except OSError:
            continue  # it was set aside just now
    assert found
    spool.close()
    assert usage(tmp_path / "spool").set_aside > 0


def overwrite_pages(path: Path) -> None:
    with file_of(path).open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 400_000)


def appended(spool: Spool, *given: Event) -> None:
    """Append these. Each try that meets the damage is refused, as a sender sees it."""

    def append() -> bool:
        with suppress(OSError):
            spool.append(given)
            return True
        return False

    eventually(append)


def test_drain_keeps_events_that_replace_a_damaged_file(tmp_path: Path) -> None:
    # Given a drain that has read a batch, and a file whose pages are overwritten meanwhile
    spool = open_spool(tmp_path)
    spool.append([event(number, 3000) for number in range(60)])
    spool.close()
    spool = open_spool(tmp_path)
    batch = spool.peek()
    overwrite_pages(tmp_path)

    # When events are acknowledged until a new file has them, and the drain ends
    acknowledged = 0
    while not list((tmp_path / "spool").glob("*.damaged")):
        appended(spool, event(100 + acknowledged))
        acknowledged += 1
    newest = event(100 + acknowledged - 1)
    appended(spool, event(1000))
    spool.done(batch)

    # Then the new file still has its events
    left = drained(spool)
    assert event(1000) in left
    assert newest in left
    spool.close()


def append_elsewhere(path: Path, count: int) -> None:
    """Append events in another process."""
    code = (
        "import sys; from pathlib import Path; from tests.support.inbox import open_spool, events\n"
        "open_spool(Path(sys.argv[1])).append(events(100, 100 + int(sys.argv[2])))"
    )
    subprocess.run([sys.executable, "-c", code, str(path), str(count)], cwd=ROOT, check=True)


def test_drain_keeps_events_of_a_file_another_process_made(spool: Spool, tmp_path: Path) -> None:
    # Given a drain that has read a batch
    spool.append(events(0, 5))
    batch = spool.peek()
    # When the file is deleted, and another receiver makes it again and acknowledges events
    for path in (tmp_path / "spool").glob("events.db*"):
        path.unlink()
    append_elsewhere(tmp_path, 3)
    # Then the end of the drain removes none of these
    spool.done(batch)
    assert {each.id for each in drained(spool)} >= {each.id for each in events(100, 103)}


def test_damaged_row_condemns_no_event_of_another_file(tmp_path: Path) -> None:
    # Given a spool with a damaged row
    spool = open_spool(tmp_path)
    spool.append(events(0, 2))
    spool.close()
    damage(tmp_path, "UPDATE events SET frame = x'00' WHERE id = 1")
    spool = open_spool(tmp_path)

    # When another process makes the file again just as this row is found
    def replace_file(_: object) -> None:
        for path in (tmp_path / "spool").glob("events.db*"):
            path.unlink()
        append_elsewhere(tmp_path, 3)

    log = logging.getLogger("runhook.spool")
    handler = logging.Handler()
    handler.emit = replace_file  # type: ignore[method-assign]
    log.addHandler(handler)
    found = spool.peek()
    log.removeHandler(handler)
    spool.done(found)

    # Then none of its events is set aside
    assert {each.id for each in drained(spool)} >= {each.id for each in events(100, 103)}
    spool.close()


# --- Its limits


def test_full_spool_takes_events_again_when_drained(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, max_bytes=1 << 20)
    spool.append([event(0, 700_000)])
    with pytest.raises(SpoolFull, match=r"spool\.max_bytes"):
        spool.append([event(1, 700_000)])
    spool.append([event(2, 1000)])
    assert drained(spool) == [event(0, 700_000), event(2, 1000)]
    spool.append([event(1, 700_000)])
    spool.close()


def test_the_size_counts_what_other_processes_keep(tmp_path: Path) -> None:
    first, second = open_spool(tmp_path, 1 << 20), open_spool(tmp_path, 1 << 20)
    first.append([event(0, 700_000)])
    second.count()
    with pytest.raises(SpoolFull):
        second.append([event(1, 700_000)])
    first.close()
    second.close()


def test_it_leaves_the_reserve_of_free_disk_alone(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, reserve_bytes=shutil.disk_usage(tmp_path).free * 2)
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


def test_failed_write_keeps_no_event_and_the_next_succeeds(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    spool.append(events(0, 2))
    with small_files(200_000), pytest.raises(OSError, match=r"I/O error|full"):
        spool.append([event(2, 150_000), event(3, 150_000)])
    spool.append(events(4, 6))
    assert drained(spool) == [*events(0, 2), *events(4, 6)]
    spool.close()


def test_a_directory_that_cannot_be_used_is_reported_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a file")
    with pytest.raises(NotStarted, match=r"can't use the spool .*spool: .*; set RUNHOOK_DATA"):
        open_spool(tmp_path)


def test_check_writes_for_real(spool: Spool, tmp_path: Path) -> None:
    spool.check()
    with small_files(0), pytest.raises(OSError, match="error"):
        spool.check()


def test_its_usage_tells_whether_a_receiver_runs(tmp_path: Path) -> None:
    assert usage(tmp_path / "spool") == (0, 0, 0, 0)
    spool = open_spool(tmp_path)
    spool.append([event(0, 10_000)])
    open_ = usage(tmp_path / "spool")
    assert (open_.bytes > 10_000, open_.left) == (True, 0)
    spool.close()
    closed = usage(tmp_path / "spool")
    assert closed.left == closed.bytes == open_.bytes
