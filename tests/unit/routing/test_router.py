"""Which sinks an event goes to. Tables first: a rule, a run, and what is expected of them."""

import json
import time
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from receiver.domain.run import parse
from receiver.routing.route import RouteConfig, ToSink
from receiver.routing.router import Router, RouteVerdict, RunView, Target
from receiver.routing.validation import mentioned_fields, order_problems, rule_problems

RUN: dict[str, Any] = {
    "run_id": "tsk_1",
    "run_type": "task_v2",
    "status": "completed",
    "created_at": "2026-11-24T14:13:21.520450",
    "finished_at": "2026-11-24T14:23:21.520450Z",
    "modified_at": "2026-11-24T14:23:22",
    "failure_reason": None,
    "total_cost": 29,
    "step_count": 3,
    "errors": [{"error_code": "LOGIN_FAILED"}, {"reasoning": "no code"}],
    "output": {
        "total": 1500, "price": 29.5, "vendor": "Acme Ltd", "paid": True, "nothing": None, "a b": 1,
        "with.dot": {"x": 2}, "tags": ["new", "big"], "lines": [{"n": 1}, {"n": 2.5}], "id": 2**60, "huge": 10**400,
    },
}  # fmt: skip


def view(run: Mapping[str, Any] = RUN, **more: Any) -> RunView:
    given = {
        "source": "skyvern",
        "via": "webhook",
        "disposition": "new",
        "labels": {"team": "billing"},
        "received_at": 1795529602.0,
        "event_id": "evt_1",
    }
    return RunView(run=parse(json.dumps(run).encode()), **{**given, **more})


def route(name: str = "r", when: Any = None, to: Any = ("s",), **more: Any) -> RouteConfig:
    return RouteConfig(name=name, when=when, to=list(to), **more)


def verdict(when: Any, seen: RunView | None = None, *, explain: bool = False) -> RouteVerdict:
    (only,) = Router([route(when=when)]).match(seen or view(), explain=explain).explanations
    return only


# --- Mappings


@pytest.mark.parametrize(
    ("when", "matched"),
    [
        ({"status": "completed"}, True),
        ({"status": "failed"}, False),
        ({"status": ["failed", "completed"]}, True),
        ({"status": ["failed", "timed_out"]}, False),
        ({"status": "comp*"}, True),
        ({"status": "complete?"}, True),
        ({"status": "Completed"}, False),
        ({"status": ["fail*", "term*"]}, False),
        ({"status": "completed", "run_type": "task_v2"}, True),
        ({"status": "completed", "run_type": "task_v1"}, False),
        ({"run.status": "completed"}, True),
        ({"output.vendor": "Acme*"}, True),
        ({"output": {"vendor": "Acme*", "paid": True}}, True),
        ({"output": {"vendor": "Acme*", "paid": False}}, False),
        # numbers by value, and a truth value is none
        ({"output.total": 1500}, True),
        ({"output.total": 1500.0}, True),
        ({"output.total": "1500"}, False),
        ({"output.paid": True}, True),
        ({"output.paid": 1}, False),
        ({"output.lines.0.n": True}, False),
        # null is null, and absent is absent
        ({"output.nothing": None}, True),
        ({"failure_reason": None}, True),
        ({"output.absent": None}, False),
        ({"output.absent": "*"}, False),
        ({"output.total": None}, False),
        ({"output.nothing": "*"}, False),
        ({"output.nothing": [None, "x"]}, True),
        # lists, and names that need care
        ({"output.lines.1.n": 2.5}, True),
        ({"output.lines.7.n": 2.5}, False),
        ({"output.lines.*.n": 2.5}, True),
        ({"output.lines.*.n": 9}, False),
        ({"output.tags.*": "big"}, True),
        ({"output.tags": "big"}, False),
        ({"output.*": "Acme Ltd"}, True),
        ({"errors.*.error_code": "LOGIN_*"}, True),
        ({"output.a b": 1}, True),
        ({"output.with.dot.x": 2}, True),
        ({"output": {"with.dot": {"x": 2}}}, True),
        ({"output.vendor.deeper": "x"}, False),
        # what is ours
        ({"labels.team": "bill*"}, True),
        ({"labels": {"team": "other"}}, False),
        ({"labels.absent": "x"}, False),
        ({"event.via": "webhook"}, True),
        ({"event": {"source": "skyvern", "via": ["poll", "webhook"]}}, True),
        ({"event.source": "other"}, False),
        ({"attempt": 1}, True),
        ({"retry_pending": False}, True),
        ({"outcome": "completed", "original_status": "completed"}, True),
    ],
)
def test_a_mapping_matches(when: dict[str, Any], matched: bool) -> None:
    assert verdict(when).matched is matched


