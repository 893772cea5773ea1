"""`runhook reload`: let the processes of this host use the present config file."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from typing import Annotated

import typer

from receiver.cli.options import ConfigFile, DataDirectory, load_config
from receiver.domain.liveness import CLOCK, DISPATCH, RECEIVER, SeenProcess, deliver
from receiver.errors import NotStarted, RunhookError

# Seconds between two looks at the heartbeats.
_LOOK_EVERY = 0.2


def reload(
    wait: Annotated[
        float, typer.Option("--wait", metavar="SECONDS", min=0, help="Maximum time for all processes to return.")
    ] = 60.0,
    config: ConfigFile = None,
    data: DataDirectory = None,
) -> None:
    """Check the config file, then have receiver, worker and clock on this host use it. Sends under way end first."""
    from receiver.checks.board import list_local_processes, merged
    from receiver.config.loader import file_hash
    from receiver.runtime.process import process_space

    settings, loaded = load_config(config, data)

    def running() -> list[SeenProcess]:
        seen = merged(list_local_processes(settings.data))
        return [each for each in seen if each.alive and each.beat.details.get("space") == process_space()]

    before = running()
    if not before:
        raise NotStarted(
            f"no process with the data directory {settings.data} runs here; set RUNHOOK_DATA or --data to theirs"
        )
    fixed = {each.beat.role for each in before if not each.beat.details.get("reload_pid")}
    pids = {int(pid) for each in before if (pid := each.beat.details.get("reload_pid"))}
    asked_at = time.time()
    for pid in pids:
        try:
            os.kill(pid, signal.SIGHUP)
        except ProcessLookupError:
            pass  # it has just stopped
        except PermissionError:
            raise RunhookError(f"process {pid} belongs to another user; run this command as that user") from None
    needed = {RECEIVER, DISPATCH, CLOCK, *map(deliver, loaded.destinations)}  # not those of sinks that were removed
    missing = Counter(each.beat.role for each in before if each.beat.role in needed - fixed)
    until = time.monotonic() + wait
    config_hash = file_hash(settings.config)
    while missing and time.monotonic() < until:
        time.sleep(_LOOK_EVERY)
        new = [each.beat for each in running() if each.beat.started_at >= asked_at]
        back = Counter(beat.role for beat in new if beat.config == config_hash)
        for role in [role for role, count in missing.items() if back[role] >= count]:
            typer.echo(f"{role}: uses {settings.config}")
            del missing[role]
    if fixed:
        typer.echo(
            f"{', '.join(sorted(fixed))}: in a terminal, in `runhook dev` or under nohup; restart them", err=True
        )
    if missing:
        names = ", ".join(sorted(missing))
        raise RunhookError(f"not reloaded within {wait:g} s: {names}. Their logs say why; `runhook status` shows them")
    if fixed:
        raise typer.Exit(1)
