"""The hosts that run parts: their versions, their clocks, and which content of the config they run. Pure."""

from __future__ import annotations

import platform
from collections.abc import Iterator

from receiver import __version__
from receiver.doctor.finding import Finding
from receiver.domain.parts import BEAT_EVERY, missing
from receiver.status.part_problems import SKEW
from receiver.status.report import StatusReport


def examine(report: StatusReport) -> Iterator[Finding]:
    """Yield what is found of the parts that have beaten lately, host by host."""
    here = f"Runhook {__version__} on Python {platform.python_version()}"
    running = [each for each in report.parts if each.state in ("running", "stuck")]
    versions = sorted({each.beat.version for each in running} | {__version__})
    yield Finding(
        "versions",
        here if len(versions) == 1 else f"{here}; parts of {', '.join(versions)} run",
        "" if len(versions) == 1 else "finish the upgrade",
    )
    for host in sorted({each.beat.host for each in running}):
        theirs = [each for each in running if each.beat.host == host]
        parts = ", ".join(sorted({each.beat.part for each in theirs}))
        release = ", ".join(sorted({each.beat.version for each in theirs}))
        old = report.config_hash and {each.beat.config for each in theirs} - {"", report.config_hash}
        yield Finding(
            "host",
            f"{host} runs {parts} of {release}" + (", with another content of the config file" if old else ""),
            "start them again, if the file was changed since" if old else "",
        )
        # One that has missed a beat may have sent its last one to a server that hung.
        skews = [each.skew for each in theirs if each.skew is not None and each.age < 2 * BEAT_EVERY]
        if skews:
            worst = max(skews, key=abs)
            apart = f"{abs(worst):.1f} s {'ahead of' if worst > 0 else 'behind'} that of Redis or the database"
            yield Finding(
                "host.clock",
                f"the clock of {host} is {apart}",
                "run NTP (chrony, systemd-timesyncd) there" if abs(worst) > SKEW else "",
            )
    if gone := sorted(missing(report.parts, report.expected)):
        yield Finding("parts", f"not running: {', '.join(gone)}", "start them; `runhook status` says what stands still")
