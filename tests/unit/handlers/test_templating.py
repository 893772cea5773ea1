"""Templates are strict at load, sandboxed, and nothing of a payload is ever read as template text."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from handlers.contract import Delivery, Refused
from handlers.support import templating


def render(source: str, **context: Any) -> str:
    return templating.compile(source, variables=context).render(context)


def test_values_read_as_in_json() -> None:
    values = {"null": None, "yes": True, "obj": {"a": [1, "ü"]}, "number": 29, "text": "x"}
    assert render("{{ v.null }}|{{ v.yes }}|{{ v.obj }}|{{ v.number }}|{{ v.text }}", v=values) == (
        '|true|{"a":[1,"ü"]}|29|x'
    )


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ run.status", "line 1: unexpected end of template"),
        ("\n{% if run %}", "line 2: Unexpected end of template"),
        ("{{ rum.status }}", "unknown variable rum; did you mean run?"),
        ("{{ config }}", "unknown variable config; there are event, run"),
        ("{% include 'secrets' %}", "can't include or import"),
        ("{% import 'os' as os %}", "can't include or import"),
        ("{{ run.x | nothing }}", "No filter named 'nothing'"),
        ("{{ run.x | random }}", "No filter named 'random'"),
        ("x" * 70_000, "a template may have 65,536 characters"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "nested too deeply"),
    ],
)
def test_a_wrong_template_is_one_clear_line_at_load(source: str, words: str) -> None:
    with pytest.raises(templating.TemplateError) as caught:
        templating.compile(source, name="prefix", variables=["run", "event"])
    assert words in str(caught.value)
    assert str(caught.value).startswith("prefix")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ run.missing }}", "has no attribute 'missing'"),
        ("{{ run.missing.deeper }}", "has no attribute 'missing'"),
        ("{{ run['missing'] | upper }}", "has no attribute 'missing'"),
        ("{{ run.text | int + run.text }}", "TypeError"),
        ("{{ 1 // 0 }}", "ZeroDivisionError"),
        ("{{ run.text.upper }}", "a function is printed"),
        ("{{ run.missing | tojson }}", "has no attribute 'missing'"),
    ],
)
def test_a_template_that_does_not_fit_the_run_is_refused_without_showing_values(source: str, words: str) -> None:
    with pytest.raises(Refused) as caught:
        render(source, run={"text": "hush-hush"})
    assert words in str(caught.value)
    assert "hush-hush" not in str(caught.value)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ run.__class__ }}",
        "{{ run['__class__'] }}",
        "{{ run.update({'a': 1}) }}",
        "{{ run.list.append(1) }}",
        "{{ run | attr('__init__') }}",
        "{{ '{0.__class__}'.format(run) }}",
        "{{ range.__globals__ }}",
        "{{ 'x' * 999999999 }}",
        "{{ 999999999 * [1] }}",
        "{{ 9 ** 999999999 }}",
        "{{ range(999999999) | list }}",
        "{% for a in range(90000) %}xxxxxxxxxx{% endfor %}",
    ],
)
def test_the_sandbox_holds(source: str) -> None:
    with pytest.raises(Refused):
        render(source, run={"list": []})


def test_a_value_that_looks_like_a_template_stays_a_value() -> None:
    assert render("{{ run.evil }}", run={"evil": "{{ 7 * 7 }}{% include 'x' %}"}) == "{{ 7 * 7 }}{% include 'x' %}"


def test_a_field_of_the_payload_wins_over_a_method_of_its_name() -> None:
    assert render("{{ run.items }} {{ run.get }}", run={"items": 3, "get": "g"}) == "3 g"
    assert render("{% for k, v in run.items() %}{{ k }}={{ v }}{% endfor %}", run={"a": 1}) == "a=1"


def test_the_finalizer_has_the_last_word_on_each_value_but_not_on_the_template() -> None:
    template = templating.compile(
        "a/{{ run.x }}/{% set y = run.x ~ '/' %}{{ y | upper }}", variables=["run"], finalize=_no_slash
    )
    assert template.render({"run": {"x": "b/c"}}) == "a/b_c/B_C_"


def _no_slash(value: Any) -> str:
    return templating.plain(value).replace("/", "_")


def test_json_is_not_escaped_for_html() -> None:
    assert render("{{ run.x | tojson }}", run={"x": "<ü> & 'é'"}) == "\"<ü> & 'é'\""


def test_the_context_of_a_delivery_is_complete_even_when_its_body_could_not_be_parsed() -> None:
    delivery = Delivery(
        key="dlv_1", event_id="evt_1", sink="s", attempt=7, source="skyvern", run_id="", run_type="", status="",
        received_at=datetime(2026, 3, 4, 5, 6, tzinfo=UTC), body=b"\xff", run={}, problem="not JSON",
    )  # fmt: skip
    context = templating.context_of(delivery)
    assert set(context) == templating.VARIABLES
    template = templating.compile("{{ run.run_id }}|{{ run.outcome }}|{{ date.year }}-{{ date.month }}|{{ event.id }}")
    assert template.render(context) == "||2026-03|evt_1"
