"""All checks: `runhook status` runs the cheap ones, `runhook doctor` all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from receiver.checks import config, deliveries, processes, public_url, servers, storage
from receiver.checks.finding import REMEDIES, Finding
from receiver.checks.report import StatusReport
from receiver.checks.survey import survey
from receiver.config.settings import Settings


@dataclass(frozen=True, slots=True)
class Check:
    """A check. `probe`: yields what it finds in a report, with code and remedy. A cheap one reads nothing else.

    `deep`: it reads more, or also shows what needs no fix, so only `runhook doctor` runs it. `replaced`: a deep check
    finds the same and more, so `runhook doctor` skips this one.
    """

    probe: Callable[[StatusReport], Iterator[Finding]]
    deep: bool = False
    replaced: bool = False


CHECKS: Final = (
    Check(config.of_config),
    Check(config.of_public_url),
    Check(servers.of_redis),
    Check(servers.of_inbox),
    Check(servers.of_ledger),
    Check(processes.of_processes),
    Check(storage.of_disk),
    Check(storage.of_spool),
    Check(storage.of_quarantine, replaced=True),
    Check(deliveries.of_sinks),
    Check(deliveries.of_alerts),
    Check(deliveries.of_deliveries),
    Check(deliveries.of_runs),
    Check(config.of_valid_config, deep=True),
    Check(servers.of_redis_server, deep=True),
    Check(servers.of_permissions, deep=True),
    Check(servers.of_ledger_server, deep=True),
    Check(processes.of_hosts, deep=True),
    Check(storage.of_directory, deep=True),
    Check(public_url.of_answers, deep=True),
    Check(storage.of_signatures, deep=True),
    Check(deliveries.of_connections, deep=True),
)
_RANKS: Final = {code: rank for rank, code in enumerate(REMEDIES)}


def find(report: StatusReport) -> list[Finding]:
    """Return the findings of all cheap checks, the most urgent first, then the notes."""
    return _run(report, (check for check in CHECKS if not check.deep))


def examine(settings: Settings) -> Iterator[Finding]:
    """Yield the findings of all checks, those of a deep one as soon as they are known. Changes nothing.

    Raises ConfigError for an invalid DATABASE_URL.
    """
    report = survey(settings)
    yield from _run(report, (check for check in CHECKS if not check.deep and not check.replaced))
    for check in CHECKS:
        if check.deep:
            yield from check.probe(report)


def _run(report: StatusReport, checks: Iterable[Check]) -> list[Finding]:
    findings = [finding for check in checks for finding in check.probe(report)]
    return sorted(findings, key=lambda finding: (finding.note, _RANKS[finding.code]))
