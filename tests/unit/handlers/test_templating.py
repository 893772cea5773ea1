"""Templates are strict at load, sandboxed, and nothing of a payload is ever read as template text."""

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
        ("x" * 70_000, "at most 65,536 characters in a template"),
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
def test_template_that_does_not_fit_is_refused_without_values(source: str, words: str) -> None:
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


@pytest.mark.parametrize("source", ["{{ '*' * run.count }}", "{{ run.count * [1] }}", "{{ 2 ** run.count }}"])
def test_numbers_of_a_payload_cannot_exhaust_memory(source: str) -> None:
    with pytest.raises(Refused, match=r"too large|not supported"):
        render(source, run={"count": 10**12})


def test_short_repetition_is_allowed() -> None:
    assert render("{{ '*' * run.stars }} {{ 3 * 4 }}", run={"stars": 3}) == "*** 12"


def test_a_value_that_looks_like_a_template_stays_a_value() -> None:
    assert render("{{ run.evil }}", run={"evil": "{{ 7 * 7 }}{% include 'x' %}"}) == "{{ 7 * 7 }}{% include 'x' %}"


def test_a_field_of_the_payload_wins_over_a_method_of_its_name() -> None:
    assert render("{{ run.items }} {{ run.get }}", run={"items": 3, "get": "g"}) == "3 g"
    assert render("{% for k, v in run.items() %}{{ k }}={{ v }}{% endfor %}", run={"a": 1}) == "a=1"


def test_finalizer_converts_values_but_not_template_text() -> None:
    template = templating.compile(
        "a/{{ run.x }}/{% set y = run.x ~ '/' %}{{ y | upper }}", variables=["run"], finalize=_no_slash
    )
    assert template.render({"run": {"x": "b/c"}}) == "a/b_c/B_C_"


def _no_slash(value: Any) -> str:
    return templating.plain(value).replace("/", "_")


def test_json_is_not_escaped_for_html() -> None:
    assert render("{{ run.x | tojson }}", run={"x": "<ü> & 'é'"}) == "\"<ü> & 'é'\""


def test_context_is_complete_for_an_unparseable_body() -> None:
    delivery = Delivery(
        key="dlv_1", event_id="evt_1", sink="s", attempt=7, source="skyvern", run_id="", run_type="", status="",
        received_at=datetime(2026, 3, 4, 5, 6, tzinfo=UTC), body=b"\xff", run={}, problem="not JSON",
    )  # fmt: skip
    context = templating.context_of(delivery)
    assert set(context) == templating.VARIABLES
    template = templating.compile("{{ run.run_id }}|{{ run.outcome }}|{{ date.year }}-{{ date.month }}|{{ event.id }}")
    assert template.render(context) == "||2026-03|evt_1"


def test_what_a_template_is_for_costs_little_of_what_it_may_use() -> None:
    rows = [{"name": f"item {n}", "price": n, "tags": ["a", "b"]} for n in range(2000)]
    source = (
        "{% for row in run.rows if row.price % 2 == 0 %}{{ loop.index }}/{{ loop.length }} {{ row.name | upper }}: "
        "{{ '%.2f' | format(row.price) }} {{ row.tags | join(', ') }}{% if not loop.last %}; {% endif %}{% endfor %}"
        "{{ '{:>8}'.format(run.rows | sum('price')) }} {{ run.rows | map(attribute='name') | first | default('none') }}"
        "{{ (run.rows | selectattr('price', 'gt', 1990) | list | tojson)[:20] ~ '…' }}"
    )

    text = render(source, run={"rows": rows})

    assert text.startswith("1/1000 ITEM 0: 0.00 a, b; 2/1000 ITEM 2: 2.00 a, b; ")
    assert text.endswith('; 1000/1000 ITEM 1998: 1998.00 a, b 1999000 item 0[{"name": "item 1991…')


def test_a_long_text_beside_what_is_formatted_is_no_matter() -> None:
    run = {"text": "x" * 5_000_000, "status": "failed"}

    assert render("{{ '%(status)s' % run }} {{ '{status}'.format(**run) }} {{ '%s' % run.status }}", run=run) == (
        "failed failed failed"
    )


def test_a_long_text_of_a_payload_may_be_used() -> None:
    assert render("{{ (run.text | upper | trim)[:3] }} {{ run.text.split()[0] }}", run={"text": "abc " * 500_000}) == (
        "ABC abc"
    )