# --- CEL

TRUE_RULES = [
    'run.status == "completed"',
    "run.status in ['failed', 'completed']",
    'run.output.vendor.startsWith("Acme") && run.output.vendor.contains("Ltd")',
    'run.output.vendor.matches("^Acme .*$")',
    "run.output.total > 1000.0",
    "run.output.total > 1000",
    "run.output.total == 1500",
    "run.output.total + 0.5 == 1500.5",
    "run.output.price * 2.0 == 59.0",
    "run.output.total in [1, 1500]",
    "run.total_cost + 0.5 > 29.0",
    "run.attempt == 1",
    "run.output.id == 1152921504606846976",
    "run.output.huge > 1e300",
    "run.output.paid",
    "!run.retry_pending",
    "run.output.nothing == null",
    "run.output.nothing != 'x'",
    "has(run.output.total) && run.output.total > 5",
    "!has(run.output.absent)",
    "!has(run.output.absent) || run.output.absent > 5",
    'run.output["a b"] == 1',
    "run['output'].total == 1500",
    "run.output.lines[1].n == 2.5",
    "has(run.output.lines[1].n)",
    "run.output.lines.exists(l, l.n > 2.0)",
    "run.output.lines.all(l, l.n >= 1)",
    "run.output.lines.filter(l, l.n > 2.0).size() == 1",
    "run.output.lines.map(l, l.n)[0] == 1",
    "run.output.lines.exists_one(l, run.output.price > 29.0 && l.n == 1)",
    "run.errors.exists(e, has(e.error_code) && e.error_code == 'LOGIN_FAILED')",
    "size(run.output.tags) == 2 && 'big' in run.output.tags",
    '"total" in run.output',
    "run.labels.team == 'billing'",
    'event.via == "webhook" && event.source == "skyvern" && event.id == "evt_1"',
    'event.disposition == "new"',
    'run.finished_at - run.created_at > duration("9m59s")',
    'run.finished_at - run.created_at < duration("10m1s")',
    'run.created_at > timestamp("2026-11-24T14:13:21Z")',
    "run.created_at.getFullYear() == 2026",
    "event.received_at > run.modified_at - duration('1h')",
    "run.status == 'completed' ? run.output.total > 5 : false",
    "run.absent == 1 || run.status == 'completed'",
    "type(run.output.total) == double",
    "int(run.step_count) % 2 == 1",
    "// a comment\nrun.status == 'completed'",
    "run.output[run.status == 'completed' ? 'total' : 'price'] == 1500",
    "run.status in {'completed': 1}",
    "true",
]
FALSE_RULES = [
    'run.status == "failed"',
    "run.output.total == '1500'",
    "run.output.paid == 1",
    "has(run.output.absent)",
    "run.output.lines.exists(l, l.n == 9)",
    "run.labels.team == 'x' || event.via == 'poll'",
    "run.absent == 1 && run.status == 'failed'",
]
MISSING_RULES = [
    ("run.absent", "run.absent is missing"),
    ("!run.absent", "run.absent is missing"),
    ('run.absent == "x"', "run.absent is missing"),
    ('run.absent != "x"', "run.absent is missing"),
    ("run.absent == null", "run.absent is missing"),
    ("!(run.output.absent > 5)", "run.output.absent is missing"),
    ("run.output.absent.deeper == 1", "run.output.absent is missing"),
    ("has(run.output.absent.deeper)", "run.output.absent is missing"),
    ("run.labels.absent == 'x'", "run.labels.absent is missing"),
    ("run.absent == 1 || run.status == 'failed'", "run.absent is missing"),
    ("run.errors.exists(e, e.error_code == 'X')", "a field error_code is missing"),
    ("run.output.lines[9].n == 1", "a list is shorter than that"),
]
FAILING_RULES = [
    # A type that does not fit, or a result that is no truth value.
    ("run.output.nothing > 1", "the types don't fit: run.output.nothing is null"),
    ("run.output.vendor > 1", "is a text; to compare a text as a number, write double(run.output.vendor)"),
    ("run.status == 'completed' && run.output.vendor > 1.0", "the types don't fit: run.output.vendor is a text;"),
    ("run.output.vendor.deeper == 1", "run.output.vendor is a text and has no field deeper"),
    ("run.failure_reason.contains('x')", "contains can't be done: run.failure_reason is null"),
    ("run.output.total + 1 > 5", "write 1.0 for 1"),
    ("run.output.vendor", "it gives a text, not true or false"),
    ("run.output.total", "it gives a number, not true or false"),
    ("run.output", "it gives a mapping, not true or false"),
    ("timestamp(run.status) > event.received_at", "error"),
]


