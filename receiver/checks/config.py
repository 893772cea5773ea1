"""Checks of the config file and of PUBLIC_URL, without any server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from handlers.support.url import PORTS
from receiver.checks.finding import Finding, fault
from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.domain.network import is_local_host

if TYPE_CHECKING:
    from receiver.checks.report import StatusReport  # with the ledger, which `runhook check` does not need


def of_config(report: StatusReport) -> Iterator[Finding]:
    """Yield errors and probable mistakes of the config file."""
    for line in report.config_problems:
        yield fault("config_wrong", line)
    for line in report.warnings:
        yield fault("config_doubtful", line)


def of_valid_config(report: StatusReport) -> Iterator[Finding]:
    """Yield a config file without errors and warnings."""
    if not report.config_problems and not report.warnings:
        yield Finding("config", f"{report.config_file} is valid")


def of_public_url(report: StatusReport) -> Iterator[Finding]:
    """Yield what is wrong with PUBLIC_URL, as far as the settings show it."""
    if report.config is not None:
        yield from check_public_url(report.settings, report.config)


def check_public_url(settings: Settings, config: Config) -> Iterator[Finding]:
    """Yield what `of_public_url` yields, also before there is a report."""
    sources = {name: source for name, source in config.sources.items() if source.api(settings.skyvern_base_url)}
    late = [name for name, source in sources.items() if not source.watch]  # else a walk finds the ends soon
    if late and not settings.public_url:
        yield fault(
            "public_url",
            f"PUBLIC_URL is not set, though runs can be submitted to {', '.join(late)}: results come by polling alone, "
            "and late; and when Skyvern's answer to a submit is lost, nothing can prove whether there is a run",
            fix="set it to where Skyvern reaches this receiver, such as https://hooks.example.com",
            note=True,
        )
    refused = refused_url(settings.public_url, settings.skyvern_base_url)
    if refused and not settings.local_key:  # only `runhook simulate` takes that
        yield refused
    parts = urlsplit(settings.public_url)
    if parts.path and parts.scheme == "http" and parts.port not in (None, PORTS["http"]):  # a receiver, without a proxy
        what = f"PUBLIC_URL: the receiver does not know the path {parts.path}: webhooks get 404"
        yield fault("public_url", what, fix=path_remedy(parts.path), note=True)


def warnings(settings: Settings, config: Config) -> list[str]:
    """Return what is wrong with PUBLIC_URL in sentences, for start-up and `runhook check`."""
    return [f"{it.what}. {it.todo[:1].upper()}{it.todo[1:]}" for it in check_public_url(settings, config)]


def path_remedy(path: str) -> str:
    """Return the fix for a PUBLIC_URL with a path that the receiver does not know."""
    return f"remove {path} from PUBLIC_URL, or have the proxy in front remove it"


def refused_url(public_url: str, skyvern_base_url: str = "") -> Finding | None:
    """Return why Skyvern refuses webhook URLs that begin with `public_url`; None if it does not or is empty."""
    try:
        host = (urlsplit(public_url).hostname or "").rstrip(".").lower()
    except ValueError:
        return None
    is_service = host != "localhost" and not {".", ":"} & set(host)  # of a container network, which may be allowed
    if not host or is_service or not is_local_host(host):
        return None
    skyvern = urlsplit(skyvern_base_url).hostname
    if skyvern and is_local_host(skyvern):  # your own, or `runhook simulate`
        what = f"PUBLIC_URL: your own Skyvern sends webhooks to {host} only if its ALLOWED_HOSTS contains that host"
        fix = f"add {host} to that Skyvern's ALLOWED_HOSTS; `runhook simulate` allows every host"
        return fault("public_url", what, fix=fix, note=True)
    return fault(
        "public_url",
        f"PUBLIC_URL: Skyvern refuses a webhook_url on {host}, which is not a public host: every submit gets 400",
        fix="set PUBLIC_URL to where Skyvern reaches this receiver, such as https://hooks.example.com; a Skyvern of "
        f"your own takes it with {host} in its ALLOWED_HOSTS",
    )
