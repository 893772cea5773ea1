"""The form over a list: its fields, and what it keeps of the page's address."""

from types import SimpleNamespace
from typing import Any, cast

from receiver.api.runs import LIST_RUNS
from receiver.api.service import Actor, Service
from receiver.console.filters import FilterForm, filter_form
from receiver.console.page import PageRequest
from receiver.domain.api_key import VIEW

ROUTES = [SimpleNamespace(name="all")]


def form_of(*given: tuple[str, str], sources: tuple[str, ...] = ("skyvern", "other"), own: str = "") -> FilterForm:
    config: Any = SimpleNamespace(sources=dict.fromkeys(sources), destinations={"ops": None}, routes=ROUTES)
    service = cast("Service", SimpleNamespace(config=config))
    actor = Actor("user", "ana", frozenset({VIEW}), own)
    request = PageRequest(service, actor, {}, given)
    return filter_form(request, "/runs", LIST_RUNS, ("text", "sink"), without=("state",))


def test_source_is_a_field_where_several_can_be_seen() -> None:
    def names(form: FilterForm) -> list[str]:
        return [each.name for each in (*form.common, *form.more)]

    assert "source" in names(form_of())
    assert "source" not in names(form_of(sources=("skyvern",)))
    assert "source" not in names(form_of(own="other"))


def test_form_has_the_parameters_of_the_call() -> None:
    form = form_of()
    fields = {each.name: each for each in (*form.common, *form.more)}
    assert list(fields)[:2] == ["text", "sink"]
    assert set(fields) == LIST_RUNS.parameters.model_fields.keys() - {"limit", "after", "state"}
    assert fields["route"].choices == ["all"]
    assert "completed" in fields["status"].choices


def test_other_parameters_are_kept_without_the_place() -> None:
    form = form_of(("limit", "5"), ("after", "x"), ("state", "dead"), ("run", "tsk_1"))
    assert form.hidden == [("limit", "5"), ("state", "dead")]
    # Neither is a filter of an action
    assert form.given == {"state": ["dead"], "run": ["tsk_1"]}
    assert form.more_given == 1


def test_unknown_choice_stays_chosen() -> None:
    (_, sink) = form_of(("sink", "gone")).common
    assert (sink.values, sink.choices) == (["gone"], ["ops", "gone"])