@pytest.mark.parametrize(
    ("rule", "why", "matched", "error"),
    [
        *((rule, "", True, False) for rule in TRUE_RULES),
        *((rule, "", False, False) for rule in FALSE_RULES),
        *((*rule, False, False) for rule in MISSING_RULES),
        *((*rule, False, True) for rule in FAILING_RULES),
    ],
)
def test_expression_matches_or_fails_with_a_reason(rule: str, why: str, matched: bool, error: bool) -> None:
    found = verdict(rule)
    assert (found.matched, found.error) == (matched, error), found.why
    assert why in found.why


def test_failures_are_counted_by_route() -> None:
    router = Router([route("broken", "run.output.vendor > 1"), route("fine", "run.status == 'completed'")])

    router.match(view())
    router.match(view())

    assert router.failures == {"broken": 2}


def test_all_rules_together_say_what_each_says_alone() -> None:
    """They share one context, so a path of one rule must not hide or show anything to another."""
    rules = [*TRUE_RULES, *FALSE_RULES, *(rule for rule, _ in MISSING_RULES + FAILING_RULES)]
    together = Router([route(f"r{index}", rule) for index, rule in enumerate(rules)]).match(view(), explain=True)

    assert [each.matched for each in together.explanations] == [verdict(rule, explain=True).matched for rule in rules]


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        ("", "is empty"),
        ('run.status = "x"', "at character 12: stray '= '; write == to compare"),
        ("run.status == “x”", "at character 15: stray '“'; write straight quotes"),
        ("run.a and run.b", "write && for and"),
        ("not run.a", "write && for and, || for or, ! for not"),
        ("run.a ==", "at character 9: it ends too early"),
        ("run.a == 1 &&\n  (run.b", "at line 2, character 9: missing ')' at the end"),
        ("status == 'x'", 'the name status is not known at character 1; write "status" for a text, run.status'),
        ("run.status == completed", 'write "completed" for a text'),
        ("rn.status == 'x'", "did you mean run?"),
        ("evnt.via == 'x'", "did you mean event?"),
        ("event.vai == 'x'", "event.vai is not known at character 1; did you mean event.via?"),
        ("event.nothing_like_it == 'x'", "an event has id, source, via"),
        ("run.a.startswith('x')", "the function startswith is not known at character 7; did you mean startsWith?"),
        ("frobnicate(run.a)", "the function frobnicate is not known at character 1; there are has, all"),
        ("optional.of(1)", "the name optional is not known"),
        ("run.a.exists(i, v, v == 1)", "the name v is not known at character 17"),
        ("run.a.exists(run, run == 1)", "choose another"),
        ("run.a.exists(e, x == 1)", "the name x is not known"),
        ("run.a.matches('(')", "'(' is not a valid pattern at character 15: unclosed group"),
        ("run.a.matches(run.b)", "matches needs a pattern in quotes"),
        (".run.a == 1", "begins a name with a dot"),
        ("run.a{b: 1}", "constructs a message"),
        ("1 + 1", "gives a number, but a rule must give true or false"),
        ("1 / 0 == 1", "always fails: division by zero"),
        ("(" * 97 + "true" + ")" * 97, "is not valid CEL"),
        ("run.a.exists(x, x == 1) && x == 2", "the name x is not known at character 28"),
        ("true" + " " * 5000, "longer than 4096 characters"),
        ("\x00", "is not valid CEL"),
    ],
)
def test_invalid_expression_is_refused_with_its_place(rule: str, problem: str) -> None:
    ((key, text),) = rule_problems(rule)
    assert key == ()
    assert problem in text


