"""Check the config file and the settings, without any server."""

from __future__ import annotations

from urllib.parse import urlsplit

from handlers.support.url import PORTS
from receiver.config.models import Config
from receiver.config.settings import LOCAL_KEY_FILE, Settings
from receiver.domain.network import is_local_host
from receiver.domain.trouble import Trouble


def warnings(settings: Settings, config: Config) -> list[str]:
    """Return what will probably not work as the operator expects, for start-up and `runhook check`."""
    lines = []
    if missing := config.no_webhooks_warning(settings.skyvern_base_url, settings.public_url):
        lines.append(_sentences(missing))
    refused = refused_url(settings.public_url, settings.skyvern_base_url)
    if refused and not settings.local_key:  # only `runhook simulate` takes that
        lines.append(f"PUBLIC_URL: {_sentences(refused)}")
    parts = urlsplit(settings.public_url)
    if parts.path and parts.scheme == "http" and parts.port not in (None, PORTS["http"]):  # a receiver, without a proxy
        lines.append(f"PUBLIC_URL: {_sentences(unserved_path(parts.path))}")
    return lines


def unserved_path(path: str) -> Trouble:
    """Return what is wrong with a PUBLIC_URL that has this path, if the receiver gets it."""
    return Trouble(
        f"the receiver does not know the path {path}: webhooks get 404",
        f"remove {path} from PUBLIC_URL, or have the proxy in front remove it",
    )


def _sentences(trouble: Trouble) -> str:
    return f"{trouble.what}. {trouble.todo[:1].upper()}{trouble.todo[1:]}"


def local_key(settings: Settings) -> str:
    """Return why Skyvern can't be asked for anything with the key that `runhook dev` made; "" when it can."""
    if not settings.local_key or settings.skyvern_base_url:
        return ""
    if settings.session is not None:
        return (
            "SKYVERN_API_KEY is not set in this terminal, and the key of the running `runhook dev` opens nothing at "
            "Skyvern. Set SKYVERN_API_KEY here too, or write it to .env"
        )
    return (
        f"SKYVERN_API_KEY has no value, and the key in {settings.data / LOCAL_KEY_FILE} was made here and opens "
        "nothing at Skyvern: no run can be submitted, polled or found. Set SKYVERN_API_KEY to a key of your account, "
        "or SKYVERN_BASE_URL to a server that takes this one (`runhook simulate`)"
    )


def missing_api_key(settings: Settings, config: Config, source: str) -> str:
    """Return why Skyvern can't be called for a source without an API, and what its config or environment lacks."""
    if config.sources[source].api_key is not None:
        return local_key(settings)
    return (
        f"{settings.config}: sources.{source}: api_key is missing or empty, so Skyvern can't be called."
        f" {api_key_remedy(source)}"
    )


def api_key_remedy(source: str) -> str:
    """Return what to add to the config file and to the environment, so that Skyvern can be called for a source."""
    return (
        f'Below `{source}:` write api_key: "${{SKYVERN_API_KEY}}", and set SKYVERN_API_KEY in .env or in the'
        " environment"
    )


def is_local(skyvern_base_url: str) -> bool:
    """Whether the Skyvern at this address runs on this machine or network: your own, or `runhook simulate`."""
    host = urlsplit(skyvern_base_url).hostname
    return bool(host) and is_local_host(str(host))


def refused_url(public_url: str, skyvern_base_url: str = "") -> Trouble | None:
    """Return why Skyvern refuses webhook URLs that begin with `public_url`; None if it does not or is empty."""
    try:
        host = (urlsplit(public_url).hostname or "").rstrip(".").lower()
    except ValueError:
        return None
    is_service = host != "localhost" and not {".", ":"} & set(host)  # of a container network, which may be allowed
    if not host or is_service or not is_local_host(host):
        return None
    if is_local(skyvern_base_url):
        return Trouble(
            f"your own Skyvern sends webhooks to {host} only if its ALLOWED_HOSTS contains that host",
            f"add {host} to that Skyvern's ALLOWED_HOSTS; `runhook simulate` allows every host",
        )
    return Trouble(
        f"Skyvern refuses a webhook_url on {host}, which is not a public host: every submit gets 400",
        "set PUBLIC_URL to where Skyvern reaches this receiver, such as https://hooks.example.com; a Skyvern of your "
        f"own takes it with {host} in its ALLOWED_HOSTS",
    )
