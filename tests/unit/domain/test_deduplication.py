"""What makes a repeat: each sentence of the rule as a row, and what must hold for any body as properties."""

import itertools
import json
import random
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from receiver.domain import deduplication
from receiver.domain.deduplication import VOLATILE, Classification, Facts, classify
from receiver.domain.run import parse
from simulator import samples
from tests.support.facts import classified, event, facts

NOW = 1_790_000_000.0


def statement(**fields: Any) -> str:
    run = parse(json.dumps({"run_id": "r", "status": "completed", **fields}).encode())
    return deduplication.statement_of(run, run.data)


def a_file(sig: str = "1", **fields: Any) -> dict[str, Any]:
    return {
        "url": f"https://api.skyvern.com/v1/artifacts/a_1/content?sig={sig}", "checksum": "c1", "filename": "a.pdf",
        "file_size": 3, "modified_at": f"2026-01-01T00:00:0{sig}", "artifact_id": "a_1", **fields,
    }  # fmt: skip


A, B = a_file(filename="a.pdf"), a_file(filename="b.pdf", checksum="c2")
NOTHING: tuple[Any, ...] = (None, [], {})
HARMLESS = {"failure_reason": "Failed to send webhook. task_v2_id=tsk_v2_1"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        # signed URLs and times of delivery
        ({"modified_at": "2026-01-01T00:00:00"}, {"modified_at": "2026-01-02T00:00:00"}),
        ({"webhook_failure_reason": None}, {"webhook_failure_reason": "Webhook failed with status code 503"}),
        ({"recording_url": "https://x/?sig=1"}, {"recording_url": "https://x/?sig=2"}),
        *(
            ({"output": {"block": [{name: ["https://x/?sig=1"], "a": 1}]}}, {"output": {"block": [{"a": 1}]}})
            for name in sorted(VOLATILE)
        ),
        ({"output": {"attachment": a_file("1")}}, {"output": {"attachment": a_file("2")}}),
        # files: they count for the extent
        ({"downloaded_files": [A]}, {"downloaded_files": [A, B]}),
        ({"downloaded_files": []}, {"downloaded_files": [B]}),
        ({"output": {"block": {"n": 1}}}, {"output": {"block": {"n": 1, "downloaded_files": [A]}}}),
        ({"output": {"block": {"downloaded_files": [A]}}}, {"output": None}),
        ({"output": [{"downloaded_files": [A]}, {"n": 1}]}, {"output": [{}, {"n": 1}]}),
        # fewer keys
        ({"step_count": 3, "run_request": {"a": 1}}, {}),
        ({"output": {"a": 1}, "outputs": {"a": 1}}, {"output": {"a": 1}}),
        ({"output": {"a": 1}, "extracted_information": {"a": 1}}, {"extracted_information": {"a": 1}}),
        # absent, null, [] and {}
        *(({name: nothing}, {}) for name in ("output", "errors") for nothing in NOTHING),
        ({"failure_reason": None}, {}),
        ({"output": {"a": 1, "b": None}}, {"output": {"a": 1}}),
        ({"output": {"a": 1, "b": {"c": [], "d": {}}}}, {"output": {"a": 1}}),
        ({"output": {"b": {"c": []}}}, {"output": None}),
        ({"output": [1, None]}, {"output": [1, {}]}),
        # numbers by value
        ({"output": {"total": 1500}}, {"output": {"total": 1500.0}}),
        ({"output": [0]}, {"output": [-0.0]}),
        ({"output": [1e22]}, {"output": [10**22]}),
        # order
        ({"output": {"a": 1, "b": {"c": 2, "d": 3}}}, {"output": {"b": {"d": 3, "c": 2}, "a": 1}}),
        # correction of the status
        ({"output": [1]}, {"output": [1], "status": "failed", **HARMLESS}),
    ],
)
def test_the_same_facts_in_other_words(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert statement(**one) == statement(**other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"output": {"a": 1}}, {"output": {"a": 2}}),
        ({"output": {"a": 1}}, {"output": {"b": 1}}),
        ({"output": {"a": 1}}, {"output": {"a": "1"}}),
        ({"output": {"a": 1}}, {"output": {"a": True}}),
        ({"output": {"a": 0}}, {"output": {"a": False}}),
        ({"output": {"a": 0}}, {"output": {"a": None}}),
        ({"output": {"a": ""}}, {"output": {"a": None}}),
        ({"output": {"a": 1.5}}, {"output": {"a": 1}}),
        ({"output": 12345678901234567890}, {"output": 12345678901234567891}),
        ({"output": [1, None]}, {"output": [1]}),
        ({"output": [1, 2]}, {"output": [2, 1]}),
        ({"output": [[1], [2]]}, {"output": [[1, 2]]}),
        ({"output": "text"}, {"output": ["text"]}),
        ({"output": {"url": "https://x/1"}}, {"output": {"url": "https://x/2"}}),
        ({"output": {"filename": "a", "url": "https://x/1"}}, {"output": {"filename": "a", "url": "https://x/2"}}),
        ({"output": {"modified_at": "2026"}}, {"output": {"modified_at": "2027"}}),
        ({"failure_reason": "a"}, {"failure_reason": "b"}),
        ({"failure_reason": "a"}, {"failure_reason": None}),
        ({"errors": [{"error_code": "A"}]}, {"errors": []}),
        ({"output": {"files": [A]}}, {"output": {"files": [B]}}),
        ({"downloaded_files": [A]}, {"output": [A]}),
        ({"output": ["a"]}, {"errors": ["a"]}),
        ({"output": [1]}, {"output": [1], "status": "failed", "failure_reason": "sold out"}),
    ],
)
def test_other_facts(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert statement(**one) != statement(**other)


@pytest.mark.parametrize(
    ("fields", "null"),
    [
        ({}, True),
        *(({"output": nothing}, True) for nothing in (*NOTHING, {"a": None}, {"recording_url": "https://x"})),
        *(({"output": thing}, False) for thing in ("", "text", 0, False, [None], {"a": 1})),
        ({"output": {"block": {"downloaded_files": [A]}}}, False),
        ({"output": None, "outputs": {"a": 1}}, False),
        ({"output": None, "extracted_information": [1]}, False),
    ],
)
def test_output_that_says_nothing_is_null(fields: dict[str, Any], null: bool) -> None:
    run = parse(json.dumps({"run_id": "r", "status": "completed", **fields}).encode())

    assert deduplication.has_no_output(run.data) is null


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            b'{"run_id":"r","status":"completed","output":{"total":17.5,"lines":[{"n":1,"name":"Bolt"}]}}',
            "45645ea31e5b8720936d86c42c759147",
        ),
        (
            rb'{"run_id":"r","status":"failed","failure_reason":"sold out","errors":[],"output":{"n":1500.0,"a":null}}',
            "b90a5cef2a0a47a093c805c36b84798c",
        ),
        (
            rb'{"run_id":"r","status":"completed","outputs":{"t":"\u00e9","downloaded_files":["https://x/f?sig=1"]}}',
            "2a345db2798cf7bcae5a4685e6719ff2",
        ),
    ],
)
def test_statements_stay_what_ledgers_have(body: bytes, expected: str) -> None:
    run = parse(body)

    assert deduplication.statement_of(run, run.data) == expected


