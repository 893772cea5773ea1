"""deploy/prometheus and deploy/grafana: their expressions are PromQL, and name metrics, labels and codes that exist."""

import json
import re
from collections.abc import Iterator

import promql_parser
import pytest
import yaml

from receiver.checks.finding import FAULTS
from tests.support.paths import ROOT

RULES = yaml.safe_load((ROOT / "deploy" / "prometheus" / "runhook.rules.yaml").read_text())["groups"][0]["rules"]
PANELS = json.loads((ROOT / "deploy" / "grafana" / "runhook.json").read_text())["panels"]
PAGE = (ROOT / "docs" / "reference" / "metrics.md").read_text()
ROWS = re.findall(r"^\| `(runhook_\w+)` \| ([\w, ]*)\|(.*)\|$", PAGE, re.MULTILINE)
# The labels by the name of a sample. `up` is Prometheus' own, as the labels `job` and `instance`.
LABELS: dict[str, set[str]] = {"up": set(), "process_cpu_seconds_total": set(), "process_resident_memory_bytes": set()}
for name, labels, meaning in ROWS:
    suffixes = ("_bucket", "_count", "_sum") if meaning.strip().startswith("histogram") else ("",)
    LABELS |= {name + suffix: set(re.findall(r"\w+", labels)) for suffix in suffixes}

EXPRESSIONS = {
    **{rule["alert"]: rule["expr"] for rule in RULES},
    **{
        f"{panel['title']} {target['refId']}": target["expr"].replace("$__rate_interval", "1m")
        for panel in PANELS
        for target in panel["targets"]
    },
}

expressions = pytest.mark.parametrize("expression", EXPRESSIONS.values(), ids=EXPRESSIONS)


def selectors(expression: str) -> Iterator[promql_parser.VectorSelector]:
    """The selectors of samples in an expression."""
    found: list[promql_parser.VectorSelector] = []

    def visit(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)

    promql_parser.walk(promql_parser.parse(expression), visit)
    return iter(found)


@expressions
def test_an_expression_selects_samples_and_labels_that_the_page_lists(expression: str) -> None:
    chosen = list(selectors(expression))
    assert chosen
    for selector in chosen:
        assert selector.name in LABELS
        assert {each.name for each in selector.matchers.matchers} <= LABELS[selector.name] | {"job"}


@expressions
def test_an_expression_groups_by_labels_that_its_samples_have(expression: str) -> None:
    known = set().union(*(LABELS[selector.name] for selector in selectors(expression)))
    for names in re.findall(r"\bby \(([^)]*)\)", expression):
        assert set(re.split(r",\s*", names)) <= known | {"le", "instance"}


def test_each_problem_of_status_is_one_alert() -> None:
    # Given the two rules on problems, one for urgent codes and one for the others
    matchers = [
        each
        for rule in RULES
        for selector in selectors(rule["expr"])
        if selector.name == "runhook_problems"
        for each in selector.matchers.matchers
    ]
    only, others = (next(each for each in matchers if str(each.op).endswith(op)) for op in (".Re", ".NotRe"))

    # Then they are each other's complement, and name only codes of faults
    assert len(matchers) == 2
    assert only.value == others.value
    assert set(only.value.split("|")) <= set(FAULTS)


def test_panels_do_not_overlap() -> None:
    places = [panel["gridPos"] for panel in PANELS]
    cells = [
        (x, y) for at in places for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(cells) == len(set(cells))
    assert {x for x, _ in cells} == set(range(24))
