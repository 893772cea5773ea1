"""Programs that run together: their lines, their ends, and that none is left."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from receiver.cli.dev import Lines
from receiver.errors import NotStarted, UsageError
from receiver.runtime.child import ChildStatus, spawn
from receiver.runtime.supervisor import Process, Program, Supervisor
from tests.support.waiting import PATIENCE


def script(name: str, code: str, grace: float = 5.0) -> Program:
    command = [sys.executable, "-S", "-E", "-u", "-c", code]
    return Program(name, lambda: spawn(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT), grace=grace)


SLEEP = "import time; time.sleep(60)"


def run(
    programs: list[Program],
    until: Callable[[str], bool],
    *,
    colour: bool = False,
    seconds: float = PATIENCE,
    **options: float,
) -> str:
    """Run the programs until their output satisfies `until`, then stop them by a signal. What they printed."""
    console = io.StringIO()
    deadline = time.monotonic() + seconds

    def ready() -> bool:
        return until(console.getvalue()) or time.monotonic() > deadline

    say = Lines(console, [each.name for each in programs], colour=colour)
    Supervisor(programs, say, strict=True, **options).run(ready, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert time.monotonic() < deadline, console.getvalue()
    return console.getvalue()


def test_each_line_says_whose_it_is() -> None:
    programs = [script("web", f"print('one'); print('two'); {SLEEP}"), script("worker", f"print('three'); {SLEEP}")]
    lines = run(programs, lambda text: text.count("|") == 3).splitlines()
    assert sorted(lines) == ["web     | one", "web     | two", "worker  | three"]


def test_names_have_colours_on_a_terminal_only() -> None:
    assert "\x1b[36mweb    \x1b[0m | one" in run([script("web", f"print('one'); {SLEEP}")], bool, colour=True)


def test_unfinished_and_undecodable_lines_are_printed() -> None:
    code = "import os, time; os.write(1, b'\\xff\\n'); os.write(1, b'half'); time.sleep(0.2)"
    text = run([script("web", code)], lambda text: "half" in text)
    assert "web     | \N{REPLACEMENT CHARACTER}" in text
    assert "web     | half" in text


def test_stop_ends_all_and_the_last_one_last(tmp_path: Path) -> None:
    ends = tmp_path / "ends"
    code = (
        "import signal, sys, time\n"
        f"def end(*_):\n    time.sleep(%s); open({str(ends)!r}, 'a').write('%s '); sys.exit()\n"
        "signal.signal(signal.SIGTERM, end); print('up'); time.sleep(60)"
    )
    store, web = script("store", code % (0, "store")), script("web", code % (0.3, "web"))
    store.last = True
    run([store, web], lambda text: text.count("up") == 2)
    assert ends.read_text().split() == ["web", "store"]


def test_program_that_ignores_sigterm_is_killed() -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up'); time.sleep(60)"
    stubborn = script("stubborn", code, grace=0.3)
    text = run([stubborn], lambda text: "up" in text)
    assert "stubborn | did not end within 0.3 s; killing process" in text
    assert stubborn.process is None


def test_dead_program_restarts_with_one_line_for_one_reason() -> None:
    text = run([script("web", "print('up'); raise SystemExit(9)")], lambda text: text.count("up") == 4)
    assert text.count("web     | ended with code 9; starts again in 0.0 s") == 1
    assert text.count("starts again") == 1


@pytest.mark.parametrize(("code", "error"), [(2, UsageError), (3, NotStarted)])
def test_program_that_cannot_start_stops_everything(code: int, error: type[Exception]) -> None:
    other = script("worker", SLEEP)
    stuck = script("web", f"print('runhook: the port is in use', flush=True); raise SystemExit({code})")
    with pytest.raises(error, match=r"^the port is in use$"):
        run([other, stuck], lambda text: False)
    assert other.process is None


def test_program_that_worked_once_is_always_retried(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    code = (
        "import os, sys, time\n"
        f"tries = os.path.getsize({str(mark)!r})\n"
        f"open({str(mark)!r}, 'a').write('x')\n"
        "print('try', tries, flush=True)\n"
        "if tries == 0: os.kill(os.getpid(), 9)\n"
        "if tries == 1: print('runhook: not yet'); sys.exit(3)\n"
        "time.sleep(60)"
    )
    mark.touch()
    text = run([script("web", code)], lambda text: "try 2" in text)
    assert "killed by signal 9; starts again" in text
    assert "not yet (2 times in a row); starts again" in text


def test_program_that_cannot_be_forked_is_retried() -> None:
    web = script("web", "print('up'); raise SystemExit(9)")
    launch, tries = web.launch, []

    def crowded() -> Process:
        tries.append(len(tries))
        if len(tries) in (2, 3):
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return launch()

    web.launch = crowded
    text = run([web], lambda text: text.count("up") == 2)
    assert "web     | can't be started: [Errno 11] Resource temporarily unavailable" in text


def test_program_is_starting_until_it_reports_its_work() -> None:
    programs = [script("web", f"print('up'); {SLEEP}"), script("worker", f"print('up'); {SLEEP}")]
    programs[1].status = status = ChildStatus()
    supervisor = Supervisor(programs, lambda _name, _text: None)
    assert supervisor.starting() == ["web", "worker"]

    seen = []

    def ready() -> bool:
        seen.append(supervisor.starting())
        if status.working:
            os.kill(os.getpid(), signal.SIGTERM)
        status.working = True
        return False

    supervisor.run(ready)

    assert seen[:2] == [["worker"], []]


def test_process_without_signs_of_life_is_killed_and_replaced() -> None:
    # Given a process whose last sign of life is long ago, and one that gives none
    hung, other = script("worker", f"print('up'); {SLEEP}"), script("web", f"print('up'); {SLEEP}")
    hung.status, other.status = ChildStatus(), ChildStatus()
    hung.status.pulse()
    text = run([hung, other], lambda text: text.count("worker  | up") == 2, pulse_within=0.3)
    assert "worker  | gave no sign of life" in text
    assert text.count("web     | up") == 1


def test_other_programs_can_take_the_place_of_one_that_died() -> None:
    both = [script("a", f"print('up'); {SLEEP}"), script("b", f"print('up'); {SLEEP}")]
    lines: list[str] = []
    supervisor = Supervisor(
        [script("together", "raise SystemExit(9)")],
        lambda name, text: lines.append(f"{name} {text}"),
        on_death=lambda ended, _why: both if ended.name == "together" else [ended],
    )
    code = supervisor.run(lambda: {"a up", "b up"} <= set(lines), lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert code == 0
    assert [each.name for each in supervisor.programs] == ["a", "b"]
    assert not any(each.process for each in supervisor.programs)