@pytest.mark.parametrize(
    ("when", "key", "problem"),
    [
        ({}, (), "is an empty mapping"),
        ({"status": []}, ("status",), "is an empty list"),
        ({"status": {}}, ("status",), "is an empty mapping"),
        ({"output..x": 1}, ("output..x",), "is not a dotted path"),
        ({"status": [["a"]]}, ("status", 0), "must be a single value"),
        ({"status": ["a", {"b": 1}]}, ("status", 1), "must be a single value"),
        ({"event.vai": "x"}, ("event.vai",), "did you mean event.via?"),
        ({"event": {"vai": "x"}}, ("event", "vai"), "did you mean event.via?"),
        ({"event": "x"}, ("event",), "an event has id"),
    ],
)
def test_a_mapping_that_can_never_work_is_refused_at_load(when: Any, key: tuple[Any, ...], problem: str) -> None:
    ((found, text),) = rule_problems(when)
    assert found == key
    assert problem in text


# --- Strangers' data


@pytest.mark.parametrize(
    "rule",
    [
        "run.output.exists(x, x == 'y')",
        "run.output.map(x, x).size() > 5",
        "run.output.filter(x, x == 'y').size() > 5",
        "run.output.exists(x, run.output.exists(y, x == y + 'z'))",
        "run.output.exists(x, x in run.output && false)",
        "run.output.exists(x, x.matches('^y{3}'))",
        "'y' in run.output",
        "size(run.output) == 3",
        "size(run) == 3",
    ],
)
def test_no_list_that_a_stranger_sends_takes_more_than_a_moment(rule: str) -> None:
    """The library's map needs 10 s for 20,000 elements; here a rule does without, or says that it is too much."""
    seen = view({**RUN, "output": ["x"] * 60_000})
    router = Router([route(when=rule)])
    started = time.thread_time()

    router.match(seen)

    assert time.thread_time() - started < 2


def test_rule_that_reads_too_much_stops_no_other() -> None:
    router = Router([route("map", "run.output.list.map(x, x).size() > 5"), route("fine", "run.output.ok == 'yes'")])

    found = router.match(view({**RUN, "output": {"list": ["x"] * 5_000, "ok": "yes"}})).explanations

    assert [each.matched for each in found] == [False, True]
    assert "it would take more than" in found[0].why


def test_a_list_in_each_element_of_a_list_is_no_square() -> None:
    invoices = [{"lines": [{"n": number} for number in range(20)]} for _ in range(100)]
    seen = view({**RUN, "output": {"invoices": invoices}})

    assert verdict("run.output.invoices.exists(i, i.lines.exists(l, l.n == 19))", seen).matched


def test_a_large_text_beside_what_a_rule_mentions_costs_nothing() -> None:
    router = Router([route(when="run.status == 'completed' && !has(run.output.absent)")])
    seen = view({**RUN, "output": {"page": "x" * 5_000_000, "list": [[1] * 10] * 10_000}})
    router.match(seen)
    started = time.thread_time()

    assert router.match(seen).targets

    assert time.thread_time() - started < 0.05


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60)
@given(output=JSON)
def test_whatever_a_run_holds_matching_never_raises(output: Any) -> None:
    router = Router(
        [
            route("cel", "run.output.total > 1000.0 || run.output.exists(x, x == 'y')"),
            route("whole", "run == run.output"),
            route("mapping", {"output.*.x": "y*", "output.0": None}),
        ]
    )
    router.match(view({**RUN, "output": output}), explain=True)


