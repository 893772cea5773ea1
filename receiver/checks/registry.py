"""All checks: `runhook status` runs the cheap ones, `runhook doctor` all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from receiver.checks import doctor, problems, processes, public_url, servers
from receiver.checks.finding import REMEDIES, Finding
from receiver.checks.report import StatusReport
from receiver.checks.survey import survey
from receiver.config.settings import Settings


@dataclass(frozen=True, slots=True)
class Check:
    """A check. `probe`: yields what it finds in a report; cheap ones contact no server.

    `deep`: only `runhook doctor` runs it. `covered`: a deep check says more, so `runhook doctor` skips it.
    """

    probe: Callable[[StatusReport], Iterator[Finding]]
    deep: bool = False
    covered: bool = False


CHECKS: Final = (
    Check(problems.of_config),
    Check(problems.of_settings, covered=True),
    Check(problems.of_refused),
    Check(problems.of_servers),
    Check(processes.of_processes),
    Check(problems.of_disk),
    Check(problems.of_quarantine, covered=True),
    Check(problems.of_inbox),
    Check(problems.of_sinks),
    Check(problems.of_deliveries),
    Check(problems.of_runs),
    Check(doctor.of_config, deep=True),
    Check(servers.of_redis, deep=True),
    Check(servers.of_ledger, deep=True),
    Check(doctor.of_hosts, deep=True),
    Check(doctor.of_disk, deep=True),
    Check(public_url.examine, deep=True),
    Check(doctor.of_quarantine, deep=True),
    Check(doctor.of_sinks, deep=True),
)
_RANKS: Final = {code: rank for rank, code in enumerate(REMEDIES)}


def find(report: StatusReport) -> list[Finding]:
    """Return the findings of all cheap checks, the most urgent first, then the notes."""
    return _run(report, [check for check in CHECKS if not check.deep])


def examine(settings: Settings) -> Iterator[Finding]:
    """Yield the findings of all checks, each as soon as it is known. Changes nothing.

    Raises ConfigError for an invalid DATABASE_URL.
    """
    report = survey(settings)
    yield from _run(report, [check for check in CHECKS if not check.deep and not check.covered])
    for check in CHECKS:
        if check.deep:
            yield from check.probe(report)


def _run(report: StatusReport, checks: Iterable[Check]) -> list[Finding]:
    found = [finding for check in checks for finding in check.probe(report)]
    if any(each.code == "misdirected" for each in found):  # it names the fix of PUBLIC_URL
        found = [each for each in found if each.code != "config_doubtful" or each.what not in report.advice]
    return sorted(found, key=lambda each: (each.note, _RANKS[each.code]))
