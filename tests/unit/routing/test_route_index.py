"""Many routes: those that can't match are not tested, and nothing else comes of that."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.config.destinations import RouteConfig
from receiver.domain.run import parse
from receiver.routing import cel
from receiver.routing.mapping import compile_mapping
from receiver.routing.route_index import FEW, WantedText, wanted_by_expression, wanted_by_mapping
from receiver.routing.router import Router, RunView


def view(run: Mapping[str, Any]) -> RunView:
    body = json.dumps({"run_id": "tsk_1", "run_type": "task_v1", "status": "completed", **run}).encode()
    return RunView(parse(body), "skyvern", "webhook", "new", {"team": "a"}, 1795529602.0, "evt_1")


def router(rules: list[Any], **more: Any) -> Router:
    # so many that no rule is left out of the index
    filler = [RouteConfig(name=f"filler {n}", when={"run_id": f"none_{n}"}, to=["never"]) for n in range(FEW)]
    return Router(
        [*(RouteConfig(name=f"{n}", when=when, to=[f"s{n}"], **more) for n, when in enumerate(rules)), *filler]
    )


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        ('run.status == "failed"', [WantedText(("status",), ("failed",))]),
        ("'failed' == run.status", [WantedText(("status",), ("failed",))]),
        ('run.status in ["failed", "timed_out"]', [WantedText(("status",), ("failed", "timed_out"))]),
        ('run.output.total > 5.0 && run.a.b == "x"', [WantedText(("a", "b"), ("x",))]),
        (
            'event.source == "x" && run.status == "y"',
            [WantedText(("event", "source"), ("x",)), WantedText(("status",), ("y",))],
        ),
        ('run.status == "a\\"b"', [WantedText(("status",), ('a"b',))]),
        ('run.errors.exists(e, e.code == "X") && run.status == "y"', [WantedText(("status",), ("y",))]),
        # What is no such comparison, or not needed for the whole to be true
        ('run.status == "a" || run.status == "b"', []),
        ('run.status == "a" && run.x == "b" || run.y == "c"', []),
        ('run.status == "a" ? run.x == "b" : run.y == "c"', []),
        ('!(run.status == "a")', []),
        ('run.status != "a"', []),
        ('(run.status == "a")', []),
        ("run.status == run.other", []),
        ("run.attempt == 1", []),
        ('run.created_at == "2026"', []),
        ('run.event == "x"', []),
        ('run["status"] == "x"', []),
        ("run.status in run.list", []),
        ('run.status in ["a", run.b]', []),
        ("run.status in []", []),
        ('"a" in run.list', []),
        ('run.status.startsWith("a")', []),
        ('run.a == "x" == true', []),
        ("true", []),
    ],
)
def test_what_an_expression_cannot_be_true_without(rule: str, wanted: list[WantedText]) -> None:
    assert wanted_by_expression(rule, cel.literal) == wanted


@pytest.mark.parametrize(
    ("when", "wanted"),
    [
        ({"status": "failed"}, [WantedText(("status",), ("failed",))]),
        ({"run.labels.team": ["a", "b"]}, [WantedText(("labels", "team"), ("a", "b"))]),
        ({"status": "fail*"}, []),
        ({"status": ["failed", "time?_out"]}, []),
        ({"attempt": 1}, []),
        ({"status": ["failed", None]}, []),
        ({"errors.*.code": "X"}, []),
    ],
)
def test_what_a_mapping_cannot_match_without(when: dict[str, Any], wanted: list[WantedText]) -> None:
    assert wanted_by_mapping(compile_mapping(when)[0]) == wanted


TEXTS = st.sampled_from(["a", "b", "é", "?", "\ud800", "completed", "1", ""])
VALUES = TEXTS | st.none() | st.booleans() | st.integers(0, 2) | st.lists(TEXTS, max_size=2)
NAMES = st.sampled_from(["x", "y", "x.y", "event", "status", "created_at", "0"])
RUNS = st.dictionaries(NAMES, VALUES | st.dictionaries(NAMES, VALUES, max_size=2), max_size=4)
PATHS = st.sampled_from(
    ["x", "y", "x.y", "status", "run.x", "x.0", "event.source", "labels.team", "y.x.y", "created_at"]
)
MAPPINGS = st.dictionaries(PATHS, VALUES | st.just("a*"), min_size=1, max_size=2).filter(
    lambda it: [] not in it.values()
)
CEL_PATHS = st.sampled_from(["run.x", "run.y", "run.x.y", "run.status", "event.source", "run.event", "run.created_at"])
CEL_TEXTS = st.sampled_from(["a", "b", "é", "?", "completed", "1", "skyvern", ""]).map(json.dumps)
COMPARISONS = st.one_of(
    st.tuples(CEL_PATHS, CEL_TEXTS).map(" == ".join),
    st.tuples(CEL_TEXTS, CEL_PATHS).map(" == ".join),
    st.tuples(CEL_PATHS, CEL_TEXTS, CEL_TEXTS).map(lambda it: f"{it[0]} in [{it[1]}, {it[2]}]"),
    CEL_PATHS.map(lambda path: f"has({path})" if path.count(".") else path),
    st.just("run.attempt < 2.0"),
)
EXPRESSIONS = st.tuples(COMPARISONS, st.sampled_from([" && ", " || "]), COMPARISONS).map("".join) | COMPARISONS


@given(run=RUNS, rules=st.lists(MAPPINGS | EXPRESSIONS, min_size=1, max_size=5), stop=st.booleans())
def test_the_same_routes_match_as_when_each_is_tested(run: dict[str, Any], rules: list[Any], stop: bool) -> None:
    routes = router(rules, stop=stop)
    seen = view(run)
    assert routes.match(seen).targets == routes.match(seen, explain=True).targets


def test_a_route_that_cannot_match_is_not_tested() -> None:
    # Given a rule for each of a thousand workflows, as a mapping and as an expression, and one for all
    rules = [{"workflow_id": f"wpid_{n}", "status": "completed"} for n in range(500)]
    more = [f'run.workflow_id == "wpid_{n}" && run.attempt < 5' for n in range(500)]
    routes = router([*rules, *more, None])
    # When an event of one of them is matched
    verdict = routes.match(view({"workflow_id": "wpid_7"}))
    # Then these two and the last are all that was tested
    assert [each.route for each in verdict.explanations] == ["7", "507", "1000"]


def test_a_value_that_is_no_text_is_left_to_the_rules() -> None:
    routes = router(['run.x == "a"', {"x": "a"}])
    assert routes.match(view({"x": 5})).explanations
    assert routes.match(view({"x": 5})).targets == []