# --- What an event is, given those before it


NOTE = re.compile(r"([fxr]?)([A-Z])([\d.]*)(-?)(~?)(?:/(\d))?")
STATUSES = {"": "completed", "f": "failed", "x": "canceled", "r": "running"}


def noted(note: str) -> Facts:
    """Return the event of "xB2-~/3": canceled, says B, modified at 2, null output, retry pending, attempt 3.

    Without a letter in front it is completed (f: failed, r: running); without a number its time is unknown.
    """
    found = NOTE.fullmatch(note)
    assert found
    status, says, at, null, pending, attempt = found.groups()
    more = {"attempt": int(attempt or 1), "status": STATUSES[status], "pending": bool(pending), "null": bool(null)}
    return event(says, float(at) if at else None, **more)


WHAT_EVENTS_ARE = {
    "the first final event is new": ("A1", "new"),
    "the first event of a run that goes on is interim": ("rA1", "interim"),
    "the same again": ("A1 A1", "new repeat:1"),
    "modified_at never tells a repeat": ("A1 A5", "new repeat:1"),
    "the same, older": ("A5 A1", "new repeat:1"),
    "other facts, newer": ("A1 B2", "new new"),
    "other facts at the same instant": ("A1 B1", "new new"),
    "other facts, older": ("B2 A1", "new superseded"),
    "the older one again": ("B2 A1 A1", "new superseded repeat:2"),
    "A, B, A": ("A1 B2 A3", "new new new"),
    "A, B and the first A again": ("A1 B2 A1", "new new repeat:1"),
    "an A sent again before B": ("A1 B3 A2", "new new repeat:1"),
    "an A not newer than B": ("A1 B2 A2", "new new repeat:1"),
    "A, B, A, B and both again": ("A1 B2 A3 B4 B5 A3", "new new new new repeat:2 repeat:1"),
    "a repeat shows that the run is there": ("A1 A5 B3", "new repeat:1 superseded"),
    "another attempt": ("A1 A1/2", "new new"),
    "an earlier attempt, however new": ("A1/2 A9", "new superseded"),
    "another status": ("A1 fA1", "new new"),
    "the retry was called off": ("fA1~ fA2", "interim new"),
    "the retry was called off, sent in the wrong order": ("fA2 fA1~", "new superseded"),
    "a retry policy's series": ("fA1~ fA2~/2 fA2.5~/2 B3/3 B4/3", "interim interim repeat:2 new repeat:4"),
    "a series sent backwards": ("B3/2 fA1~", "new superseded"),
    "a second call to cancel adds nulls": ("xA1- xB2 xA3-", "new new repeat:1"),
    "nulls never replace output": ("xB2 xA3-", "new superseded"),
    "other output replaces output": ("xA1- xB2 xC3- xD4", "new new superseded new"),
    "output is new, though a null came after it": ("xA3- xB2", "new new"),
    "output that a null did not take away is no news when it is sent again": (
        "xA3- xB2 xB5 xA6-",
        "new new repeat:2 repeat:1",
    ),
    "the time of a null makes no later output a thing of the past": ("xA1- xB2 xA9- xC4", "new new repeat:1 new"),
    "output where the run had none": ("xA3- B2", "new late"),
    "of an earlier attempt, none in this": ("A3-/2 B2", "new late"),
    "output of no result": ("A3- rB2", "new superseded"),
    "nulls of another status are new": ("A1 xB2-", "new new"),
    "nulls of another attempt are new": ("A1 B2-/2", "new new"),
    "nulls at the end of a series are its result": ("fA1~ fB2-", "interim new"),
    "a running event never hides a result": ("rR9 A5", "interim new"),
    "running, before the end": ("A5 rR4", "new superseded"),
    "the end wins a tie": ("A5 rR5", "new superseded"),
    "the same without modified_at": ("A A", "new repeat:1"),
    "not known to be older is not superseded": ("A5 B", "new new"),
    "nothing is older than an unknown time": ("A B1", "new new"),
    "not known to be newer is a repeat": ("A1 B2 A", "new new repeat:1"),
}