# --- Which events a route sees


@pytest.mark.parametrize(
    ("disposition", "flags", "status", "seen"),
    [
        ("new", {}, "completed", True),
        ("interim", {}, "running", False),
        ("interim", {"interim": True}, "running", True),
        ("repeat", {}, "completed", False),
        ("repeat", {"repeats": True}, "completed", True),
        ("repeat", {"repeats": True}, "running", False),
        ("repeat", {"repeats": True, "interim": True}, "running", True),
        ("superseded", {}, "completed", False),
        ("superseded", {"superseded": True}, "completed", True),
        ("superseded", {"repeats": True, "interim": True}, "completed", False),
        ("update", {}, "completed", True),
        ("update", {"updates": True, "repeats": True}, "running", False),
        ("update", {"interim": True}, "running", True),
        ("test", {"repeats": True, "interim": True, "superseded": True, "updates": True}, "completed", False),
        ("test", {"test": True}, "completed", True),
        ("new", {"test": True}, "completed", True),
        ("unreadable", {"repeats": True, "interim": True, "superseded": True}, "completed", False),
    ],
)
def test_a_route_sees_new_final_results_and_what_it_asks_for(
    disposition: str, flags: dict[str, bool], status: str, seen: bool
) -> None:
    found = Router([route(**flags)]).match(view({**RUN, "status": status}, disposition=disposition))

    assert bool(found.targets) is seen


@pytest.mark.parametrize(
    ("flags", "earlier_sinks", "sinks"),
    [
        ({}, [], ["rows", "chat", "mail"]),
        ({}, ["chat"], ["rows", "mail"]),
        ({}, ["rows"], ["rows", "chat", "mail"]),
        ({}, ["rows", "chat", "mail"], ["rows"]),
        ({}, ["another"], ["rows", "chat", "mail"]),
        ({"updates": True}, ["rows", "chat", "mail"], ["rows", "chat", "mail"]),
        ({"repeats": True}, ["rows", "chat", "mail"], ["rows", "chat", "mail"]),
        ({"superseded": True, "interim": True, "test": True}, ["rows", "chat", "mail"], ["rows"]),
    ],
)
def test_update_goes_only_to_completing_sinks(
    flags: dict[str, bool], earlier_sinks: list[str], sinks: list[str]
) -> None:
    router = Router([route(to=["rows", "chat", "mail"], **flags)], completing=["rows", "elsewhere"])

    found = router.match(view(RUN, disposition="update"), earlier_sinks=earlier_sinks)

    assert [target.sink for target in found.targets] == sinks
    assert found.explanations[0].matched


def test_update_keeps_links_to_earlier_receipts() -> None:
    to = ["chat", "log", {"sink": "mail", "after": ["chat", "log"]}]

    found = Router([route(to=to)]).match(view(RUN, disposition="update"), earlier_sinks=["chat", "log"])

    assert [(target.sink, target.after) for target in found.targets] == [("mail", ("chat", "log"))]


def test_route_with_updates_sends_to_its_sinks_again() -> None:
    router = Router([route(to=["chat"]), route("all of it", to=["chat"], updates=True)])

    (target,) = router.match(view(RUN, disposition="update"), earlier_sinks=["chat"]).targets

    assert (target.sink, target.route) == ("chat", "all of it")


def test_a_failure_of_the_webhook_only_is_routed_by_its_outcome() -> None:
    run = {**RUN, "status": "failed", "failure_reason": "Failed to send webhook. task_id=tsk_1", "errors": None}
    router = Router(
        [
            route("mapping", {"status": "completed", "original_status": "failed"}, ["a"]),
            route("cel", "run.status == 'completed' && run.original_status == 'failed'", ["b"]),
            route("failures", {"status": "failed"}, ["c"]),
        ]
    )

    assert [target.sink for target in router.match(view(run)).targets] == ["a", "b"]


# --- Targets


def test_sink_of_several_routes_gets_one_delivery() -> None:
    router = Router([route("one", to=["a", "b"]), route("two", to=["b", "c"])])

    assert router.match(view()).targets == [Target("a", "one"), Target("b", "one"), Target("c", "two")]


