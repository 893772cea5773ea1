"""On disk before 202, seen in the system calls. Kill -9 can't show it: the page cache survives that."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.servers.receiver import ReceiverProcess, body
from tests.servers.valkey import ValkeyProcess, free_port

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

    def synced_before_answer(self, event: str, taken: str) -> bool:
        """Whether a sync ended after `event` was taken (a call that matches `taken`) and before its 202 went out."""
        taken_at = self.first(rf"^(?:{taken})\(.*{event}")
        synced_at = self.first(r"^f(?:data)?sync\(\d+\) += 0", taken_at)
        answered_at = self.first(rf"^(?:write|writev|sendto|sendmsg)\(.*event_id.*{event}")
        assert taken_at < len(self.lines), "the trace does not show the event; it proves nothing"
        assert answered_at < len(self.lines), "the trace does not show the answer; it proves nothing"
        return synced_at < answered_at


@contextmanager
def traced(path: Path, *pids: int) -> Iterator[Trace]:
    """Trace these processes while the block runs."""
    strace = shutil.which("strace")
    if strace is None:
        unable("strace is not installed")
    attach = [part for pid in pids for part in ("-p", str(pid))]
    command = [strace or "", "-f", "-qq", "-s", "1000000", "-e", f"trace={CALLS}", "-o", str(path), *attach]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 20
        while not all(is_traced(pid) for pid in pids):
            if tracer.poll() is not None or time.monotonic() > deadline:
                unable(f"strace can't attach: {tracer.stderr.read() if tracer.stderr else ''}")
            time.sleep(0.02)
        trace = Trace(path)
        yield trace
    finally:
        tracer.terminate()
        tracer.wait(20)
        if tracer.stderr:
            tracer.stderr.close()
    trace.load()


def is_traced(pid: int) -> bool:
    """Whether every thread of `pid` has a tracer."""
    threads = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")]
    return all(not re.search(r"^TracerPid:\t0$", text, re.MULTILINE) for text in threads)


def unable(reason: str) -> None:
    """A machine that forbids tracing skips; CI must not."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def test_redis_syncs_each_event_before_its_202(
    valkey_factory: Callable[..., ValkeyProcess], receiver_factory: Callable[..., ReceiverProcess], tmp_path: Path
) -> None:
    server = valkey_factory()
    receiver = receiver_factory(server.url)
    with traced(tmp_path / "trace", server.pid, receiver.pid) as trace:
        acked = receiver.acked(*(body(number) for number in range(8)))
    assert [trace.synced_before_answer(event, "read|recvfrom") for event in acked] == [True] * 8


def test_the_same_look_finds_the_sync_missing_where_redis_does_none(
    valkey_factory: Callable[..., ValkeyProcess], receiver_factory: Callable[..., ReceiverProcess], tmp_path: Path
) -> None:
    server = valkey_factory(appendfsync="no")
    receiver = receiver_factory(server.url, server={"accept_weaker_durability": True})
    with traced(tmp_path / "trace", server.pid, receiver.pid) as trace:
        acked = receiver.acked(*(body(number) for number in range(8)))
    assert not any(trace.synced_before_answer(event, "read|recvfrom") for event in acked)


def test_the_spool_syncs_each_event_before_its_202(
    receiver_factory: Callable[..., ReceiverProcess], tmp_path: Path
) -> None:
    receiver = receiver_factory(f"redis://127.0.0.1:{free_port()}/0")
    with traced(tmp_path / "trace", receiver.pid) as trace:
        acked = receiver.acked(*(body(number) for number in range(8)))
    assert [trace.synced_before_answer(event, "pwrite64") for event in acked] == [True] * 8