@pytest.mark.parametrize("name", WHAT_EVENTS_ARE)
def test_what_an_event_is(name: str) -> None:
    events, expected = WHAT_EVENTS_ARE[name]
    verdicts = classified([*map(noted, events.split())])
    shown = ["late" if v.late else v.disposition + (f":{v.repeat_of}" if v.repeat_of else "") for v in verdicts]
    assert " ".join(shown) == expected


# --- Whole bodies


def classify_bodies(*bodies: bytes) -> list[str]:
    return [verdict.disposition for verdict in classified([facts("", parse(body)) for body in bodies])]


@pytest.mark.parametrize("name", samples.names())
def test_any_sample_sent_again_with_fresh_urls_is_a_repeat(name: str) -> None:
    first = samples.build(name, now=NOW, run_id="r_1", artifacts="https://api.skyvern.com")
    again = samples.build(name, now=NOW + 90, run_id="r_1", artifacts="https://api.skyvern.com")
    fewer = {key: value for key, value in json.loads(again).items() if value not in (None, [])}
    fewer.update(step_count=None, webhook_failure_reason="")
    for key in ("run_request", "webhook_callback_url", "totp_identifier", "outputs", "extracted_information"):
        fewer.pop(key, None)

    assert first != again
    assert classify_bodies(first, again, json.dumps(fewer).encode())[1:] == ["repeat", "repeat"]


