"""The options of the sink `resubmit`, checked at load."""

from __future__ import annotations

from typing import Any

from pydantic import Field, SecretStr, field_validator

from handlers.contract import Refused, SinkOptions
from handlers.resubmit.request import Changes
from handlers.support.duration import Seconds
from handlers.support.guarded_client import parse_url


class ResubmitOptions(SinkOptions):
    """Submits a failed run again, with changes, until its chain's budget is spent."""

    base_url: str = Field(description="Where Runhook's own submit API listens, such as http://127.0.0.1:8000.")
    key: SecretStr = Field(
        description="A key of Runhook's (rhk_…) with the scopes submit, read and resubmit, for the source of these"
        " runs."
    )
    budget: int = Field(
        2, ge=1, le=20, description="How often a run may be tried again, counted over the whole chain of its tries."
    )
    changes: dict[str, Any] = Field(
        default_factory=dict,
        description="Changed fields of the request, as a JSON merge patch; texts may be templates:"
        ' {max_steps: 50, title: "{{ run.title }} again"}. null leaves a field out.',
    )
    max_age: Seconds = Field(
        86_400.0,
        gt=0,
        description="Time after the result came in which the run may be submitted again: seconds, or such as 1d.",
    )
    # Without a url, Skyvern asks a language model for one before it answers a submit.
    timeout: Seconds = Field(90.0, gt=0, le=3600, description="Time that one send may take: seconds, or such as 90s.")

    @field_validator("base_url")
    @classmethod
    def _is_address(cls, value: str) -> str:
        try:
            url = parse_url(value.strip())
        except Refused as error:
            raise ValueError(f"{error}; right would be http://127.0.0.1:8000") from None
        if url.query or url.path.rstrip("/").endswith("/v1"):
            raise ValueError("is where the API begins, without /v1 and without a query: http://127.0.0.1:8000")
        return str(url).rstrip("/")

    @field_validator("key")
    @classmethod
    def _is_ours(cls, value: SecretStr) -> SecretStr:
        text = value.get_secret_value().strip()
        if not text.startswith("rhk_") or not text.isprintable() or not text.isascii():
            raise ValueError(
                "must be a key of Runhook's own, which begins with rhk_:"
                " runhook keys create resubmit --scope submit,read,resubmit"
            )
        return SecretStr(text)

    @field_validator("changes")
    @classmethod
    def _can_be_made(cls, value: dict[str, Any]) -> dict[str, Any]:
        if "labels" in value:
            raise ValueError("labels can't be changed: those of the first submission are carried on")
        Changes(value)
        return {name: _hidden(item) if "headers" in name else item for name, item in value.items()}


def _hidden(value: Any) -> Any:
    """Return `value` with its strings as secrets, since headers carry credentials, and options are printed."""
    if isinstance(value, dict):
        return {name: _hidden(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_hidden(item) for item in value]
    return SecretStr(value) if isinstance(value, str) else value
