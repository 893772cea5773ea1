"""Where results go, in the config file: sinks, when they are tried again, routes, and the callers' own webhooks."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from handlers.support.duration import Seconds
from receiver.config.base import Model
from receiver.config.fields import Number, Rate, Whole, parse_rate
from receiver.config.section import Section, section


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


class RetryPolicy(Section):
    """When a delivery is tried again: after first, first * factor, first * factor² … seconds, with jitter."""

    attempts: Whole = Field(
        12, ge=1, le=1000, description="Attempts before the delivery is dead, the first one included."
    )
    first: Seconds = Field(5.0, gt=0, le=86400, description="Delay before the second attempt: seconds, or such as 5s.")
    factor: Number = Field(2.0, ge=1, le=100, description="By how much each delay is longer than the one before.")
    max: Seconds = Field(3600.0, gt=0, le=604800, description="Longest delay: seconds, or such as 1h.")
    give_up_after: Seconds = Field(
        259200.0,
        gt=0,
        le=31536000,
        description="Time after the first attempt at which a delivery is dead though attempts are left, and so is what"
        " has waited for so long behind an open breaker: seconds, or such as 3d. Time in which the sink was paused, or"
        " workers were stopped, does not count. A replay starts anew.",
    )


Place = Literal["auto", "shared", "own"]


class SinkConfig(Model):
    """A destination. Beside these keys stand the options of its type."""

    type: str = Field(
        description="What it is: database, files, s3, slack, http, notify, queue, resubmit, or a type that a package"
        " adds."
    )
    retry: RetryPolicy = section(RetryPolicy, "When a delivery is tried again.")
    concurrency: Whole = Field(
        8,
        ge=1,
        le=256,
        description="Maximum number of sends at once, over all workers. Each takes a thread.",
    )
    rate: Rate | None = Field(None, description="Most sends in a time, such as 10/s or 100/m. No limit when absent.")
    worker: Place = Field(
        "auto",
        description="The worker process of its sends. shared: one with other sinks, until it hangs, ends its process,"
        " or needs much; then one of its own for a time. own: always its own. auto: shared for the types that come with"
        " Runhook, but notify; own for the others.",
    )
    options: dict[str, Any] = Field(
        default_factory=dict, repr=False, description="Options of the type, checked by its handler."
    )

    @model_validator(mode="before")
    @classmethod
    def _gather_options(cls, data: Any) -> Any:
        """Move every key that is no field here to `options`, which the handler checks."""
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
        description="Sink, or list of sinks, whose receipts it waits for and gets. They must get the event as well:"
        " by this route, or by an earlier one.",
    )


class RouteConfig(Model):
    """A rule: which events go to which sinks."""

    name: str = Field(min_length=1, max_length=100, description="What lists and explanations call it. Unique.")
    when: Annotated[str | dict[str, Any] | None, BeforeValidator(_rule)] = Field(
        None,
        description="A mapping of dotted paths to a value, list of values or glob, all of which must match;"
        " or a CEL expression. Absent means always.",
    )
    to: Annotated[list[Annotated[str | ToSink, BeforeValidator(_target)]], BeforeValidator(_targets)] = Field(
        min_length=1, description="Names of sinks, or {sink: …, after: …}."
    )
    interim: bool = Field(False, description="Also events of runs that have not ended, or will be tried again.")
    repeats: bool = Field(False, description="Also events that say nothing new.")
    updates: bool = Field(
        False,
        description="Tell its sinks again when a later event of the same result has more files or fields. Sinks that"
        " complete what they keep (database, files, s3) get those anyway.",
    )
    superseded: bool = Field(False, description="Also final events older than the newest one of their run.")
    test: bool = Field(False, description="Also the test webhooks that Skyvern's Test button sends.")
    stop: bool = Field(False, description="When this route matches, the ones after it are not evaluated.")

    @property
    def targets(self) -> tuple[ToSink, ...]:
        """`to` in its long form."""
        return tuple(ToSink(sink=item) if isinstance(item, str) else item for item in self.to)


class CallbacksConfig(Section):
    """The callers' own webhooks: what submitters gave as webhook_url, served by us."""

    retry: RetryPolicy = section(RetryPolicy, "When a delivery is tried again.")
    timeout: Seconds = Field(30.0, gt=0, le=3600, description="Time that one send may take: seconds, or such as 30s.")
    concurrency: Whole = Field(32, ge=1, le=256, description="How many sends may run at once, over all workers.")
    per_origin: Whole = Field(
        4,
        ge=1,
        le=256,
        description="How many of them one caller may have to one origin, so that one slow server holds up nobody else."
        " All origins of one caller together take half of the places that others leave free.",
    )
    worker: Place = Field("auto", description="The worker process of these sends: as for a sink, and auto is shared.")
