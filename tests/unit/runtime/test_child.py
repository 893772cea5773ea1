"""A program as a fork: its output, how it ends, and what it is called."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from receiver.runtime.child import ForkedProcess
from tests.support.paths import ROOT
from tests.support.processes import alive
from tests.support.waiting import eventually

# In a process without threads, from which a fork is safe.
PROGRAM = """
import json, os, signal, sys, time
from pathlib import Path
from receiver.runtime.child import ForkedProcess
from receiver.runtime.child import ChildStatus, report_ready

def ends(code):
    print("to stdout", flush=True)
    print("to stderr", file=sys.stderr)
    sys.exit(code)

def fails():
    raise ValueError("why")

def stays():
    print("up", flush=True)
    time.sleep(600)

def works():
    report_ready()
    stays()

done = {}
for name, main in (("zero", lambda: print("half", end="")), ("three", lambda: ends(3)), ("raises", fails)):
    process = ForkedProcess(f"runhook {name}", main, piped=True)
    done[name] = [process.wait(), process.stdout.read().decode()]
for name, end in (("term", ForkedProcess.terminate), ("kill", ForkedProcess.kill)):
    process = ForkedProcess(f"runhook {name}", stays, piped=True)
    assert process.stdout.read(3) == b"up\\n" and process.poll() is None
    called = Path(f"/proc/{process.pid}/comm").read_text().strip()
    assert os.getsid(process.pid) == process.pid
    end(process)
    done[name] = [process.wait(), called]
    end(process)  # it has ended: that is no error
status, seen = ChildStatus(), []
for main in (works, stays):
    process = ForkedProcess("runhook flag", main, status, piped=True)
    assert process.stdout.read(3) == b"up\\n"
    seen.append(status.working)
    process.kill()
    process.wait()
report_ready()  # to nobody
done["flag"] = [*seen, status.working]
status = ChildStatus()
process = ForkedProcess("runhook silent", fails, status)
done["silent"] = [process.wait(), status.reason]
print(json.dumps(done))
"""


def test_fork_has_its_own_output_name_and_end() -> None:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        check=True,
    )
    done = json.loads(run.stdout)
    assert done["zero"] == [0, "half"]
    assert done["three"] == [3, "to stdout\nto stderr\n"]
    assert done["raises"][0] == 1
    assert "ValueError: why" in done["raises"][1]
    assert done["term"] == [-15, "runhook term"]
    assert done["kill"] == [-9, "runhook kill"]
    # One without a pipe reports its error to its parent
    assert done["silent"][0] == 1
    assert done["silent"][1].startswith("ValueError at ")
    # What one has said, the next one in its place has not
    assert done["flag"] == [True, False, False]


ELSEWHERE = """
import sys, time
sys.platform = "darwin"
from receiver.runtime.child import ForkedProcess
print(ForkedProcess("runhook child", lambda: time.sleep(600)).pid, flush=True)
time.sleep(600)
"""


def test_fork_ends_with_its_parent_without_prctl() -> None:
    # Given a system whose kernel does not tell a process of its parent's end
    with subprocess.Popen([sys.executable, "-c", ELSEWHERE], cwd=ROOT, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    eventually(lambda: not alive(child))


def test_failed_fork_leaves_no_blocked_signal_and_no_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    def fork() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", fork)
    blocked, files = signal.pthread_sigmask(signal.SIG_BLOCK, ()), len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(BlockingIOError):
        ForkedProcess("runhook none", lambda: None, piped=True)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == blocked
    assert len(list(Path("/proc/self/fd").iterdir())) <= files  # garbage of earlier tests may close some
