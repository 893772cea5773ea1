"""An operator's own words for a message, by outcome. It knows the template engine, and nothing of Slack's API.

    templates:
      failed: "{{ run.workflow_title }} broke: {{ reason }}"
      default: {title: "{{ run.run_id }} {{ run.outcome }}", body: "took {{ duration }}"}

A body is mrkdwn. Each value in it is escaped; `link(url, label)` makes the only link that a value can be part of.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from handlers.contract import Delivery
from handlers.slack import escape
from handlers.slack.blocks import Words
from handlers.support import templating
from handlers.support.wording import RETRY, UNREADABLE, headline, look, name_of, reason, took

When = Literal[
    "completed", "failed", "terminated", "timed_out", "canceled", "created", "queued", "running", "paused",
    "retry_pending", "unreadable", "default",
]  # fmt: skip
VARIABLES = frozenset({*templating.VARIABLES, "headline", "title", "reason", "duration", "link"})
VALUE_MAX = 3000  # characters of one value
TITLE_MAX = 2000
BODY_MAX = 20_000


class _Made(str):
    """mrkdwn that `link` has made: not escaped again."""

    __slots__ = ()


def _escaped(value: Any) -> str:
    return value if isinstance(value, _Made) else escape.mrkdwn(templating.plain(value), VALUE_MAX)


def _link(url: Any, label: Any) -> _Made:
    """A link, or just the label when `url` is no http(s) address."""
    shown = templating.plain(label)
    return _Made(escape.link(url, shown, 300) or escape.mrkdwn(shown, 300))


class TemplateOption(BaseModel):
    """Words of your own; what is left out stays as it is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str = Field("", description="The headline, plain text.")
    body: str = Field("", description="What stands under the headline instead of reason, output and facts; mrkdwn.")

    @model_validator(mode="before")
    @classmethod
    def _text_is_the_body(cls, value: Any) -> Any:
        return {"body": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _can_be_used(self) -> TemplateOption:
        compile_option(self)
        return self


Compiled = tuple[templating.Template | None, templating.Template | None]


def compile_option(option: TemplateOption) -> Compiled:
    """Title and body. Raises templating.TemplateError, in one line."""
    title = body = None
    if option.title:
        title = templating.compile(option.title, name="title", variables=VARIABLES, max_length=TITLE_MAX)
    if option.body:
        body = templating.compile(option.body, name="body", variables=VARIABLES, finalize=_escaped, max_length=BODY_MAX)
    return title, body


class Templates:
    """A sink's templates, ready for use by many threads."""

    def __init__(self, options: Mapping[When, TemplateOption]) -> None:
        self._compiled: dict[str, Compiled] = {when: compile_option(option) for when, option in options.items()}

    def words(self, delivery: Delivery) -> Words:
        """The words for `delivery`; empty where the sink has no template. Raises Refused if one can't be filled."""
        title, body = self._compiled.get(_when(delivery)) or self._compiled.get("default") or (None, None)
        if title is None and body is None:
            return Words()
        context = {
            **templating.context_of(delivery),
            "headline": headline(delivery),
            "title": name_of(delivery),
            "reason": reason(delivery),
            "duration": took(delivery.run),
            "link": _link,
        }
        return Words(title.render(context) if title else "", body.render(context) if body else "")


def _when(delivery: Delivery) -> str:
    shown = look(delivery)
    return {RETRY: "retry_pending", UNREADABLE: "unreadable"}.get(shown, delivery.status)