def test_a_completed_run_whose_webhook_failed_is_new_once() -> None:
    completed = samples.build("task_v2.completed", now=NOW, run_id="tsk_v2_1")
    tangled = samples.build("task_v2.undelivered", now=NOW + 5, run_id="tsk_v2_1")

    assert classify_bodies(completed, tangled) == ["new", "repeat"]
    assert classify_bodies(tangled, completed) == ["new", "repeat"]


# --- Properties

scalars = st.booleans() | st.integers(-(10**25), 10**25) | st.floats(-1e9, 1e9) | st.text(max_size=6)
outputs = st.recursive(
    st.none() | scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["a", "b", "url", "filename", "checksum", "downloaded_files", "x"]), inner, max_size=5
        )
        | st.just({"downloaded_files": [A, B]})
    ),
    max_leaves=15,
)


def reworded(value: Any, chance: random.Random, key: str = "") -> Any:
    """`value` as Skyvern might send it another time."""
    if isinstance(value, dict):
        fields = [(name, reworded(item, chance, name)) for name, item in value.items()]
        fields = [(name, item) for name, item in fields if item not in (None, [], {}) or chance.random() < 0.5]
        if {"url", "checksum", "filename"} <= set(value):
            fields = [(name, item) for name, item in fields if name not in ("url", "modified_at")]
            fields += [("url", str(chance.random())), ("modified_at", str(chance.random()))]
            fields += [(n, v) for n, v in (("checksum", None), ("filename", None)) if n not in dict(fields)]
        for name in sorted(VOLATILE):
            if chance.random() < 0.3:
                fields.append((name, [f"https://x/?sig={chance.random()}"]))
        if chance.random() < 0.5:
            fields.append(("nothing", chance.choice([None, [], {}, {"deeper": {}}])))
        chance.shuffle(fields)
        return dict(fields)
    if isinstance(value, list):
        items = [reworded(item, chance) for item in value]
        if key == "downloaded_files":
            chance.shuffle(items)
        return items
    if type(value) is float and value.is_integer() and chance.random() < 0.5:
        return int(value)
    if type(value) is int and abs(value) < 2**53 and chance.random() < 0.5:
        return float(value)
    return chance.choice([None, [], {}]) if value is None else value


@given(outputs, st.randoms(use_true_random=False))
def test_statement_does_not_depend_on_wording(output: Any, chance: random.Random) -> None:
    assert statement(output=output) == statement(output=reworded(output, chance))


@given(outputs, scalars, scalars)
def test_changed_value_changes_the_statement(around: Any, one: Any, other: Any) -> None:
    same = one == other and (type(one) is bool) == (type(other) is bool)

    assert (statement(output=[around, {"v": one}]) == statement(output=[around, {"v": other}])) == same


events = st.builds(
    event, says=st.sampled_from("ABC"), at=st.none() | st.integers(1, 4), attempt=st.integers(1, 2),
    status=st.sampled_from(["completed", "failed", "canceled", "running"]), pending=st.booleans(), null=st.booleans(),
)  # fmt: skip