def test_stop_ends_matching_and_says_so() -> None:
    router = Router(
        [
            route("quiet", {"status": "failed"}, ["a"], stop=True),
            route("last", {"status": "completed"}, ["b"], stop=True),
            route("never", to=["c"]),
        ]
    )

    found = router.match(view())

    assert [target.sink for target in found.targets] == ["b"]
    assert found.explanations[2].why == "last matched and says `stop: true`"


def test_no_match_is_no_target() -> None:
    assert Router([route(when={"status": "failed"})]).match(view()).targets == []
    assert Router([]).match(view()).targets == []


def test_a_sink_waits_for_the_sinks_that_get_this_event() -> None:
    router = Router(
        [
            route("mirrored", {"output.total": 1500}, ["archive"]),
            route("told", to=[ToSink(sink="ops", after=["archive"])]),
        ]
    )
    other = view({**RUN, "output": None})

    assert router.match(view()).targets[-1] == Target("ops", "told", ("archive",))
    assert router.match(other).targets == [Target("ops", "told")], "else it would wait for ever"


WAITING_A, WAITING_B = ToSink(sink="a", after=["b"]), ToSink(sink="b", after=["a"])


@pytest.mark.parametrize(
    ("routes", "problem"),
    [
        ([route("r", to=["a", WAITING_B])], ""),
        ([route("r", to=[WAITING_B, "a"])], ""),
        ([route("r", to=["a"]), route("s", to=[WAITING_B])], ""),
        ([route("r", to=[ToSink(sink="b", after=["b"])])], "b can't wait for itself"),
        ([route("r", to=[WAITING_B])], "neither this route nor an earlier one"),
        ([route("r", to=[WAITING_B]), route("s", to=["a"])], "from the later route s"),
        ([route("r", to=[WAITING_A, WAITING_B])], "a waits for b, which waits for a"),
        (
            [route("r", to=["b"]), route("s", to=[WAITING_A]), route("t", to=[WAITING_B])],
            "a waits for b, which waits for",
        ),
        (
            [
                route("r", to=["a", "b", "c"]),
                route("s", to=[ToSink(sink=one, after=[other]) for one, other in ("ab", "bc", "ca")]),
            ],
            "a waits for b, which waits for c, which waits for a",
        ),
    ],
)
def test_sinks_may_wait_for_each_other_without_going_round(routes: list[RouteConfig], problem: str) -> None:
    found = [text for _, text in order_problems(routes)]

    assert (len(found) == 1 and problem in found[0]) if problem else found == []


# --- Explanations


def test_reasons_name_values_only_when_asked() -> None:
    rules = [{"output.vendor": "Other*"}, "run.output.vendor == 'Other'", {"output.vendor": "Acme*"}]

    for rule in rules:
        assert "Acme Ltd" not in verdict(rule).why
        assert "Acme Ltd" in verdict(rule, explain=True).why


@pytest.mark.parametrize(
    ("when", "why"),
    [
        (None, "it has no condition"),
        ({"status": ["failed", "timed_out"]}, 'status is not "failed" or "timed_out" but "completed"'),
        ({"status": "completed"}, 'status is "completed"'),
        ({"output.vendor": "Acme*"}, 'output.vendor is "Acme Ltd", wanted "Acme*"'),
        ({"output.absent": 1}, "output.absent is missing"),
        ("run.output.total > 5", "the expression is true; there: run.output.total is 1500"),
    ],
)
def test_a_reason_reads_like_a_sentence(when: Any, why: str) -> None:
    assert verdict(when, explain=True).why == why


@pytest.mark.parametrize(
    ("when", "fields"),
    [
        (None, []),
        ({"staus": "x", "output.a": 1, "event.via": "poll"}, ["staus", "output"]),
        ("run.staus == 'x' && event.via == 'y' && run.output.a > 1", ["staus", "output"]),
        ("run['odd name'] == 1 && size(run) > 1", ["odd name"]),
    ],
)
def test_the_fields_that_a_rule_mentions_are_known(when: Any, fields: list[str]) -> None:
    assert mentioned_fields(when) == fields
