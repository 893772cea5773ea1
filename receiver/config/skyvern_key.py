"""Explain why Skyvern can't be called with the keys of the config and the environment, and how to fix it."""

from __future__ import annotations

from receiver.config.models import Config
from receiver.config.settings import LOCAL_KEY_FILE, Settings


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