@given(st.lists(events, max_size=6), events)
def test_an_event_sent_twice_in_a_row_is_a_repeat(before: list[Facts], last: Facts) -> None:
    verdicts = classified([*before, last, last])

    assert verdicts[-1].disposition == "repeat"
    assert verdicts[-1].repeat_of is not None
    assert verdicts[int(verdicts[-1].repeat_of) - 1].disposition != "repeat"


@given(st.lists(events, max_size=7))
def test_only_final_events_are_new_and_only_others_are_interim(arrived: list[Facts]) -> None:
    for each, verdict in zip(arrived, classified(arrived), strict=True):
        assert verdict.disposition != ("interim" if each.final else "new")
        assert (verdict.repeat_of is not None) == (verdict.disposition == "repeat")


@given(st.lists(events, max_size=5), events)
def test_null_output_never_replaces_output(before: list[Facts], new: Facts) -> None:
    given_before = [*before, new._replace(output_null=False, statement="with output", modified_at=1)]

    verdict = classified([*given_before, new._replace(output_null=True)])[-1]

    assert verdict.disposition in ("repeat", "superseded")


def test_the_newest_facts_are_new_in_whatever_order_they_come() -> None:
    sent = [event(says, at) for at, says in enumerate("ABC", 1)]
    for arrived in itertools.permutations([*sent, *sent]):
        verdicts = classified(arrived)
        new = [each.statement for each, v in zip(arrived, verdicts, strict=True) if v.disposition == "new"]
        assert new == sorted(set(new)), "each at most once, never backwards"
        assert new[-1] == "C"


def test_the_order_of_the_history_does_not_matter() -> None:
    past = [event(s, at)._replace(event_id=s, seq=n) for n, (s, at) in enumerate([("A", 1), ("B", 2), ("A", 3)], 1)]
    new = event("A", 3)._replace(event_id="new", seq=4)

    assert {classify(new, order) for order in itertools.permutations(past)} == {Classification("repeat", "A")}


# --- Whether there is output


SPECIAL = ["a", "url", "filename", "checksum", "modified_at", "downloaded_files", "recording_url", "task_screenshots"]
# Lists of nothing, objects of nothing, and what Skyvern signs anew.
nothings = st.recursive(
    st.none() | st.just([]) | st.sampled_from(["", 0, False, 1.0, "text"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(SPECIAL), inner, max_size=5),
)


@given(nothings | outputs)
@example({"url": "u", "checksum": None, "filename": None, "modified_at": "m"})
@example({"url": "u", "checksum": None, "filename": None, "rest": {"url": "u"}})
@example({"downloaded_files": {"a": None}})
@example({"downloaded_files": [None]})
def test_missing_output_leaves_the_statement_as_without_it(output: Any) -> None:
    if deduplication.has_no_output({"output": output}):
        assert statement(output=output) == statement()
    elif "downloaded_files" not in json.dumps(output):
        assert statement(output=output) != statement()


def test_output_is_looked_for_as_deep_as_a_body_goes() -> None:
    deep = parse(b'{"run_id":"r","status":"completed","output":' + b'{"a":' * 390 + b"{}" + b"}" * 391)
    assert deep.data

    assert deduplication.has_no_output(deep.data)


# --- Output that may still come


@pytest.mark.parametrize(
    ("events", "may"),
    [
        ("", False),
        ("xA1-", True),
        ("xA1- xA2-", True),
        ("xA1", False),
        ("xA1- xB2", False),
        ("A1-", False),
        ("rA1-", False),
        ("xA1- A2-", False),
        ("fA1~ xB2-", True),
        # Of an earlier attempt nothing more is to come, and what an earlier one brought is not this one's.
        ("xA1- rA2-/2", False),
        ("A1 xB2-/2", True),
    ],
)
def test_only_cancelled_runs_may_lack_output(events: str, may: bool) -> None:
    assert deduplication.may_lack_output([*map(noted, events.split())]) is may
