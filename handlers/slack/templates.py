"""An operator's templates for messages, by outcome. Independent of Slack's API.

    templates:
      failed: "{{ run.workflow_title }} broke: {{ reason }}"
      default: {title: "{{ run.run_id }} {{ run.outcome }}", body: "took {{ duration }}"}

A body is mrkdwn. Each value in it is escaped; only `link(url, label)` creates links.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from handlers.contract import Delivery
from handlers.slack import escape
from handlers.support import templating, wording

When = Literal[
    "completed", "failed", "terminated", "timed_out", "canceled", "created", "queued", "running", "paused",
    "retry_pending", "unreadable", "default",
]  # fmt: skip
VARIABLES = templating.VARIABLES | wording.TEMPLATE_VARIABLES | {"link"}
# Characters of one value.
VALUE_MAX = 3000
TITLE_MAX = 2000
BODY_MAX = 20_000


class _Link(str):
    """mrkdwn from `link`, not escaped again."""

    __slots__ = ()


def _escaped(value: Any) -> str:
    return value if isinstance(value, _Link) else escape.mrkdwn(templating.plain(value), VALUE_MAX)


def _link(url: Any, label: Any) -> _Link:
    """Return a link, or only the label when `url` is not an http(s) URL."""
    shown = templating.plain(label)
    return _Link(escape.link(url, shown, 300) or escape.mrkdwn(shown, 300))


class TemplateOption(BaseModel):
    """Templates of a message; omitted ones keep the default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str = Field("", description="The headline, plain text.")
    body: str = Field("", description="Text under the headline instead of reason, output and facts; mrkdwn.")

    @model_validator(mode="after")
    def _can_be_used(self) -> TemplateOption:
        compile_template(self)
        return self


# A string is the body.
ShortTemplate = Annotated[
    TemplateOption,
    BeforeValidator(
        lambda value: {"body": value} if isinstance(value, str) else value, json_schema_input_type=TemplateOption | str
    ),
]
Compiled = tuple[templating.Template | None, templating.Template | None]


def compile_template(option: TemplateOption) -> Compiled:
    """Compile the templates of title and body; None if unset. Raises templating.TemplateError."""
    title = body = None
    if option.title:
        title = templating.compile(option.title, name="title", variables=VARIABLES, max_length=TITLE_MAX)
    if option.body:
        body = templating.compile(option.body, name="body", variables=VARIABLES, finalize=_escaped, max_length=BODY_MAX)
    return title, body


class Templates:
    """A sink's compiled templates. Thread-safe."""

    def __init__(self, options: Mapping[When, TemplateOption]) -> None:
        self._compiled: dict[str, Compiled] = {when: compile_template(option) for when, option in options.items()}

    def words(self, delivery: Delivery) -> tuple[str, str]:
        """Render title and body; "" without a template. Raises Refused if rendering fails."""
        title, body = self._compiled.get(_template_key(delivery)) or self._compiled.get("default") or (None, None)
        if title is None and body is None:
            return "", ""
        context = {**templating.context_of(delivery), **wording.template_context(delivery), "link": _link}
        return title.render(context) if title else "", body.render(context) if body else ""


def _template_key(delivery: Delivery) -> str:
    label = wording.outcome_label(delivery)
    return {wording.RETRY: "retry_pending", wording.UNREADABLE: "unreadable"}.get(label, delivery.status)
