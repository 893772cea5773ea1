"""Which deliveries a result lacks: tables, then properties over random routes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.dispatch.missing import missing
from receiver.domain.run import parse
from receiver.routing.route import RouteConfig, ToSink
from receiver.routing.router import Router, RunView, Target

RUN = parse(json.dumps({"run_id": "tsk_1", "run_type": "task_v2", "status": "completed"}).encode())
ROUTES = [
    RouteConfig(name="all", to=["archive", ToSink(sink="chat", after=["archive"])]),
    RouteConfig(name="failed", when={"status": "failed"}, to=["pager"]),
    RouteConfig(name="updates", to=["log"], updates=True),
]
COMPLETING = ["archive"]

ARCHIVE, CHAT, LOG = Target("archive", "all"), Target("chat", "all", ("archive",)), Target("log", "updates")


def view(disposition: str = "new") -> RunView:
    return RunView(RUN, "skyvern", "webhook", disposition, {}, 1_795_529_602.0, "evt_1")


@pytest.mark.parametrize(
    ("reached", "outdated", "expected"),
    [
        ([], [], [ARCHIVE, CHAT, LOG]),
        (["archive"], [], [CHAT, LOG]),
        (["archive", "chat", "log"], [], []),
        (["pager", "removed"], [], [ARCHIVE, CHAT, LOG]),
        ([], ["archive", "chat", "log"], [ARCHIVE, LOG]),
        ([], ["archive"], [ARCHIVE, CHAT, LOG]),
        (["log"], ["archive", "chat"], [ARCHIVE]),
        (["archive"], ["archive"], [CHAT, LOG]),
    ],
)
def test_lists_the_deliveries_that_a_result_lacks(
    reached: list[str], outdated: list[str], expected: list[Target]
) -> None:
    assert missing(view("update"), Router(ROUTES, COMPLETING), reached, outdated).targets == expected


@pytest.mark.parametrize("disposition", ["interim", "repeat", "superseded", "test"])
def test_routes_decide_which_dispositions_match(disposition: str) -> None:
    assert missing(view(disposition), Router(ROUTES, COMPLETING), []).targets == []


def test_waits_for_a_sink_that_no_route_names_any_longer() -> None:
    router = Router([RouteConfig(name="r", to=[ToSink(sink="chat", after=["archive"])])])
    assert missing(view(), router, []).targets == [Target("chat", "r")], "the result never reaches archive"
    assert missing(view(), router, ["archive"]).targets == [Target("chat", "r", ("archive",))]


def test_reaches_names_all_sinks_of_matching_routes() -> None:
    assert missing(view(), Router(ROUTES), ["archive", "log"]).reaches == ("archive", "chat", "log")


def test_failed_rules_are_reported_and_counted() -> None:
    router = Router([RouteConfig(name="bad", when='run.total_cost > "a"', to=["chat"])])
    found = missing(
        RunView(parse(b'{"run_id": "tsk_1", "status": "completed", "total_cost": 1}'), *view()[1:]), router, []
    )
    assert (found.targets, [each.error for each in found.explanations]) == ([], [True])
    assert router.failures == {"bad": 1}


SINKS = ("a", "b", "c", "d")
some_sinks = st.sets(st.sampled_from(SINKS))
a_route: Any = st.tuples(
    st.sampled_from([None, {"status": "completed"}, {"status": "failed"}]),
    st.lists(st.sampled_from(SINKS), min_size=1, max_size=3, unique=True),
    st.booleans(),
)


@given(st.lists(a_route, max_size=4), some_sinks, some_sinks, some_sinks)
def test_each_sink_gets_a_result_once(
    routes: list[tuple[Any, list[str], bool]], completing: set[str], reached: set[str], outdated: set[str]
) -> None:
    configs = [
        RouteConfig(name=f"r{index}", when=when, to=list(to), updates=updates)
        for index, (when, to, updates) in enumerate(routes)
    ]
    router = Router(configs, completing)
    found = missing(view("update"), router, reached, outdated)
    sinks = [target.sink for target in found.targets]

    assert len(sinks) == len(set(sinks))
    assert not reached & set(sinks)
    assert set(found.reaches) == {sink for when, to, _ in routes if when != {"status": "failed"} for sink in to}
    assert set(found.reaches) - reached - outdated <= set(sinks) <= set(found.reaches)
    assert all(router.gets_updates(each.sink, each.route) for each in found.targets if each.sink in outdated)
    assert missing(view("update"), router, {*reached, *sinks}, outdated - set(sinks)).targets == [], "a second time"
