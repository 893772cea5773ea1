"""Kills a program at one of its steps: before or after a call of a server, of the disk or of another process.

watch("clock", folder)         in the program, before it starts; nothing in the product knows of this
plan(folder, "clock", 3)       it is killed at its third step from now on, once; what takes its place lives
"""

from __future__ import annotations

import functools
import inspect
import os
import pkgutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

# The functions whose calls are steps.
STEPS: Final = (
    "sqlalchemy.engine.default:DefaultDialect.do_execute",
    "sqlalchemy.engine.default:DefaultDialect.do_commit",
    "receiver.inbox.writer:InboxWriter.append",
    "receiver.ingest.spool:Spool.append",
    "receiver.ingest.spool:Spool.peek",
    "receiver.ingest.spool:Spool.done",
    "redis.connection:AbstractConnection.send_packed_command",
    "handlers.http:HttpSink.send",
    "os:pwrite",
    "os:fsync",
    "os:fdatasync",
)
# What a process of a worker does first tells which part it is.
BUILT: Final = {"receiver.worker_process:WorkerProcess.__init__": "main"}
_KILLED: Final = "killed"


def plan(folder: Path, part: str, step: int, *, whole: bool = False) -> None:
    """Have the part killed at this step, from 1 on. `whole`: with the worker whose child it is."""
    beside = folder / f"{part}.new"
    beside.write_text(f"{step} {int(whole)}")
    beside.rename(folder / part)


def is_planned(folder: Path, part: str) -> bool:
    """Whether the part has not come to the step of its plan."""
    return (folder / part).exists()


def give_up(folder: Path, part: str) -> bool:
    """Have the part live. False when it is killed already."""
    try:
        (folder / part).unlink()
    except FileNotFoundError:
        return False
    return True


def killed(folder: Path) -> list[str]:
    """Which parts were killed, and at which of their steps."""
    path = folder / _KILLED
    return path.read_text().splitlines() if path.exists() else []


def watch(part: str, folder: str) -> None:
    """Count the steps of this program, which is `part`, and of its children."""
    it = _Watch(part, Path(folder))
    for path in STEPS:
        _replace(path, functools.partial(it.counted, path.partition(":")[2]))
    for path, name in BUILT.items():
        _replace(path, functools.partial(it.named, name))


class _Watch:
    def __init__(self, part: str, folder: Path) -> None:
        self._part = part
        self._folder = folder
        self._counts: dict[int, int] = {}  # by plan

    def step(self, name: str) -> None:
        path = self._folder / self._part
        try:
            made_at = path.stat().st_mtime_ns
            count = self._counts[made_at] = self._counts.get(made_at, 0) + 1
            wanted, whole = map(int, path.read_text().split())
            if count != wanted:
                return
            path.unlink()  # one of several threads and processes
        except FileNotFoundError:
            return
        with (self._folder / _KILLED).open("a") as file:
            file.write(f"{self._part} {count}: {name}\n")
        if whole:
            os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    def counted(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        async def awaited(*arguments: Any, **named: Any) -> Any:
            self.step(f"before {name}")
            result = await call(*arguments, **named)
            self.step(f"after {name}")
            return result

        def called(*arguments: Any, **named: Any) -> Any:
            self.step(f"before {name}")
            result = call(*arguments, **named)
            self.step(f"after {name}")
            return result

        return functools.wraps(call)(awaited if inspect.iscoroutinefunction(call) else called)

    def named(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def build(*arguments: Any, **named: Any) -> Any:
            self._part = part
            return call(*arguments, **named)

        return build


def _replace(path: str, around: Callable[[Any], Any]) -> None:
    module, _, names = path.partition(":")
    owner, _, attribute = names.rpartition(".")
    place = pkgutil.resolve_name(f"{module}:{owner}" if owner else module)
    setattr(place, attribute, around(getattr(place, attribute)))
