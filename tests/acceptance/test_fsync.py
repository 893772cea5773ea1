"""On disk before 202, seen in the system calls. Kill -9 can't show it: the page cache survives that."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from receiver.ledger import Ledger
from tests.servers.receiver import Load, ReceiverProcess, body
from tests.servers.valkey import ValkeyProcess, free_port
from tests.support.inbox import all_arrive, ids_in_inbox
from tests.support.ledger import new_event, record, with_tables
from tests.support.open_files import slow_disk, strace
from tests.support.waiting import eventually

CALLS = "read,recvfrom,recvmsg,write,writev,sendto,sendmsg,pwrite64,fsync,fdatasync"
_LINE = re.compile(r"(?:\[pid +)?(\d+)\]? +(.*)")


@dataclass
class Trace:
    """What strace saw, in the order in which it happened."""

    path: Path
    lines: list[tuple[int, str]] = field(default_factory=list)

    def load(self) -> None:
        unfinished: dict[int, str] = {}
        for text in self.path.read_text(errors="replace").splitlines():
            found = _LINE.fullmatch(text)
            if not found:
                continue
            pid, call = int(found[1]), found[2]
            if call.endswith("<unfinished ...>"):
                unfinished[pid] = call.removesuffix("<unfinished ...>")
                continue
            if call.startswith("<... ") and pid in unfinished:
                call = unfinished.pop(pid) + call.partition("resumed>")[2]  # it counts from its end on
            self.lines.append((pid, call))

    def first(self, pattern: str, start: int = 0) -> int:
        """The place of the first call at or after `start` that matches; the end of the trace if there is none."""
        wanted = re.compile(pattern)
        places = (place for place in range(start, len(self.lines)) if wanted.search(self.lines[place][1]))
        return next(places, len(self.lines))

    def shows(self, pattern: str) -> bool:
        """Whether a call matches."""
        return self.first(pattern) < len(self.lines)

    def synced_before_answer(self, event: str, taken: str) -> bool:
        """Whether a sync ended after `event` was taken (a call that matches `taken`) and before its 202 went out."""
        taken_at = self.first(rf"^(?:{taken})\(.*{event}")
        synced_at = self.first(r"^f(?:data)?sync\(\d+ ?\) += 0", taken_at)
        answered_at = self.first(rf"^(?:write|writev|sendto|sendmsg)\(.*event_id.*{event}")
        assert taken_at < len(self.lines), "the trace does not show the event; it proves nothing"
        assert answered_at < len(self.lines), "the trace does not show the answer; it proves nothing"
        return synced_at < answered_at


@contextmanager
def traced(path: Path, *pids: int) -> Iterator[Trace]:
    """Trace these processes while the block runs."""
    trace = Trace(path)
    with strace(pids, "-s", "1000000", "-e", f"trace={CALLS}", "-o", str(path)):
        yield trace
    trace.load()


def acked_by_redis(receiver: ReceiverProcess) -> list[str]:
    """Post until Redis has taken some events: of a busy machine the spool has others. Returns the ids of all."""
    commits, acked = Commits(receiver, "redis"), receiver.acked(*(body(number) for number in range(8)))
    while commits.events < 4:
        acked += receiver.acked(body(len(acked)))
    return acked


def test_redis_syncs_each_event_before_its_202(
    valkey_factory: Callable[..., ValkeyProcess], receiver_factory: Callable[..., ReceiverProcess], tmp_path: Path
) -> None:
    server = valkey_factory()
    receiver = receiver_factory(server.url, admin=True)
    with traced(tmp_path / "trace", server.pid, receiver.pid) as trace:
        acked = acked_by_redis(receiver)
    # Where a busy machine, traced at that, made Redis too slow for an event, the spool has it.
    assert all(trace.synced_before_answer(event, "read|recvfrom|pwrite64") for event in acked)
    assert not all(trace.shows(rf"^pwrite64\(.*{event}") for event in acked)


def test_missing_sync_of_redis_is_found(
    valkey_factory: Callable[..., ValkeyProcess], receiver_factory: Callable[..., ReceiverProcess], tmp_path: Path
) -> None:
    server = valkey_factory(appendfsync="no")
    receiver = receiver_factory(server.url, admin=True, server={"accept_weaker_durability": True})
    with traced(tmp_path / "trace", server.pid, receiver.pid) as trace:
        acked = acked_by_redis(receiver)
    # Some may be synced by chance: by a heartbeat at that moment, or by the spool of a machine too busy for Redis.
    assert not all(trace.synced_before_answer(event, "read|recvfrom") for event in acked)


def test_the_spool_syncs_each_event_before_its_202(
    receiver_factory: Callable[..., ReceiverProcess], tmp_path: Path
) -> None:
    receiver = receiver_factory(f"redis://127.0.0.1:{free_port()}/0")
    with traced(tmp_path / "trace", receiver.pid) as trace:
        acked = receiver.acked(*(body(number) for number in range(8)))
    assert [trace.synced_before_answer(event, "pwrite64") for event in acked] == [True] * 8


def test_the_ledger_syncs_each_commit_before_it_says_so(tmp_path: Path) -> None:
    ledger = with_tables(Ledger(f"sqlite:///{tmp_path}/ledger.db"))
    with (tmp_path / "told").open("wb", buffering=0) as told, traced(tmp_path / "trace", os.getpid()) as trace:
        for number in range(5):
            record(ledger, new_event(f"tsk_synced_{number}"))
            told.write(f"committed {number}".encode())
    ledger.close()
    for number in range(5):
        written_at = trace.first(rf"^pwrite64\(.*tsk_synced_{number}")
        synced_at = trace.first(r"^f(?:data)?sync\(\d+ ?\) += 0", written_at)
        told_at = trace.first(rf"^write\(.*committed {number}")
        assert written_at < synced_at < told_at < len(trace.lines)


class Commits:
    """What the receiver's metrics say of commits to one store since this was made."""

    def __init__(self, receiver: ReceiverProcess, store: str) -> None:
        self._receiver = receiver
        self._store = store
        self._before = self._read()

    def _read(self) -> tuple[int, int]:
        # It asks Redis some twenty times in a row, and each answer waits for a sync.
        text = httpx2.get(f"{self._receiver.admin_url}/metrics", timeout=60).text
        found = [
            re.search(rf'^runhook_commit_events_{name}{{store="{self._store}"}} ([0-9.]+)', text, re.MULTILINE)
            for name in ("count", "sum")
        ]
        count, events = (int(float(each[1])) if each else 0 for each in found)
        return count, events

    @property
    def events(self) -> int:
        return self._read()[1] - self._before[1]

    @property
    def size(self) -> float:
        """Events in a commit, on average."""
        count, events = self._read()
        return (events - self._before[1]) / max(1, count - self._before[0])


