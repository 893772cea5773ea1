"""The form over a list: the filters of its call, and what the page's address says of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from receiver.api.service import Actor, Service
from receiver.console.page import PATH, Query
from receiver.domain.attention import ACTIVE
from receiver.domain.delivery import DeliveryState
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
_PLACE: Final = frozenset({"after", "limit"})


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
    service: Service,
    actor: Actor,
    path: str,
    given: Query,
    common: Iterable[str],
    more: Iterable[str] = (),
    choices: Mapping[str, Sequence[str]] | None = None,
) -> FilterForm:
    """Return the form of a list. `path`: below PATH. `given`: the address's query without what is empty.

    `common`, `more`: names of filters of the list's call; the source only shows where there are several to see.
    `choices`: by name, where they are others than most lists have.
    """
    known = {**_choices(service, actor), **(choices or {})}
    values = _by_name(given)

    def field(name: str) -> FilterField:
        chosen = values.get(name, [])
        every, label = _with_given(known.get(name, ()), chosen), LABELS.get(name, name.capitalize())
        return FilterField(name, label, chosen, every, _EXAMPLES.get(name, ""), name in _SEARCHED)

    def fields(names: Iterable[str]) -> list[FilterField]:
        return [field(name) for name in names if name != "source" or len(known["source"]) > 1]

    shown, seldom = fields(common), fields(more)
    names = {each.name for each in (*shown, *seldom)}
    hidden = [(name, value) for name, value in given if name not in names and name != "after"]
    narrowed = {name: value for name, value in values.items() if name not in _PLACE}
    return FilterForm(PATH + path, shown, seldom, hidden, narrowed)


def _by_name(given: Query) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    for name, value in given:
        values.setdefault(name, []).append(value)
    return values


def _with_given(listed: Sequence[str], chosen: Sequence[str]) -> Sequence[str]:
    """Return the choices of a field; given values stay, even unknown ones: the list then reports them."""
    return [*listed, *(each for each in chosen if each not in listed)] if listed else ()


def _choices(service: Service, actor: Actor) -> dict[str, Sequence[str]]:
    """Return what there is to choose from, by the name of the filter. Who sees one source only has no other."""
    config = service.config
    return {
        "source": [] if actor.source else list(config.sources),
        "sink": list(config.destinations),
        "route": [each.name for each in config.routes],
        "state": [each.value for each in DeliveryState],
        "status": [*sorted(FINAL), *sorted(ACTIVE)],
    }
