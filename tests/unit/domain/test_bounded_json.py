"""Bodies that would take more memory than there is: recognized before values are built, and read in part."""

import json
import tracemalloc
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import from_json

from receiver.domain.bounded_json import OUTLINED, NoMembers, memory_of, outline, state_of, too_much
from receiver.domain.event import Event, event_id
from receiver.domain.parsed_event import parse_event
from receiver.domain.redaction import Redactor
from receiver.domain.run import parse

HEAD = b'{"run_id":"tsk_1","run_type":"task_v2","status":"completed",'
MIB = 1 << 20
LARGEST, DENSE = 15 * MIB, 9 * MIB


def many(unit: bytes, size: int) -> bytes:
    return b"[" + unit * (size // len(unit)) + b"1]"


def of(output: bytes, more: bytes = b"") -> bytes:
    return HEAD + b'"output":' + output + more + b"}"


def real(text: bytes) -> int:
    """The bytes that the values of `text` take."""
    tracemalloc.start()
    value = from_json(text, cache_strings="keys")
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    del value
    return taken


ROW = b'{"id":17,"name":"item 17","price":25.5,"in_stock":true},'
WIDE = json.dumps({f"field_{n}": n for n in range(12)}).encode() + b","


@pytest.mark.parametrize(
    "unit",
    [
        *(b"[],", b"[1],", b"[[[[]]]],", b"{},", b'{"a":1},', b'{"a":{"b":{"c":[]}}},', b'"abc",', b'"a longer text",'),
        *(b"1,", b"1234567,", b"1.5,", b"null,", b"true,", ROW, WIDE, '"größe ☃",'.encode(), '"😀😀😀",'.encode()),
        b'"[{,:}] and [{,:}] and [{,:}] in a text",',
    ],
)
def test_estimate_is_never_below_real_memory(unit: bytes) -> None:
    text = many(unit, 100_000)
    assert 0.95 * real(text) < memory_of(text, text)


@pytest.mark.parametrize(
    ("unit", "size"),
    [
        (ROW, LARGEST),
        (WIDE, LARGEST),
        (b"7,", LARGEST // 3),
        (b"1234567,", LARGEST),
        (b'"' + b"x" * LARGEST + b'",', LARGEST + 3),
        (b'"' + b'{[,:]}\\"' * 30 + b'",', LARGEST),
    ],
    ids=["rows", "wide rows", "small numbers", "numbers", "one text", "texts with brackets"],
)
def test_ordinary_body_of_largest_size_is_read_whole(unit: bytes, size: int) -> None:
    assert not too_much(many(unit, size))


@pytest.mark.parametrize("unit", [b"[],", b"{},", b'{"a":1},', b'{"":{}},'])
def test_dense_member_is_left_out_before_it_is_built(unit: bytes) -> None:
    body = of(many(unit, DENSE), b',"failure_reason":"because","title":"Invoices"')
    tracemalloc.start()
    run = parse(body)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (run.run_id, run.status, run.outcome, run.final) == ("tsk_1", "completed", "completed", True)
    assert (run.problem, run.failure_reason, run.title) == ("", "because", "Invoices")
    assert run.left_out == ("output",)
    assert run.reading_note == "output would take more than 160 MiB to be read: rules and columns lack it"
    assert peak < 4 * len(body)


def test_stand_ins_of_left_out_members_differ_as_they_do() -> None:
    output = many(b"[],", DENSE)
    one, same, other = (parse(of(output, more)) for more in (b"", b',"title":"x"', b',"outputs":{"a":1}'))
    assert one.data["output"] == same.data["output"]
    assert other.data["outputs"] == {"a": 1}
    assert parse(of(many(b"[],", DENSE + 3))).data["output"] != one.data["output"]


def test_smaller_members_of_a_dense_body_are_read() -> None:
    one, more = many(b"[],", MIB), many(b"[],", DENSE)
    run = parse(HEAD + b'"a":' + one + b',"output":' + more + b',"b":' + many(b"[],", MIB // 2) + b',"c":[1]}')
    assert run.left_out == ("output",)
    assert run.data["c"] == [1]
    assert len(run.data["a"]) > len(run.data["b"]) > 1000


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (many(b"[],", DENSE), "it is not a JSON object"),
        (of(many(b"[],", DENSE))[:-5], "it is not JSON"),
        (of(many(b"[],", DENSE), b',"a" 1'), "it is not JSON"),
        (of(b"[" * DENSE), "it is nested too deeply"),
        (of(b'{"a":' * (DENSE // 5)), "it is nested too deeply"),
    ],
    ids=["list", "cut off", "no colon", "nested lists", "nested objects"],
)
def test_dense_body_without_members_is_marked(body: bytes, problem: str) -> None:
    run = parse(body)
    assert run.problem.startswith("its values would take more than 160 MiB of memory, and " + problem)
    assert (run.data, run.left_out) == ({}, ())


def test_body_cut_off_in_a_long_text_is_marked_soon() -> None:
    body = HEAD + b'"output":"' + b'\\"' * (4 * MIB)
    assert parse(body).problem.startswith("it is not JSON")


def test_left_out_members_are_masked_in_the_text() -> None:
    secret = b'{"token":"the-secret","rest":' + many(b"[],", DENSE) + b"}"
    body = of(secret, b',"title":"x","extra":{"token":"another"}')
    event = Event(event_id("s", body), "s", body, 1.7e9)
    parsed = parse_event(event, Redactor(["**.token"]))
    assert b"the-secret" not in parsed.body
    assert b"another" not in parsed.body
    assert parsed.run.data["extra"] == {"token": "[redacted]"}
    assert len(parsed.body) > DENSE
    assert parsed.facts is not None
    assert not parsed.facts.output_null


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(max_size=12), values, max_size=8), st.sampled_from([None, 1]), st.booleans())
def test_members_are_separated_whatever_they_hold(data: dict[str, Any], indent: int | None, ascii_only: bool) -> None:
    text = json.dumps(data, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    small, large = outline(text, len(text) - 1)
    assert json.loads(small) == data
    assert not large


def test_outline_keeps_the_state_of_a_run_without_its_output() -> None:
    body = HEAD + b'"output":[' + b"[]," * 200_000 + b'[]],"failure_reason":null,"retry_pending":false}'
    assert len(body) > OUTLINED
    run = parse(state_of(body))
    assert (run.run_id, run.status, run.final, run.problem) == ("tsk_1", "completed", True, "")
    assert run.data["output"].startswith(f"[{600_004} bytes, not read; SHA-256 ")


@pytest.mark.parametrize("dense", [False, True])
def test_body_without_members_has_no_outline_if_dense(dense: bool) -> None:
    body = of(many(b"[],", DENSE if dense else OUTLINED))[:-1]
    assert state_of(body) == (b"" if dense else body)


@given(st.binary(max_size=200))
def test_any_bytes_are_split_or_refused(body: bytes) -> None:
    with suppress(NoMembers):
        outline(body, 0)
