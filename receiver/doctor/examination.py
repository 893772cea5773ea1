"""All checks, in the order in which an operator would mend what they find."""

from __future__ import annotations

from collections.abc import Iterator

from receiver.config.loader import load
from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.doctor import disk, hosts, public_url, servers, signatures, sinks
from receiver.doctor.finding import Finding
from receiver.errors import ConfigError
from receiver.status.report import StatusReport
from receiver.status.survey import survey


def examine(settings: Settings) -> Iterator[Finding]:
    """Yield what is found, as it is found. Nothing is changed. Raises ConfigError for a wrong DATABASE_URL."""
    report = survey(settings)
    config = _config(settings)
    yield from _of_config(report)
    yield from servers.of_redis(settings, report.redis)
    yield from servers.of_ledger(settings, report.ledger)
    yield from hosts.examine(report)
    yield from disk.examine(report.disk)
    if config is not None:
        missing = config.no_webhooks_warning(settings.skyvern_base_url, settings.public_url)
        yield from public_url.examine(settings.public_url, list(config.sources), missing)
        yield from signatures.examine(settings.data, config.sources, report.now)
        yield from sinks.examine(config, settings.skyvern_base_url)


def _config(settings: Settings) -> Config | None:
    try:
        return load(settings.config, settings.environ)
    except (ConfigError, OSError):
        return None


def _of_config(report: StatusReport) -> Iterator[Finding]:
    for line in report.config_problems:
        yield Finding("config", line, "mend it; `runhook check` shows all of it. What depends on it was not checked")
    for line in report.warnings:  # not report.advice: that is of PUBLIC_URL, which is examined
        yield Finding("config", line, "`runhook check` shows where", note=True)
    if not report.config_problems and not report.warnings:
        yield Finding("config", f"{report.config_file} is right")
