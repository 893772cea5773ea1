"""The form over a list: its fields, and what it keeps of the page's address."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from receiver.api.service import Actor, Service
from receiver.console.filters import FilterForm, filter_form
from receiver.domain.api_key import VIEW

ROUTES = [SimpleNamespace(name="all")]


def form_of(*given: tuple[str, str], sources: tuple[str, ...] = ("skyvern", "other"), own: str = "") -> FilterForm:
    config: Any = SimpleNamespace(sources=dict.fromkeys(sources), destinations={"ops": None}, routes=ROUTES)
    service = cast("Service", SimpleNamespace(config=config))
    actor = Actor("user", "ana", frozenset({VIEW}), own)
    return filter_form(service, actor, "/runs", given, ("text", "sink"), ("source", "run"))


def test_the_source_is_asked_for_where_there_are_several_to_see() -> None:
    def names(form: FilterForm) -> list[str]:
        return [each.name for each in (*form.common, *form.more)]

    assert names(form_of()) == ["text", "sink", "source", "run"]
    assert names(form_of(sources=("skyvern",))) == ["text", "sink", "run"]
    assert names(form_of(own="other")) == ["text", "sink", "run"]


def test_what_no_field_shows_is_kept_but_for_the_place_in_the_list() -> None:
    form = form_of(("limit", "5"), ("after", "x"), ("state", "dead"), ("run", "tsk_1"))
    assert form.hidden == [("limit", "5"), ("state", "dead")]
    # Neither is a filter of an action
    assert form.given == {"state": ["dead"], "run": ["tsk_1"]}
    assert form.more_given == 1


def test_what_there_is_not_stays_chosen() -> None:
    (_, sink) = form_of(("sink", "gone")).common
    assert (sink.values, sink.choices) == (["gone"], ["ops", "gone"])
