"""Where results go, in the config file: sinks, when they are tried again, and the callers' own webhooks."""

from typing import Any, Literal

from pydantic import Field, model_validator

from handlers.support.duration import Seconds
from receiver.config.fields import Number, Rate, Whole, parse_rate
from receiver.domain.model import Model


class RetryPolicy(Model):
    """When a delivery is retried: after first, first × factor, first × factor² …, with jitter."""

    attempts: Whole = Field(12, ge=1, le=1000, description="Maximum attempts, the first one included.")
    first: Seconds = Field(5.0, gt=0, le=86400, description="Delay before the second attempt.")
    factor: Number = Field(2.0, ge=1, le=100, description="Growth of the delay.")
    max: Seconds = Field(3600.0, gt=0, le=604800, description="Maximum delay.")
    give_up_after: Seconds = Field(
        259200.0,
        gt=0,
        le=31536000,
        description="Time after the first attempt, or behind an open breaker, after which the delivery is "
        "dead. Time while the sink is paused or workers are stopped does not count. A replay "
        "starts again.",
    )


Place = Literal["auto", "shared", "own"]


class SinkConfig(Model):
    """A destination. The options of its type stand beside these keys."""

    type: str = Field(
        description="database, files, s3, slack, http, notify, queue, resubmit, or a type that a package adds."
    )
    retry: RetryPolicy = Field(default_factory=RetryPolicy, description="When a delivery is retried.")
    concurrency: Whole = Field(
        8,
        ge=1,
        le=256,
        description="Maximum number of sends at once in each worker process. Each takes a thread.",
    )
    rate: Rate | None = Field(
        None,
        description="Maximum rate of sends over all workers, such as 10/s or 100/m. Counted in "
        "Redis: while that is unavailable or full, the sink waits, and its deliveries spend no attempt.",
    )
    worker: Place = Field(
        "auto",
        description="The worker process of its sends. shared: the one that dispatches. own: its own. auto: shared for"
        " the types that come with Runhook, except notify; own for the others.",
    )
    options: dict[str, Any] = Field(
        default_factory=dict, repr=False, description="Options of the type, checked by its handler."
    )

    @model_validator(mode="before")
    @classmethod
    def _gather_options(cls, data: Any) -> Any:
        """Move every key that is not a field here to `options`, which the handler checks."""
        if not isinstance(data, dict):
            return data
        own = {key: value for key, value in data.items() if key in cls.model_fields}
        rest = {key: value for key, value in data.items() if key not in cls.model_fields}
        return {**own, "options": {**own.get("options", {}), **rest}} if rest else own

    @property
    def rate_limit(self) -> tuple[int, float] | None:
        """(how many, in how many seconds), or None."""
        return parse_rate(self.rate) if self.rate else None


class CallbacksConfig(Model):
    """Webhooks of apps that submit runs: what they gave as webhook_url."""

    retry: RetryPolicy = Field(default_factory=RetryPolicy, description="When a delivery is retried.")
    timeout: Seconds = Field(30.0, gt=0, le=3600, description="Maximum time of one send.")
    concurrency: Whole = Field(32, ge=1, le=256, description="Maximum number of sends at once in each worker process.")
    per_origin: Whole = Field(
        4,
        ge=1,
        le=256,
        description="Maximum sends at once from one key to one origin, so that a slow server delays no other.",
    )
    worker: Place = Field("auto", description="The worker process of these sends: as for a sink, and auto is shared.")
