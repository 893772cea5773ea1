"""Where results go, in the config file: sinks, when they are tried again, routes, and the callers' own webhooks."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from handlers.support.duration import Seconds
from receiver.config.base import Model
from receiver.config.fields import Number, Rate, Whole, parse_rate


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _rule(value: object) -> object:
    if isinstance(value, str | dict) or value is None:
        return value
    raise ValueError("must be a mapping such as {status: failed}, or a CEL expression in quotes")


def _target(value: object) -> object:
    if isinstance(value, str | dict | ToSink):
        return value
    raise ValueError("must be the name of a sink, or {sink: …, after: …}")


def _targets(value: object) -> object:
    if isinstance(value, str):
        raise ValueError("must be a list of sinks; put the name in brackets")
    if not value:
        raise ValueError("names no sink; an event must go somewhere")
    return value


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


class ToSink(Model):
    """A sink that waits for the receipts of others."""

    sink: str = Field(description="Name of the sink.")
    after: Annotated[list[str], BeforeValidator(_listed, json_schema_input_type=str | list[str])] = Field(
        [],
        description="Sinks whose receipts it waits for and gets: targets of this route or an earlier one.",
    )


class RouteConfig(Model):
    """A rule: which events go to which sinks."""

    name: str = Field(min_length=1, max_length=100, description="A unique name, shown in lists.")
    when: Annotated[str | dict[str, Any] | None, BeforeValidator(_rule)] = Field(
        None,
        description="A mapping or a CEL expression. Without it, the route always matches.",
    )
    to: Annotated[list[Annotated[str | ToSink, BeforeValidator(_target)]], BeforeValidator(_targets)] = Field(
        min_length=1, description="Names of sinks, or `{sink: …, after: …}`."
    )
    interim: bool = Field(False, description="Also match events of runs that have not ended or will be retried.")
    repeats: bool = Field(False, description="Also match events that add nothing to an earlier one.")
    updates: bool = Field(
        False,
        description="Also send a later event of the same result that has more files or fields.",
    )
    superseded: bool = Field(False, description="Also match final events older than the newest one of their run.")
    test: bool = Field(False, description="Also match test webhooks of Skyvern's Test button.")
    stop: bool = Field(False, description="Skip the routes below when this one matches.")

    @property
    def targets(self) -> tuple[ToSink, ...]:
        """`to` in its long form."""
        return tuple(ToSink(sink=item) if isinstance(item, str) else item for item in self.to)


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
