"""A route as the config file has it: which events go to which sinks."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from receiver.domain.model import Model


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
