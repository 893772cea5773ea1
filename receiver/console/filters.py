"""The form over a list: the filters of its call, and what the page's address says of each."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from typing import Any, Final, Literal, NamedTuple, get_args, get_origin

from receiver.api.endpoint import Endpoint
from receiver.console.page import PATH, PageRequest, Query, next_page_of
from receiver.domain.attention import ACTIVE
from receiver.domain.run import FINAL

# What the form calls each filter.
LABELS: Final = {
    "text": "Words in title, reason or output",
    "run": "Run",
    "run_prefix": "Run id begins",
    "run_type": "Type",
    "event_id": "Event",
    "workflow": "Workflow",
    "label": "Label",
    "title": "Title has",
    "reason": "Reason has",
    "actor": "Who",
}
_EXAMPLES: Final = {"since": "24h", "until": "1h", "label": "team=sales", "action": "replay"}
# Of these a word is searched for, and / on the keyboard goes there.
_SEARCHED: Final = frozenset({"text", "reason"})
# What a list's address has beside its filters.
_PLACE: Final = frozenset({"after", "limit", "top"})


class FilterField(NamedTuple):
    """A field of the form. `choices`: what there is to choose from; empty: any text. `values`: what is given now.
    `wrong`: why that is not valid, or ""."""

    name: str
    label: str
    values: Sequence[str]
    choices: Sequence[str] = ()
    example: str = ""
    searched: bool = False
    wrong: str = ""


class FilterForm(NamedTuple):
    """The form. `action`: the list's path. `more`: fields that are seldom needed. `hidden`: what the address has that
    no field shows. `given`: the filter as an action on all that match takes it; empty: nothing is filtered."""

    action: str
    common: Sequence[FilterField]
    more: Sequence[FilterField]
    hidden: Query
    given: Mapping[str, Sequence[str]]

    @property
    def more_given(self) -> int:
        """How many of the fields that are seldom needed are given."""
        return sum(bool(each.values) for each in self.more)

    @property
    def wrong(self) -> Sequence[FilterField]:
        """The fields whose values are not valid."""
        return [each for each in (*self.common, *self.more) if each.wrong]

    def refused(self, given: Query, wrong: Mapping[str, str]) -> FilterForm:
        """Return the form as it was filled in, with what is `wrong` beside its fields, by their names."""
        values = _by_name(given)

        def again(field: FilterField) -> FilterField:
            chosen = values.get(field.name, [])
            return field._replace(
                values=chosen, choices=_with_given(field.choices, chosen), wrong=wrong.get(field.name, "")
            )

        common, more = ([again(each) for each in fields] for fields in (self.common, self.more))
        return self._replace(common=common, more=more, given=values)


def filter_form(
    request: PageRequest, path: str, call: Endpoint[Any, Any], common: Sequence[str], without: Collection[str] = ()
) -> FilterForm:
    """Return the form of a list, made of the parameters of its call. `path`: below PATH.

    `common`: parameters that are shown at once; the others, except those of `without`, are below. The source only
    shows where there are several to see.
    """
    fields, values = call.parameters.model_fields, _by_name(request.query)
    known = _choices(request)

    def field(name: str) -> FilterField:
        chosen = values.get(name, [])
        listed = known[name] if name in known else _values_of(fields[name].annotation)
        choices, label = _with_given(listed, chosen), LABELS.get(name, name.capitalize())
        return FilterField(name, label, chosen, choices, _EXAMPLES.get(name, ""), name in _SEARCHED)

    hides = {*_PLACE, *without, *(() if len(known["source"]) > 1 else ("source",))}
    shown = [field(name) for name in common if name not in hides]
    seldom = [field(name) for name in fields if name not in common and name not in hides]
    names = {each.name for each in (*shown, *seldom)}
    hidden = [(name, value) for name, value in request.query if name not in names and name != "after"]
    narrowed = {name: value for name, value in values.items() if name not in _PLACE}
    return FilterForm(PATH + path, shown, seldom, hidden, narrowed)


def list_page(
    request: PageRequest, call: Endpoint[Any, Any], title: str, common: Sequence[str], path: str = "", **fixed: str
) -> dict[str, Any]:
    """Return a page of the rows of a call that match the query, with its form and where it continues. `path`: by
    default the title's. `fixed`: parameters of the list that its form does not have."""
    path = path or f"/{title.lower()}"
    request = replace(request, query=[each for each in request.query if each[0] not in fixed])
    page = replace(request, query=[*request.query, *fixed.items()]).call_as_asked(call)
    form = filter_form(request, path, call, common, without=fixed)
    next_page = next_page_of(path, request.query, page)
    return {"title": title, "here": title, "rows": page.items, "form": form, "next_page": next_page}


def _values_of(annotation: Any) -> Sequence[str]:
    """Return what a parameter may be, if it is one of a few."""
    kind = next(iter(get_args(annotation)), None)
    if get_origin(kind) is Literal:
        return get_args(kind)
    return [each.value for each in kind] if isinstance(kind, type) and issubclass(kind, Enum) else ()


def _by_name(given: Query) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    for name, value in given:
        values.setdefault(name, []).append(value)
    return values


def _with_given(listed: Sequence[str], chosen: Sequence[str]) -> Sequence[str]:
    """Return the choices of a field; given values stay, even unknown ones: the list then reports them."""
    return [*listed, *(each for each in chosen if each not in listed)] if listed else ()


def _choices(request: PageRequest) -> dict[str, Sequence[str]]:
    """Return the choices by the name of the filter. A person of one source cannot choose another."""
    config = request.service.config
    return {
        "source": [] if request.actor.source else list(config.sources),
        "sink": list(config.destinations),
        "route": [each.name for each in config.routes],
        "status": [*sorted(FINAL), *sorted(ACTIVE)],
    }