def test_slow_disk_makes_larger_commits_and_then_uses_the_spool(
    valkey_factory: Callable[..., ValkeyProcess], receiver_factory: Callable[..., ReceiverProcess]
) -> None:
    # Given eight senders, of which each waits for its 202
    server = valkey_factory()
    receiver = receiver_factory(server.url, admin=True)
    with Load(receiver, threads=8) as load:
        load.more(20)
        # When each sync takes a tenth of a second, then those who wait share the next one
        with slow_disk(0.1, server.pid):
            commits = Commits(receiver, "redis")
            # (not counting those that the spool has taken on a busy machine)
            eventually(lambda: commits.events >= 50 and commits.size > 2)
        # And when it takes longer than anybody waits for Redis, then the spool takes them, on a slow disk as well
        with slow_disk(1.0, server.pid), slow_disk(0.1, receiver.pid):
            commits = Commits(receiver, "spool")
            eventually(lambda: commits.events >= 60 and commits.size > 2)
    # Then nobody got another answer, and each event is in the inbox when the disk is well
    assert (load.statuses, load.lost) == ([], 0)
    all_arrive(server, load.acked)
    # And twice only what Redis had taken after all whose answer came too late, each time that it was given up: what
    # eight senders wait for, which its ids settle
    inbox = ids_in_inbox(server)
    assert set(inbox) == set(load.acked)
    assert len(inbox) <= len(load.acked) + 8 * receiver.log.count("ingest.redis_away")
